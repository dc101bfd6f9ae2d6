"""The folder of batch files. Several processes of one server may share it: every record is one JSON file,
which is replaced as a whole, and what is read is what is on the disk."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from ...runtime.errors import InputError
from ..errors import ApiError
from .records import Batch, StoredFile

KEPT_S = 30 * 24 * 3600
"""Files and batches that say nothing else are kept for this long."""
ID = re.compile(r"(?:file-|batch_)[0-9a-f]{32}")
FILES, BATCHES = "files", "batches"

Record = TypeVar("Record", StoredFile, Batch)
_READERS: dict[type[Any], TypeAdapter[Any]] = {kind: TypeAdapter(kind) for kind in (StoredFile, Batch)}


def now() -> int:
    return int(time.time())


class Store:
    """Raises InputError for a folder that cannot be written.

    Args:
        most: bytes of all files together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder = folder
        self.most = most
        try:
            for name in (FILES, BATCHES):
                (folder / name).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise InputError(
                f"--batch-folder {folder} cannot be written ({error.strerror}); name a folder that can"
            ) from error

    def used(self) -> int:
        """Bytes of all files, those included that are being written."""
        with os.scandir(self.folder / FILES) as entries:
            total = 0
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    total += entry.stat().st_size
            return total

    # Files

    def add(self, content: bytes, filename: str, *, kept_s: int = KEPT_S) -> StoredFile:
        """Stores an uploaded file. Raises ApiError (413) where there is no room for it."""
        self.sweep()
        if self.used() + len(content) > self.most:
            raise ApiError(
                413,
                f"batch files may take {self.most} bytes together, and there is no room for {len(content)} "
                "more; delete files that are not needed any more, or raise --max-batch-bytes on the server",
            )
        identifier, created = f"file-{uuid.uuid4().hex}", now()
        self.content_path(identifier).write_bytes(content)
        file = StoredFile(
            id=identifier, bytes=len(content), created_at=created, expires_at=created + kept_s,
            filename=filename, purpose="batch",
        )  # fmt: skip
        self._write(FILES, file)
        return file

    def publish(self, identifier: str, filename: str) -> None:
        """Shows a file whose content the server itself has written."""
        created = now()
        size = self.content_path(identifier).stat().st_size
        file = StoredFile(
            id=identifier, bytes=size, created_at=created, expires_at=created + KEPT_S, filename=filename,
            purpose="batch_output",
        )  # fmt: skip
        self._write(FILES, file)

    def file(self, identifier: str) -> StoredFile:
        """Raises ApiError (404)."""
        file = self._read(FILES, identifier, StoredFile)
        if file is None or file.expires_at <= now():
            raise ApiError(404, f"No such File object: {identifier[:100]}", param="id")
        return file

    def files(self) -> list[StoredFile]:
        """The newest first."""
        moment = now()
        records = (self._read(FILES, name, StoredFile) for name in self._names(FILES))
        return _newest(file for file in records if file is not None and file.expires_at > moment)

    def content_path(self, identifier: str) -> Path:
        return self.folder / FILES / f"{identifier}.jsonl"

    def delete(self, identifier: str) -> None:
        """Raises ApiError: 404 for no file, 400 for one that a batch still reads."""
        self.file(identifier)
        if identifier in self._read_now():
            raise ApiError(400, f"{identifier} is read by a batch that is not over; cancel the batch first")
        self._remove(identifier)

    def _remove(self, identifier: str) -> None:
        for path in (self.folder / FILES / f"{identifier}.json", self.content_path(identifier)):
            path.unlink(missing_ok=True)

    def _read_now(self) -> set[str]:
        return {batch.input_file_id for batch in self.batches() if not batch.is_over}

    # Batches

    def put(self, batch: Batch) -> None:
        """Stores a batch, in place of the one of its id."""
        self._write(BATCHES, batch)

    def batch(self, identifier: str) -> Batch:
        """Raises ApiError (404)."""
        batch = self._read(BATCHES, identifier, Batch)
        if batch is None:
            raise ApiError(404, f"No such batch: {identifier[:100]}", param="id")
        return batch

    def batches(self) -> list[Batch]:
        """The newest first."""
        records = (self._read(BATCHES, name, Batch) for name in self._names(BATCHES))
        return _newest(batch for batch in records if batch is not None)

    def ask_to_cancel(self, identifier: str) -> None:
        """Leaves a mark that the process which works on the batch reads."""
        self._mark(identifier).touch()

    def cancel_moment(self, identifier: str) -> int | None:
        """When it was asked for; None: it was not."""
        try:
            return int(self._mark(identifier).stat().st_mtime)
        except FileNotFoundError:
            return None

    def _mark(self, identifier: str) -> Path:
        return self.folder / BATCHES / f"{identifier}.cancel"

    def sweep(self) -> None:
        """Deletes what is kept no longer."""
        moment, in_use = now(), self._read_now()
        for name in self._names(FILES):
            file = self._read(FILES, name, StoredFile)
            if file is not None and file.expires_at <= moment and file.id not in in_use:
                self._remove(file.id)
        for batch in self.batches():
            if batch.is_over and batch.created_at + KEPT_S <= moment:
                for path in (self.folder / BATCHES / f"{batch.id}.json", self._mark(batch.id)):
                    path.unlink(missing_ok=True)

    # Records

    def _names(self, room: str) -> list[str]:
        return [path.stem for path in (self.folder / room).glob("*.json")]

    def _read(self, room: str, identifier: str, kind: type[Record]) -> Record | None:
        """None for a record that is not there; an id is a client's own text, and never a path."""
        if not ID.fullmatch(identifier):
            return None
        try:
            return _READERS[kind].validate_json((self.folder / room / f"{identifier}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _write(self, room: str, record: StoredFile | Batch) -> None:
        final = self.folder / room / f"{record.id}.json"
        with tempfile.NamedTemporaryFile(dir=final.parent, suffix=".partial", delete=False) as partial:
            partial.write(orjson.dumps(asdict(record)))
        Path(partial.name).replace(final)


def _newest(records: Iterator[Record]) -> list[Record]:
    return sorted(records, key=lambda record: (record.created_at, record.id), reverse=True)

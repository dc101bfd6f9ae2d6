"""Works batches off, one after another, in the event loop: each line is a request of its own, and results are
written in the order of the lines.

What is written is what is done. After a stop or a kill the lines of the two files of results are counted, and
the work goes on behind them. Of several processes with one folder the one that holds its lock works.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from . import lines
from .asking import Asking
from .records import Batch, BatchError, BatchErrors, Counts
from .store import Store, now

MOST_LINES = 50_000
"""Requests of one batch, as at OpenAI."""
ABREAST = 16
"""Requests that run at the same time: enough for full batches of the engine, few beside other clients'."""
LOOK_S = 1.0
"""Time between two looks for batches that another process was given."""
MOST_WAIT_S = 30.0
"""The longest wait for a queue that is full."""
BUSY = (429, 503)

log = logging.getLogger("poolrt.serve")


class Stopped(Exception):
    """The batch ends before its last line."""

    def __init__(self, batch: Batch, line: lines.LineError) -> None:
        super().__init__(str(line))
        self.batch = batch
        self.line = line


class Runner:
    """Runs the batches of a folder while its task lives."""

    def __init__(self, store: Store, asking: Asking) -> None:
        self._store = store
        self._asking = asking
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There is a new batch, or one is to be cancelled."""
        self._woken.set()

    async def run(self) -> None:
        """Never returns; cancel its task. What a batch lacks then is done by the next call."""
        with contextlib.ExitStack() as held:
            while not await asyncio.to_thread(_locked, self._store.folder / ".lock", held):
                await asyncio.sleep(LOOK_S)
            while True:
                self._woken.clear()
                for batch in await asyncio.to_thread(self._unfinished):
                    await self._work(batch)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), LOOK_S)

    def _unfinished(self) -> list[Batch]:
        """The oldest first."""
        return [batch for batch in reversed(self._store.batches()) if not batch.is_over]

    async def _work(self, batch: Batch) -> None:
        try:
            await self._finish(await self._answered(batch))
        except Stopped as stop:
            await self._end_early(stop)
        except Exception:  # such as a disk that is full: later batches go on
            log.exception("%s failed", batch.id)
            with contextlib.suppress(OSError):
                self._fail(batch, "internal_error", "the server failed; its log says why")

    async def _answered(self, batch: Batch) -> Batch:
        """Every line answered. Raises Stopped, and OSError."""
        path = self._store.content_path(batch.input_file_id)
        try:
            total = await asyncio.to_thread(_count, path)
        except FileNotFoundError:
            raise Stopped(batch, lines.LineError("file_not_found", "the input file is gone")) from None
        if not 0 < total <= MOST_LINES:
            code = "too_many_requests" if total else "empty_file"
            text = f"the input file has {total} requests, expected 1 to {MOST_LINES}"
            raise Stopped(batch, lines.LineError(code, text))
        output, errors = outputs(batch)
        with (
            _appending(self._store.content_path(output)) as good,
            _appending(self._store.content_path(errors)) as bad,
            path.open("rb") as source,
        ):
            counts = Counts(total=total, completed=_written(good), failed=_written(bad))
            begun = batch.in_progress_at or now()
            batch = replace(batch, status="in_progress", in_progress_at=begun, request_counts=counts)
            self._store.put(batch)
            seen: set[str] = set()
            todo = _requests(source)
            for line in itertools.islice(todo, counts.completed + counts.failed):
                with contextlib.suppress(lines.LineError):  # it was written before
                    lines.read(line, batch.endpoint, seen)
            while group := list(itertools.islice(todo, ABREAST)):
                self._check(batch)
                results = await asyncio.gather(*(self._result(batch, line, seen) for line in group))
                for is_good, result in results:
                    file = good if is_good else bad
                    file.write(result)
                    file.flush()  # in the order of the lines, so that what a kill leaves is their beginning
                passed = sum(is_good for is_good, _ in results)
                counts = replace(
                    counts,
                    completed=counts.completed + passed,
                    failed=counts.failed + len(results) - passed,
                )
                batch = replace(batch, request_counts=counts)
                self._store.put(batch)
        return batch

    def _check(self, batch: Batch) -> None:
        """Raises Stopped for a batch that is to end now."""
        if self._store.cancel_moment(batch.id) is not None:
            raise Stopped(batch, lines.LineError("batch_cancelled", "the batch was cancelled"))
        if now() >= batch.expires_at:
            raise Stopped(batch, lines.LineError("batch_expired", "the batch was not done in its window"))
        if self._store.used() > self._store.most:
            text = "batch files take more bytes than --max-batch-bytes; delete some, and ask again"
            raise Stopped(batch, lines.LineError("storage_full", text))

    async def _result(self, batch: Batch, line: bytes, seen: set[str]) -> tuple[bool, bytes]:
        """Whether a line was answered with 200, and the line of its result."""
        try:
            request = lines.read(line, batch.endpoint, seen)
        except lines.LineError as error:
            return False, lines.failed(error)
        request_id = uuid.uuid4().hex
        while True:
            answered = await self._asking.post(batch.endpoint, request.body, request_id)
            if answered.status not in BUSY or now() >= batch.expires_at:
                break
            wait = answered.headers.get("retry-after", "1")
            await asyncio.sleep(min(float(wait) if wait.isdecimal() else 1.0, MOST_WAIT_S))
        if not answered.headers.get("content-type", "").startswith("application/json"):
            text = "the response is no JSON; ask for encoding_format float or base64"
            return False, lines.failed(lines.LineError("invalid_response", text, request.custom_id))
        result = lines.responded(request, answered.status, answered.content, request_id)
        return answered.status == 200, result

    async def _finish(self, batch: Batch) -> None:
        self._store.put(replace(batch, status="finalizing", finalizing_at=now()))
        self._ended(replace(batch, status="completed", finalizing_at=now(), completed_at=now()))

    async def _end_early(self, stop: Stopped) -> None:
        batch, code = stop.batch, stop.line.code
        if code == "batch_cancelled":
            moment = self._store.cancel_moment(batch.id)
            ended = replace(batch, status="cancelled", cancelling_at=moment, cancelled_at=now())
            self._ended(ended)
        elif code == "batch_expired":
            self._ended(replace(batch, status="expired", expired_at=now()))
        else:
            self._fail(batch, code, str(stop))

    def _fail(self, batch: Batch, code: str, text: str) -> None:
        errors = BatchErrors(data=(BatchError(code=code, message=text),))
        self._ended(replace(batch, status="failed", failed_at=now(), errors=errors))

    def _ended(self, batch: Batch) -> None:
        """Shows the files of results that hold something, and the batch."""
        published: list[str | None] = []
        for identifier, kind in zip(outputs(batch), ("output", "error"), strict=True):
            path = self._store.content_path(identifier)
            if path.exists() and path.stat().st_size:
                self._store.publish(identifier, f"{batch.id}_{kind}.jsonl")
                published.append(identifier)
            else:
                path.unlink(missing_ok=True)
                published.append(None)
        output, errors = published
        self._store.put(replace(batch, output_file_id=output, error_file_id=errors))
        counts = batch.request_counts
        log.info(
            "%s %s: %d of %d, %d failed",
            batch.id,
            batch.status,
            counts.completed,
            counts.total,
            counts.failed,
        )


def outputs(batch: Batch) -> tuple[str, str]:
    """The ids of the files of a batch's answers and errors: always the same, so that a killed server finds
    them again."""
    space = uuid.UUID(batch.id.removeprefix("batch_"))
    first, second = (f"file-{uuid.uuid5(space, kind).hex}" for kind in ("output", "error"))
    return first, second


def _requests(source: BinaryIO) -> Iterator[bytes]:
    return (line for line in source if not line.isspace())


def _count(path: Path) -> int:
    with path.open("rb") as source:
        return sum(1 for _ in _requests(source))


@contextlib.contextmanager
def _appending(path: Path) -> Iterator[BinaryIO]:
    """The file, open behind its last whole line. A line that a kill cut off is written again."""
    with path.open("a+b") as file:
        file.seek(0)
        whole = 0
        for line in file:
            if line.endswith(b"\n"):
                whole += len(line)
        file.truncate(whole)
        file.seek(0, os.SEEK_END)
        yield file


def _written(file: BinaryIO) -> int:
    """The lines of a file, which stays open at its end."""
    file.seek(0)
    return sum(1 for _ in file)


def _locked(path: Path, held: contextlib.ExitStack) -> bool:
    """Whether this process got the lock, which the kernel gives back when the process ends. Where there are
    no such locks, as on Windows, one process is all there is."""
    try:
        import fcntl
    except ImportError:
        return True
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return False
    held.enter_context(file)
    return True

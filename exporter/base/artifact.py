"""Writes an artifact folder so that an unfinished one can never be loaded.

Files are written to `OUT/.NAME.partial`. The last of them is `manifest.json`, which names every file with its
size and sha256. Then the folder takes its final name in one rename, or in one exchange where an artifact of
that name exists. A crash, SIGKILL included, leaves at most a `.partial` folder without a manifest. The next
export of that name removes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact import manifest as contract
from ...runtime.artifact.digests import sha256
from ...runtime.artifact.manifest import File, Manifest
from ...runtime.artifact.reading import sealed
from ...runtime.errors import InputError
from ...runtime.store.home import NAME
from ...runtime.store.locking import locked
from ...runtime.store.placing import put_in_place, remove, sync

GOLDEN = "golden.npz"


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that is being written: put files into `folder`, then `commit` a manifest."""

    folder: Path
    final: Path
    hashed: dict[str, str] = field(default_factory=dict)
    """File -> its sha256, for files that were hashed while they were written."""

    def commit(self, manifest: Manifest) -> Path:
        """Hashes every file, writes the manifest, syncs all to disk and gives the folder its final name.

        Returns the final folder.
        """
        files = {}
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            files[name] = File(size=path.stat().st_size, sha256=self.hashed.get(name) or sha256(path))
            sync(path)
        assert contract.FILE not in files, (
            f"{self.folder}: a manifest was written before the artifact was complete"
        )
        target = self.folder / contract.FILE
        target.write_bytes(sealed(replace(manifest, files=files)))
        for path in (target, *(path for path in self.folder.rglob("*") if path.is_dir()), self.folder):
            sync(path)
        put_in_place(self.folder, self.final)
        sync(self.final.parent)
        return self.final


@contextmanager
def draft(out: str | Path, name: str) -> Iterator[Draft]:
    """Opens `OUT/.NAME.partial` for one writer, and removes at the end what is left there.

    Raises InputError for a name that is not a plain folder name, and while another export of that name is
    running.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            f"artifact name {name!r}: use letters, digits, '.', '_' and '-', "
            "first a letter or digit (--name)",
            field="name",
        )
    home = Path(out)
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{home}: not a folder that can be written to ({error.strerror}); choose another with --out",
            field="out",
        ) from None
    if (home / name).exists() and not (home / name / contract.FILE).is_file():
        raise InputError(
            f"{home / name}: exists and is not an artifact, so it is not replaced; "
            "remove it or choose --name",
            field="name",
        )
    busy = f"{name!r} is being exported into {home} by another process; wait for it or choose --name"
    with locked(home / f".{name}.lock", busy):
        folder = home / f".{name}.partial"
        remove(folder)  # of an export that was killed
        folder.mkdir()
        try:
            yield Draft(folder, home / name)
        finally:
            remove(folder)


def write_golden(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays by name. Refuses object arrays, which need pickle to be read again."""
    assert all(array.dtype != object for array in arrays.values()), (
        "golden arrays must be readable without pickle"
    )
    with (folder / GOLDEN).open("wb") as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]


def read_golden(folder: Path) -> dict[str, NDArray[Any]]:
    with np.load(folder / GOLDEN, allow_pickle=False) as golden:
        return {name: golden[name] for name in golden.files}

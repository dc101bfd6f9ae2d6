"""An artifact on its way into the store: every file compared with the manifest, which comes last.

Files arrive in `.NAME.partial/parts` under their sha256, so that a later attempt goes on with what is there
and can mix no two versions. Checked ones move to `.NAME.partial/whole`, which takes the artifact's name in
one step. Nothing there can be found by a name before that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from ..artifact import reading
from ..artifact.digests import sha256
from ..artifact.manifest import FILE, File, Manifest
from ..errors import ArtifactError
from . import home
from .placing import put_in_place, remove, sync
from .sources import Source

MOST_FILES = 10_000
"""Files of one artifact; a manifest that lists more is refused."""
SPARE_BYTES = 64 << 20
"""What stays free on the disk."""

Say = Callable[[str], None]


def check_listed(where: str, manifest: Manifest) -> None:
    """Raises ArtifactError for a manifest whose paths leave the folder, cover each other or are endless."""
    names = manifest.files
    problems = [f"{name!r}: the path leaves the folder" for name in names if not reading.is_inside(name)]
    problems += [f"{name}: {file.size} bytes" for name, file in names.items() if file.size < 0]
    problems += [
        f"{name}: its sha256 is none"
        for name, file in names.items()
        if len(file.sha256) != 64 or not set(file.sha256) <= set("0123456789abcdef")
    ]
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    problems += [f"{name}: a file and a folder" for name in names if name in folders]
    problems += [f"{name}: the manifest itself" for name in names if name.lower() == FILE]
    if len(names) > MOST_FILES:
        problems = [f"lists {len(names)} files, more than {MOST_FILES}"]
    if problems:
        raise ArtifactError(f"{where}: {'; '.join(problems[:5])}; no such artifact is taken in")


class Arrival:
    """One artifact that arrives in `draft`, whose lock the caller holds."""

    def __init__(
        self, source: Source, manifest: Manifest, text: bytes, draft: Path, final: Path, say: Say
    ) -> None:
        self.source, self.manifest, self.text, self.final, self.say = source, manifest, text, final, say
        self.draft, self.parts, self.whole = draft, draft / "parts", draft / "whole"

    def run(self) -> Path:
        """Brings what is missing, and puts the artifact in its place. What has come stays where it fails.
        Raises ArtifactError, OSError."""
        self.parts.mkdir(parents=True, exist_ok=True)
        self.whole.mkdir(exist_ok=True)
        (self.whole / FILE).unlink(missing_ok=True)
        self._drop_others()
        missing = {name: file for name, file in self.manifest.files.items() if not self._is_there(name, file)}
        self._check_room(missing)
        for name, file in missing.items():
            self._bring(name, file)
        (self.whole / FILE).write_bytes(self.text)
        try:
            # What the sizes and digests cannot say: references of graphs that leave the folder.
            reading.read(self.whole, check="quick")
        except ArtifactError:
            remove(self.draft)
            raise
        for path in (
            self.whole / FILE,
            *(path for path in self.whole.rglob("*") if path.is_dir()),
            self.whole,
        ):
            sync(path)
        put_in_place(self.whole, self.final)
        sync(self.final.parent)
        remove(self.draft)
        return self.final

    def _drop_others(self) -> None:
        """Removes what an attempt at another version left."""
        digests = {file.sha256 for file in self.manifest.files.values()}
        for path in self.parts.iterdir():
            if path.is_file() and path.name not in digests:
                path.unlink()
        for path in [path for path in self.whole.rglob("*") if not path.is_dir()]:
            if path.relative_to(self.whole).as_posix() not in self.manifest.files:
                path.unlink()

    def _is_there(self, name: str, file: File) -> bool:
        path = self.whole / name
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size:
            return False
        return sha256(path) == file.sha256

    def _check_room(self, missing: dict[str, File]) -> None:
        needed = sum(file.size for file in missing.values())
        needed -= sum(path.stat().st_size for path in self.parts.iterdir() if path.is_file())
        free = shutil.disk_usage(self.draft).free - SPARE_BYTES
        if needed > free:
            raise ArtifactError(
                f"{self.source.address}: {megabytes(needed)} to come, and {self.final.parent} has room for "
                f"{megabytes(max(free, 0))}; make room (`poolrt prune`), or set POOLRT_HOME to another disk"
            )

    def _bring(self, name: str, file: File) -> None:
        part = self.parts / file.sha256
        target = self.whole / name
        begun = part.stat().st_size if part.exists() else 0
        if begun:
            self.say(f"{name}: going on at {megabytes(begun)} of {megabytes(file.size)}")
        else:
            self.say(f"{name}: {megabytes(file.size)}")
        if not self._copied(file, part):
            self.source.fetch(name, file.size, part, lambda _: None)
        digest = sha256(part)
        if digest != file.sha256 and begun:  # what was there already may be what is wrong
            part.unlink()
            self.source.fetch(name, file.size, part, lambda _: None)
            digest = sha256(part)
        if digest != file.sha256:
            part.unlink()
            raise ArtifactError(
                f"{self.source.address}/{name}: its sha256 is not the manifest's; it changed while it was "
                "read, or the place holds half of two versions: try again, or push it again"
            )
        sync(part)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)

    def _copied(self, file: File, part: Path) -> bool:
        """Takes a file that has arrived for another name, or that another revision or the version before has
        too."""
        twins = [
            self.whole / name for name, other in self.manifest.files.items() if other.sha256 == file.sha256
        ]
        for folder in home.revisions(self.final.name):
            with contextlib.suppress(ArtifactError, OSError):
                old = reading.described(folder / FILE, (folder / FILE).read_bytes())
                twins += [folder / name for name, other in old.files.items() if other == file]
        for twin in twins:
            with contextlib.suppress(OSError):  # another process may remove that revision meanwhile
                if not twin.is_symlink() and sha256(twin) == file.sha256:
                    shutil.copyfile(twin, part)
                    return True
        return False


def megabytes(size: int) -> str:
    """A size for people: `90.4 MB`."""
    if size < 1e6:
        return f"{size / 1e3:.0f} kB" if size >= 1e3 else f"{size} B"
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"

"""Reads an artifact folder and checks it: the manifest by its own sha256, every other file by the manifest.

ArtifactError reports all problems of a kind at once: a manifest that is missing, changed or newer; listed
files that are missing, changed, not regular or reached by a link; paths that leave the folder; external data
of an ONNX graph that is not listed.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Literal

from .. import machine
from ..errors import ArtifactError
from . import manifest as contract
from .digests import Digests, sha256
from .manifest import Manifest
from .onnx_references import MalformedGraph, is_address, references
from .records import RecordError, from_plain, to_plain

Check = Literal["full", "once", "quick"]
"""How contents are compared: the sha256 of every file, of files that changed since they were compared last,
or the sizes only."""

MOST_MANIFEST_BYTES = 16 << 20
_UNSEALED = "0" * 64
_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"\n?\s*}\s*\Z')
_AGAIN = "export it again"


@dataclass(frozen=True, slots=True)
class Artifact:
    """A checked artifact folder."""

    folder: Path
    manifest: Manifest


def sealed(manifest: Manifest) -> bytes:
    """The text of manifest.json, which holds its own sha256, so that no byte of it can change unseen."""
    plain = to_plain(replace(manifest, digest=""))
    text = json.dumps({**plain, "digest": _UNSEALED}, indent=1, ensure_ascii=False).encode() + b"\n"
    return text.replace(_UNSEALED.encode(), hashlib.sha256(text).hexdigest().encode())


def read(path: str | Path, *, check: Check = "full") -> Artifact:
    """Reads and checks the artifact at `path`. Raises ArtifactError."""
    folder = Path(path)
    manifest = _manifest(folder)
    problems = [*_inconsistencies(manifest), *_files(folder, manifest, check)]
    if not problems:
        problems = [*_external(folder, manifest)]
    if problems:
        raise ArtifactError(_message(folder, problems))
    return Artifact(folder, manifest)


def _message(path: str | Path, problems: list[str]) -> str:
    if len(problems) == 1:
        return f"{path}: {problems[0]}; copy the folder again or {_AGAIN}"
    summary = f"{path}: {len(problems)} problems; copy the folder again or {_AGAIN}"
    return "\n  ".join([summary, *problems])


def _meant(folder: Path) -> str:
    """The artifact beside it whose name is nearest, as the end of an error's text."""
    from ..command_line.spelling import choose  # only an error needs it

    names = {path.parent.name: path for path in folder.parent.glob(f"*/{contract.FILE}")}
    beside = choose(folder.name, names, fold=False)
    return beside.replace("mean ", f"mean {folder.parent}/") if len(folder.parts) > 1 else beside


def _manifest(folder: Path) -> Manifest:
    path = folder / contract.FILE
    if not folder.is_dir():
        what = "not a folder" if folder.exists() else f"no such folder{_meant(folder)}"
        raise ArtifactError(f"{folder}: {what}; an artifact is what `poolrt export` writes")
    if folder.resolve().name.endswith(".partial"):
        raise ArtifactError(f"{folder}: an export that was not finished; {_AGAIN}")
    if not path.is_file():
        hint = (
            "a checkpoint: make an artifact of it with `poolrt export`"
            if (folder / "config.json").is_file()
            else _AGAIN
        )
        raise ArtifactError(f"{folder}: no {contract.FILE}, so not a finished artifact; {hint}")
    if path.is_symlink():
        raise ArtifactError(f"{path}: a symbolic link; copy the artifact as plain files")
    if path.stat().st_size > MOST_MANIFEST_BYTES:
        raise ArtifactError(f"{path}: {path.stat().st_size} bytes, more than any manifest has; {_AGAIN}")
    return described(path, path.read_bytes())


def described(path: str | Path, text: bytes) -> Manifest:
    """The manifest of a manifest.json's bytes, checked by its own sha256. Raises ArtifactError.

    Args:
        path: where the bytes came from, for errors.
    """
    try:
        plain = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ArtifactError(
            f"{path}: not readable as JSON ({reason}); copy the folder again or {_AGAIN}"
        ) from None
    if not isinstance(plain, dict) or type(plain.get("format")) is not int:
        raise ArtifactError(f"{path}: no `format` number, so not an artifact's manifest; {_AGAIN}")
    if plain["format"] > contract.FORMAT:
        raise ArtifactError(
            f"{path}: format {plain['format']}, made by a newer poolrt; this one reads up to "
            f"{contract.FORMAT}; upgrade poolrt, or {_AGAIN} with this one"
        )
    _check_seal(path, text)
    try:
        return from_plain(Manifest, plain)
    except RecordError as error:
        if error.only_unknown:
            names = ", ".join(line.partition(":")[0] for line in error.problems)
            raise ArtifactError(
                f"{path}: made by a newer poolrt, for a runtime that knows {names}; upgrade poolrt, or "
                f"{_AGAIN} with this one"
            ) from None
        raise ArtifactError(_message(path, list(error.problems))) from None


def _check_seal(path: str | Path, text: bytes) -> None:
    seal = _DIGEST.search(text)
    if seal is None:
        raise ArtifactError(
            f"{path}: it does not end with its own sha256, so it was changed or cut; copy the "
            f"folder again or {_AGAIN}"
        )
    unsealed = text[: seal.start(1)] + _UNSEALED.encode() + text[seal.end(1) :]
    if hashlib.sha256(unsealed).hexdigest().encode() != seal[1]:
        raise ArtifactError(
            f"{path}: changed since it was written (sha256 differs); copy the folder again or {_AGAIN}"
        )


def _inconsistencies(manifest: Manifest) -> Iterable[str]:
    """Where parts of a manifest contradict each other."""
    text = manifest.text
    if not manifest.tasks:
        yield "tasks: none"
    if not manifest.graphs:
        yield "graphs: none"
    for task in manifest.tasks:
        head = manifest.heads.get(task)
        if head is None:
            yield f"heads: none for task {task!r}"
        elif any(
            head.output not in {tensor.name for tensor in graph.outputs}
            for graph in manifest.graphs
            if graph.role == "text" or (manifest.images is not None and manifest.images.apart)
        ):
            yield f"heads.{task}: a graph has no output {head.output!r}"
        elif head.dim < 1 or head.drop_first < 0 or head.drop_last < 0:
            yield f"heads.{task}: dim, drop_first or drop_last out of range"
    for role, needed in (("text", True), ("vision", manifest.images is not None)):
        if needed and manifest.graphs and not any(graph.role == role for graph in manifest.graphs):
            yield f"graphs: none of role {role!r}"
    if not 0 <= text.pad_id < text.vocab_size or text.max_tokens < 1:
        yield "text: pad_id or max_tokens out of range"
    named = [text.tokenizer, text.chat_template, text.score_template, text.tokenizer_config]
    named += [name for graph in manifest.graphs for name in (graph.file, *graph.external)]
    named += [engine.file for engine in manifest.engines]
    for name in dict.fromkeys(name for name in named if name is not None):
        if name not in manifest.files:
            yield f"{name}: used by the manifest but not listed in `files`"


def _files(folder: Path, manifest: Manifest, check: Check) -> list[str]:
    # A hard link would allow to change a graph or an engine after the check, or to have a foreign file read
    # as a model's weights.
    alone = {name for graph in manifest.graphs for name in (graph.file, *graph.external)} | {
        engine.file for engine in manifest.engines
    }

    digests = Digests(folder) if check == "once" else None

    def problem(item: tuple[str, contract.File]) -> str | None:
        name, expected = item
        return _misplaced(folder, name, alone=name in alone) or _changed(
            folder, name, expected, check, digests
        )

    # hashlib releases the GIL, so large artifacts are read as fast as the disk and the processors allow.
    with ThreadPoolExecutor(machine.cpus()) as threads:
        problems = [line for line in threads.map(problem, manifest.files.items()) if line]
    if digests is not None and not problems:
        digests.keep()
    return problems


def _misplaced(folder: Path, name: str, *, alone: bool) -> str | None:
    path = PurePosixPath(name)
    if not is_inside(name):
        return f"{name!r}: the path leaves the folder"
    parent = folder
    for part in path.parts[:-1]:
        parent = parent / part
        if parent.is_symlink():
            return f"{name}: reached through a symbolic link"
    try:
        facts = (folder / name).lstat()
    except FileNotFoundError:
        return f"{name}: missing"
    except OSError as error:
        return f"{name}: not readable ({error.strerror})"
    if stat.S_ISLNK(facts.st_mode):
        return f"{name}: a symbolic link, expected a plain file"
    if not stat.S_ISREG(facts.st_mode):
        return f"{name}: not a regular file"
    if alone and facts.st_nlink > 1:
        return (
            f"{name}: has {facts.st_nlink} hard links, expected a file of its own (copy it, do not link it)"
        )
    return None


def is_inside(name: str) -> bool:
    """Whether a path stays inside the folder on every system, without `..`, drive letters, backslashes or a
    root."""
    path = PurePosixPath(name)
    plain = bool(name) and "\0" not in name and "\\" not in name and not PureWindowsPath(name).drive
    return plain and not path.is_absolute() and ".." not in path.parts and str(path) == name


def _changed(
    folder: Path, name: str, expected: contract.File, check: Check, digests: Digests | None
) -> str | None:
    path = folder / name
    try:
        size = path.stat().st_size
        if size != expected.size:
            return f"{name}: {size} bytes, expected {expected.size}"
        if check == "quick":
            return None
        digest = sha256(path) if digests is None else digests.of(name)
        if digest != expected.sha256:
            return f"{name}: changed since it was exported (sha256 differs)"
    except OSError as error:
        return f"{name}: not readable ({error.strerror})"
    return None


def _external(folder: Path, manifest: Manifest) -> Iterable[str]:
    """Problems of the files that graphs read. The listed files must have been checked before, so that a
    listed name is known to be a plain file inside the folder."""
    for graph in manifest.graphs:
        try:
            external = references(folder / graph.file)
        except MalformedGraph as error:
            yield f"{graph.file}: {error}"
            continue
        # Locations are relative to the graph's own folder.
        home = PurePosixPath(graph.file).parent
        listed = {name: manifest.files[name].size for name in graph.external}
        reported: set[str] = set()
        for reference in external:
            name = str(home / reference.location)
            end = reference.offset + (reference.length or 0)
            if reference.location in reported:
                continue
            if is_address(reference.location):
                yield (
                    f"{graph.file}: external data at {reference.location!r}, which ONNX Runtime "
                    "reads as an address in memory"
                )
            elif not is_inside(reference.location):
                yield f"{graph.file}: external data at {reference.location!r} leaves the folder"
            elif name not in listed:
                yield f"{graph.file}: external data at {reference.location!r} is not listed for this graph"
            elif reference.offset < 0 or (reference.length or 0) < 0 or end > listed[name]:
                yield f"{graph.file}: external data beyond the end of {reference.location}"
            else:
                continue
            reported.add(reference.location)

"""The artifact of a checkpoint, from a cache that `LLM` and `poolrt serve` share.

A checkpoint is exported once, by `poolrt export` in a process of its own, so that the exporter's libraries
never enter this one.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import ArtifactError, CheckpointError, EngineError, InputError
from ..extras import MODULES
from ..machine import version
from . import other_formats
from .manifest import FILE, FORMAT

log = logging.getLogger("poolrt.checkpoints")

# The flags say all that matters: variables and files of flags are the caller's, who has read them.
BOOTSTRAP = """
import sys, types
home = sys.argv.pop(1)
sys.modules.setdefault("poolrt", types.ModuleType("poolrt")).__path__ = [home]
from poolrt.runtime.commands.cli import main
sys.exit(main(sys.argv[1:], environment={}))
"""
ADAPTER = "adapter_config.json"
CONVERSIONS = {
    "auto": None,
    "embed": "embed",
    "embedding": "embed",
    "classify": "classify",
    "score": "classify",
    "reward": "reward",
}
"""Value of `task`, as older vLLM calls it -> value of `convert`."""

Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program to its end; returns its exit code, and the reason to report if that is not 0."""


def call(program: Sequence[str]) -> tuple[int, str]:
    # Its output goes to stderr, since standard output belongs to the caller.
    return subprocess.run(program, check=False, stdout=2).returncode, "see above"


def is_artifact(argument: str | Path) -> bool:
    return (Path(argument) / FILE).is_file()


def artifact_of(argument: str, options: Sequence[str], *, cache: Path | None = None, run: Run = call) -> Path:
    """The artifact of a checkpoint folder or hub id; an artifact is returned as it is. Raises PoolrtError."""
    path = Path(argument)
    if is_artifact(path):
        return path
    inner = path / options[options.index("--subfolder") + 1] if "--subfolder" in options else path
    if inner.is_dir() and not any((inner / name).is_file() for name in ("config.json", "modules.json")):
        raise ArtifactError(
            f"{argument}: neither an artifact ({FILE} is missing) nor a checkpoint (config.json is "
            f"missing); {_present(inner)}"
        )
    if path.is_file():
        contents = other_formats.of_file(path) or "a file; give the folder of an artifact or of a checkpoint"
        raise ArtifactError(f"{argument}: {contents}")
    if not path.exists() and (argument.startswith((".", "/", "~")) or argument.count("/") > 1):
        raise ArtifactError(f"{argument}: no such folder")
    return exported(argument, options, cache=cache, run=run)


def _present(folder: Path) -> str:
    """What a folder holds and what to do with it, in words that follow the folder's name."""
    if (folder / ADAPTER).is_file():
        return (
            "it holds a LoRA adapter; serve what it was trained on, with --enable-lora "
            "--lora-modules NAME=FOLDER"
        )
    if inside := sorted(path.parent.name for path in folder.glob("*/config.json")):
        return f"folders inside it hold one; give --subfolder {' or '.join(inside[:5])}"
    names = sorted(entry.name for entry in folder.iterdir())[:5]
    return other_formats.of_folder(folder) or f"it holds {', '.join(names) or 'nothing'}"


def exported(source: str, options: Sequence[str], *, cache: Path | None = None, run: Run = call) -> Path:
    """The artifact of a checkpoint, from the cache if it was exported with the same options before. Progress
    goes to stderr. Raises CheckpointError where the export fails."""
    cache = cache or default_cache()
    adapter = options[options.index("--lora") + 1] if "--lora" in options else None
    states = [identity(source), *([] if adapter is None else [identity(adapter)])]
    # Another release may export the same files differently.
    maker = [FORMAT, version("poolrt")]
    key = hashlib.sha256(json.dumps([*states, list(options), maker]).encode()).hexdigest()[:12]
    name = f"{Path(source).name}-{key}"
    folder = cache / name
    if is_artifact(folder):
        log.info("%s: exported before", source)
        with contextlib.suppress(OSError):
            os.utime(folder)  # `poolrt prune` removes what was not used for long
        return folder
    check_exporter(source)
    what = "is a checkpoint" if adapter is None else f"with the adapter {adapter}"
    log.info("%s %s: exporting it once, to use it from then on", source, what)
    code, reason = run([*program(), "export", source, "--name", name, "--out", str(cache), *options])
    if code != 0 or not is_artifact(folder):
        error = CheckpointError(f"{source}: exporting it failed (exit code {code}): {reason}")
        error.exit_code = code or error.exit_code
        raise error
    return folder


def program() -> list[str]:
    """The `poolrt` command in a fresh interpreter, which imports the same poolrt, installed or not."""
    return [sys.executable, "-c", BOOTSTRAP, str(Path(__file__).parents[2])]


def default_cache() -> Path:
    """Where artifacts of checkpoints are kept. Raises InputError for a user without a home."""
    if stated := os.environ.get("XDG_CACHE_HOME"):
        return Path(stated) / "poolrt" / "artifacts"
    try:
        return Path.home() / ".cache" / "poolrt" / "artifacts"
    except RuntimeError:  # neither HOME nor an entry in the list of users, as in many containers
        raise InputError(
            "there is no home folder to keep exported artifacts in: set HOME or XDG_CACHE_HOME to a folder "
            "that can be written, or give poolrt serve --cache FOLDER"
        ) from None


def check_exporter(source: str) -> None:
    """Raises EngineError where the exporter's libraries are not installed, before anything is downloaded."""
    if missing := [name for name in MODULES["export"] if importlib.util.find_spec(name) is None]:
        raise EngineError(
            f"{source} is a checkpoint, and exporting it needs {', '.join(missing)}: pip install "
            "'poolrt[export]', or export it elsewhere (poolrt export) and give the artifact"
        )


def options_of(values: Mapping[str, object]) -> list[str]:
    """Command-line arguments of `poolrt export` for option -> value; None and {} are left out."""
    options: list[str] = []
    for name, value in values.items():
        if value is not None and value != {}:
            options += [
                f"--{name.replace('_', '-')}",
                value if isinstance(value, str) else json.dumps(value, sort_keys=True),
            ]
    return options


def identity(source: str) -> list[object]:
    """The state of a checkpoint folder, to compare with another: names, sizes and times of its files."""
    path = Path(source)
    if not path.is_dir():
        return [source]
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [
        str(path.resolve()),
        *([str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files),
    ]

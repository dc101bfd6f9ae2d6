"""LoRA adapters as models of their own: one that is no artifact yet is exported together with its
base's checkpoint first.

Adapters are named on the command line (`--lora-modules`) or, where the operator allows it,
by requests (adapter_loading.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...runtime.artifact import reading
from ...runtime.artifact.manifest import FILE, Manifest
from ...runtime.errors import ArtifactError, CheckpointError, InputError
from ...runtime.model import Model
from .registry import Served

SETTINGS = "adapter_config.json"
MOST_NAME = 200
GRACE_S = 1.0
"""For an export that was told to end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One adapter as it is asked for."""

    name: str
    path: str
    """Folder of an adapter or of an artifact that was exported with one; from the
    command line also a hub id."""
    base_model_name: str | None = None
    """None: the first model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    served: Served
    folder: Path
    """Its artifact."""
    source: str | None
    """Where its checkpoint can be read again; None: nobody knows."""
    options: Sequence[str]
    """What it was exported with."""


def module_of(text: str) -> Module:
    """`NAME=PATH`, or vLLM's JSON form. Raises InputError."""
    expected = """expected NAME=PATH or {"name": ..., "path": ..., "base_model_name": ...}"""
    if not text.startswith("{"):
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"--lora-modules: found {text[:60]!r}, {expected}", field="lora-modules")
        return Module(name=name, path=path)
    try:
        found: dict[str, Any] = json.loads(text)
    except ValueError:
        found = {}
    found.pop("is_3d_lora_weight", None)  # a layout of vLLM's expert kernels
    unknown = found.keys() - {"name", "path", "base_model_name"}
    texts = all(isinstance(found.get(key), str) for key in ("name", "path")) and isinstance(
        found.get("base_model_name"), str | None
    )
    if unknown or not texts:
        raise InputError(f"--lora-modules: found {text[:60]!r}, {expected}", field="lora-modules")
    return Module(**found)


class AdapterExporter:
    """Makes models of adapters; `limit` and `most_rank` are --max-loras (or
    --max-cpu-loras) and --max-lora-rank."""

    def __init__(
        self,
        bases: Sequence[Base],
        *,
        export: Callable[..., Path],
        open: Callable[[Path], Model],
        limit: int | None,
        most_rank: int | None,
    ) -> None:
        self.bases, self.limit, self._export, self._open, self._most_rank = (
            bases,
            limit,
            export,
            open,
            most_rank,
        )
        self._children: set[subprocess.Popen[str]] = set()
        self._lock, self.closed = threading.Lock(), False

    def served(self, module: Module) -> Served:
        """The adapter's model, exported where it has to be (minutes), not yet opened. Raises PoolrtError."""
        if (
            not module.name
            or not module.path
            or len(module.name) > MOST_NAME
            or not module.name.isprintable()
        ):
            raise InputError(
                f"adapter {module.name[:60]!r}: expected a name of up to {MOST_NAME} printable "
                "characters, and a path"
            )
        base = self._base(module)
        path = folder_of(module.path)
        folder = path if (path / FILE).is_file() else self._exported(module, path, base)
        self._check(
            module,
            reading.read(folder, check="quick").manifest,
            reading.read(base.folder, check="quick").manifest,
            base,
        )
        return Served(
            names=(module.name,), open=lambda: self._open(folder), parent=base.served, root=module.path
        )

    def _base(self, module: Module) -> Base:
        if module.base_model_name is None:
            return self.bases[0]
        found = next((base for base in self.bases if module.base_model_name in base.served.names), None)
        if found is None:
            known = ", ".join(name for base in self.bases for name in base.served.names)
            raise InputError(
                f"adapter {module.name!r}: its base {module.base_model_name!r} is not served; "
                f"served are {known}"
            )
        return found

    def _exported(self, module: Module, path: Path, base: Base) -> Path:
        if path.exists() and not (path / SETTINGS).is_file():
            raise ArtifactError(
                f"{module.path}: neither a LoRA adapter ({SETTINGS} is missing) nor an artifact "
                f"({FILE} is missing)"
            )
        if not path.exists() and (module.path.startswith((".", "/", "~")) or module.path.count("/") > 1):
            raise ArtifactError(f"{module.path}: no such folder")
        if path.exists():
            self._check_rank(module, _rank(path))
        if base.source is None:
            raise InputError(
                f"adapter {module.name!r}: {base.served.name} is an artifact of a folder that it does "
                "not know the place of; serve the "
                "checkpoint itself, or give an artifact in the adapter's place: poolrt export "
                f"CHECKPOINT --lora {module.path}"
            )
        return self._export(
            base.source, [*base.options, "--lora", str(path if path.exists() else module.path)], run=self._run
        )

    def _check(self, module: Module, made: Manifest, base: Manifest, of: Base) -> None:
        adapter = made.source.adapter
        if adapter is None:
            raise InputError(
                f"{module.path}: an artifact without an adapter; serve it as a model: poolrt serve ... "
                f"{module.path}"
            )
        if made.source.weights != base.source.weights:
            raise InputError(
                f"{module.path}: the adapter was merged into other weights than those of "
                f"{of.served.name}; export it with that checkpoint, "
                f"or name its base ({made.source.checkpoint}) with base_model_name"
            )
        self._check_rank(module, adapter.rank)

    def _check_rank(self, module: Module, rank: int) -> None:
        if self._most_rank is not None and rank > self._most_rank:
            raise InputError(
                f"{module.path}: rank {rank}, and --max-lora-rank allows {self._most_rank}; raise it, it "
                "costs nothing here"
            )

    def _run(self, program: Sequence[str]) -> tuple[int, str]:
        """Exports in a process that `close` can end; answers its exit code and its error message."""
        with self._lock:
            if self.closed:
                raise CheckpointError("the server is shutting down")
            child = subprocess.Popen([*program, "--json"], stdout=subprocess.PIPE, text=True)
            self._children.add(child)
        told = self._told(child)
        with self._lock:
            self._children.discard(child)
        try:
            return child.returncode, str(json.loads(told)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return child.returncode, "see above"

    def _told(self, child: subprocess.Popen[str]) -> str:
        while True:
            closed = self.closed
            try:
                return child.communicate(timeout=GRACE_S)[0]
            except subprocess.TimeoutExpired:
                # An interrupt may be lost in a library's destructor; a kill leaves nothing that loads either.
                if closed:
                    child.kill()

    def close(self) -> None:
        """Ends exports that are running; they leave nothing behind. May be called from a
        signal's handler, and twice."""
        with self._lock:
            self.closed = True
            for child in self._children:
                child.terminate()


def folder_of(path: str) -> Path:
    return Path(os.path.expanduser(path))  # Path.expanduser raises for a user that does not exist


def _rank(folder: Path) -> int:
    """The largest rank of an adapter; 0 where its settings are not readable, which
    exporting it then tells."""
    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
        return max(int(rank) for rank in (settings["r"], *(settings.get("rank_pattern") or {}).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0

"""LoRA adapters as models of their own. An adapter that is no artifact yet is first exported together with
the checkpoint of its base.

Adapters are named on the command line (`--lora-modules`) or, where the operator allows it, by requests
(adapter_loading.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...runtime.artifact import reading
from ...runtime.artifact.manifest import FILE, Manifest
from ...runtime.errors import ArtifactError, CheckpointError, InputError
from ...runtime.model import Model
from .registry import Served

SETTINGS = "adapter_config.json"
"""PEFT's file of an adapter's settings."""
MOST_NAME = 200
"""Characters of an adapter's name."""
GRACE_S = 1.0
"""Time that an export gets to end by itself before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedAdapter:
    """One adapter to serve, as the operator or a request names it."""

    name: str
    path: str
    """Folder of an adapter or of an artifact exported with one; on the command line also a hub id."""
    base_model_name: str | None = None
    """A served name of the model that it adapts; None: the first model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A served model to which adapters can be added."""

    served: Served
    folder: Path
    """The model's artifact."""
    source: str | None
    """Folder or hub id of its checkpoint; None: unknown."""
    options: Sequence[str]
    """The options of `poolrt export` that it was exported with."""


def named_adapter(text: str) -> NamedAdapter:
    """Returns the adapter of a --lora-modules value: `NAME=PATH` or vLLM's JSON form. Raises InputError."""
    expected = """expected NAME=PATH or {"name": ..., "path": ..., "base_model_name": ...}"""
    if not text.startswith("{"):
        name, equals, path = text.partition("=")
        if not equals:
            raise InputError(f"--lora-modules: found {text[:60]!r}, {expected}", field="lora-modules")
        return NamedAdapter(name=name, path=path)
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError:
        fields = {}
    fields.pop("is_3d_lora_weight", None)  # a layout of vLLM's expert kernels
    unknown = fields.keys() - {"name", "path", "base_model_name"}
    texts = all(isinstance(fields.get(key), str) for key in ("name", "path")) and isinstance(
        fields.get("base_model_name"), str | None
    )
    if unknown or not texts:
        raise InputError(f"--lora-modules: found {text[:60]!r}, {expected}", field="lora-modules")
    return NamedAdapter(**fields)


class AdapterExporter:
    """Makes models of adapters.

    Args:
        export: exports a checkpoint with options, in a process that its `run` starts; returns the folder.
        open: opens an artifact.
        limit: adapters that may be loaded (--max-loras, --max-cpu-loras); None: any number.
        most_rank: the largest rank that is accepted (--max-lora-rank); None: any.
    """

    def __init__(
        self,
        bases: Sequence[Base],
        *,
        export: Callable[..., Path],
        open: Callable[[Path], Model],
        limit: int | None,
        most_rank: int | None,
    ) -> None:
        self.bases, self.limit, self._most_rank = list(bases), limit, most_rank
        self._export, self._open = export, open
        self._children: set[subprocess.Popen[str]] = set()
        self._lock, self.closed = threading.Lock(), False

    def served(self, adapter: NamedAdapter) -> Served:
        """Returns the adapter's model, not yet opened. Exports an adapter that is no artifact first: minutes.

        Raises PoolrtError.
        """
        if (
            not adapter.name
            or not adapter.path
            or len(adapter.name) > MOST_NAME
            or not adapter.name.isprintable()
        ):
            raise InputError(
                f"adapter {adapter.name[:60]!r}: expected a name of up to {MOST_NAME} "
                "printable characters, and a path"
            )
        base = self._base(adapter)
        path = folder_of(adapter.path)
        folder = path if (path / FILE).is_file() else self._exported(adapter, path, base)
        self._check(adapter, reading.read(folder, check="quick").manifest, base)
        return Served(
            names=(adapter.name,), open=lambda: self._open(folder), parent=base.served, root=adapter.path
        )

    def rebase(self, old: Served, new: Served, folder: Path) -> None:
        """Has later adapters adapt the model that replaced a base. The checkpoint of a new artifact is known
        where it is the same, or has a hub id."""
        for index, base in enumerate(self.bases):
            if base.served is old:
                source = reading.read(folder, check="quick").manifest.source.checkpoint
                same = base.source is not None and source in (base.source, Path(base.source).name)
                kept = base.source if same else source if "/" in source else None
                self.bases[index] = replace(base, served=new, folder=folder, source=kept)

    def _base(self, adapter: NamedAdapter) -> Base:
        if adapter.base_model_name is None:
            return self.bases[0]
        for base in self.bases:
            if adapter.base_model_name in base.served.names:
                return base
        known = ", ".join(name for base in self.bases for name in base.served.names)
        raise InputError(
            f"adapter {adapter.name!r}: its base {adapter.base_model_name!r} is not "
            f"served; served are {known}"
        )

    def _exported(self, adapter: NamedAdapter, path: Path, base: Base) -> Path:
        if path.exists() and not (path / SETTINGS).is_file():
            raise ArtifactError(
                f"{adapter.path}: neither a LoRA adapter ({SETTINGS} is missing) nor an "
                f"artifact ({FILE} is missing)"
            )
        if not path.exists() and (adapter.path.startswith((".", "/", "~")) or adapter.path.count("/") > 1):
            raise ArtifactError(f"{adapter.path}: no such folder")
        if path.exists():
            self._check_rank(adapter, _rank(path))
        if base.source is None:
            raise InputError(
                f"adapter {adapter.name!r}: {base.served.name} is an artifact of a folder that it does "
                "not know the place of; serve the checkpoint itself, or give an artifact in the adapter's "
                f"place: poolrt export CHECKPOINT --lora {adapter.path}"
            )
        options = [*base.options, "--lora", str(path if path.exists() else adapter.path)]
        return self._export(base.source, options, run=self._run)

    def _check(self, adapter: NamedAdapter, manifest: Manifest, base: Base) -> None:
        """Raises InputError for an artifact (of this manifest) that is not the base with an adapter."""
        merged = manifest.source.adapter
        if merged is None:
            raise InputError(
                f"{adapter.path}: an artifact without an adapter; serve it as a model: poolrt "
                f"serve ... {adapter.path}"
            )
        if manifest.source.weights != reading.read(base.folder, check="quick").manifest.source.weights:
            raise InputError(
                f"{adapter.path}: the adapter was merged into other weights than those of "
                f"{base.served.name}; export it with that checkpoint, "
                f"or name its base ({manifest.source.checkpoint}) with base_model_name"
            )
        self._check_rank(adapter, merged.rank)

    def _check_rank(self, adapter: NamedAdapter, rank: int) -> None:
        if self._most_rank is not None and rank > self._most_rank:
            raise InputError(
                f"{adapter.path}: rank {rank}, and --max-lora-rank allows {self._most_rank}; raise "
                "it, it costs nothing here"
            )

    def _run(self, program: Sequence[str]) -> tuple[int, str]:
        """Runs an export in a process that `close` can end. Returns its exit code and its error message."""
        with self._lock:
            if self.closed:
                raise CheckpointError("the server is shutting down")
            child = subprocess.Popen([*program, "--json"], stdout=subprocess.PIPE, text=True)
            self._children.add(child)
        output = self._output(child)
        with self._lock:
            self._children.discard(child)
        try:
            return child.returncode, str(json.loads(output)["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return child.returncode, "see above"

    def _output(self, child: subprocess.Popen[str]) -> str:
        """Waits for the process to end, and returns what it wrote."""
        while True:
            closed = self.closed
            try:
                return child.communicate(timeout=GRACE_S)[0]
            except subprocess.TimeoutExpired:
                # A library's destructor may swallow the interrupt. A killed export leaves no artifact either.
                if closed:
                    child.kill()

    def close(self) -> None:
        """Ends running exports, which leave nothing behind. A signal handler may call it, also twice."""
        with self._lock:
            self.closed = True
            for child in self._children:
                child.terminate()


def folder_of(path: str) -> Path:
    return Path(os.path.expanduser(path))  # Path.expanduser raises for a user that does not exist


def _rank(folder: Path) -> int:
    """Returns the largest rank of an adapter; 0 for unreadable settings, which the export then reports."""
    try:
        settings = json.loads((folder / SETTINGS).read_bytes())
        return max(int(rank) for rank in (settings["r"], *(settings.get("rank_pattern") or {}).values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0

"""Writes a model repository: the steps of `poolrt triton`, and the record of what it wrote."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...runtime.artifact import reading
from ...runtime.errors import InputError
from ...runtime.store import resolving
from . import client_files, page, python_model, served_graph
from .config import Config, text_of
from .python_model import TritonTask

Tokenizer = Literal["python", "client"]
GRAPH = "-graph"
"""Behind the name of a model: its graph, where a Python model stands in front."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Repository:
    """What was written."""

    folder: str
    models: tuple[str, ...]
    """Names to ask for, those of graphs behind Python models last."""
    tasks: tuple[str, ...]
    """Of the Python models; empty: clients ask the graph."""
    backend: Literal["onnxruntime", "tensorrt"]
    file: str
    """Graph or plan of the artifact."""


def write(
    artifact: str | Path,
    out: Path,
    *,
    tokenizer: Tokenizer = "python",
    tasks: Sequence[TritonTask] = (),
    engine: str | None = None,
    name: str | None = None,
    max_batch_size: int = 64,
    cpu: bool = False,
) -> Repository:
    """Writes a model repository into `out`, which appears when it is whole.

    Args:
        tasks: each gets a Python model; none: the artifact's own.
        engine: see `served_graph.choose`.
        name: of the model; None: the artifact's.

    Raises ArtifactError for an artifact that is incomplete, InputError, UnsupportedTask and EngineError for
    what cannot be served so.
    """
    opened = reading.read(resolving.artifact(artifact), check="once")
    manifest, source = opened.manifest, opened.folder
    name = name or manifest.name
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} names no model in a URL; give --name of letters, digits, dots and dashes", field="name"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists already; choose another folder, or remove it first", field="out")
    served = served_graph.choose(manifest, engine)
    if tokenizer == "client":
        if tasks:
            raise InputError(
                "--task: of --tokenizer python; a client asks for outputs of the graph", field="task"
            )
        client_files.check(manifest)
    chosen = python_model.checked(manifest, tuple(tasks)) if tokenizer == "python" else ()
    graph = name + GRAPH if chosen else name
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        draft = Path(scratch) / "repository"
        draft.mkdir()
        configs: list[Config] = []
        for place, task in enumerate(chosen):
            model = name if place == 0 else f"{name}-{task}"
            config = python_model.write(
                manifest, served, source, draft / model, name=model, task=task, graph=graph,
                max_batch_size=max_batch_size, cpu=cpu,
            )  # fmt: skip
            configs.append(config)
        configs.append(
            served_graph.write(
                served, source, draft / graph, name=graph, max_batch_size=max_batch_size, cpu=cpu
            )
        )
        for config in configs:
            (draft / config.name / "config.pbtxt").write_text(text_of(config), encoding="utf-8")
        if tokenizer == "client":
            client_files.write(manifest, served, source, draft, graph)
        (draft / "README.md").write_text(page.text(manifest, served, configs), encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(draft, out)
    return Repository(
        folder=str(out),
        models=tuple(config.name for config in configs),
        tasks=chosen,
        backend="onnxruntime" if served.engine is None else "tensorrt",
        file=served.graph.file if served.engine is None else served.engine.file,
    )

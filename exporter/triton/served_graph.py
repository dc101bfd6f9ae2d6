"""Which graph or plan of an artifact Triton computes, and the files of it.

Triton batches along the first axis of every input, so a graph that computes texts behind a prefix is served
without the prefix, and one that reads pictures is refused.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ...runtime import extras
from ...runtime.artifact.manifest import Engine, Graph, Manifest
from ...runtime.errors import EngineError, InputError
from ..graph import rewriting
from .config import Config, value_of


@dataclass(frozen=True, slots=True)
class ServedGraph:
    """A graph, or the plan that was compiled from it."""

    graph: Graph
    """As it is served, without prefixes."""
    engine: Engine | None
    rewritten: bool
    """Whether the file of the artifact has inputs for prefixes, which are taken out."""


def choose(manifest: Manifest, engine: str | None) -> ServedGraph:
    """The graph or plan that `--engine` names. Raises EngineError where there is none, or where Triton cannot
    run it, and InputError for a model that reads pictures.

    Args:
        engine: None: the artifact's first graph; the file or the precision of a graph; the file of a plan, or
            `tensorrt`.
    """
    if manifest.images is not None:
        raise InputError(
            f"{manifest.name}: a model that reads pictures, whose features Triton cannot batch with its "
            "texts; serve it with `poolrt serve`, or on many machines with poolrt.ray"
        )
    graphs = [graph for graph in manifest.graphs if graph.role == "text"]
    if engine is None:
        return _graph(graphs[0])
    name = engine.removeprefix("onnxruntime").removeprefix(":")
    if not name:
        return _graph(graphs[0])
    for graph in graphs:
        if name in (graph.file, graph.precision, graph.stored):
            return _graph(graph)
    for compiled in manifest.engines:
        if name in (compiled.file, compiled.backend):
            return _plan(manifest, compiled)
    known = ", ".join([*(graph.file for graph in graphs), *(compiled.file for compiled in manifest.engines)])
    raise EngineError(
        f"the artifact has no graph or engine {engine!r}; it has {known}; on a machine with the GPU "
        "`poolrt build ARTIFACT --target tensorrt` compiles a plan"
    )


def _graph(graph: Graph) -> ServedGraph:
    return ServedGraph(graph.whole(), None, rewritten=graph.past is not None)


def _plan(manifest: Manifest, compiled: Engine) -> ServedGraph:
    if compiled.backend != "tensorrt":
        raise EngineError(
            f"{compiled.file}: Triton's TensorRT backend runs plans of TensorRT, not of {compiled.backend}; "
            "compile one on a machine with the GPU (`poolrt build ARTIFACT --target tensorrt`), or leave "
            "--engine out to serve the graph"
        )
    if compiled.past:
        raise EngineError(
            f"{compiled.file}: compiled with prefixes, whose keys and values have no axis of a batch; leave "
            "--engine out to serve the graph without them"
        )
    graph = next(graph for graph in manifest.graphs if graph.file == compiled.graph)
    return ServedGraph(compiled.reads(graph), compiled, rewritten=False)


def write(
    served: ServedGraph, source: Path, target: Path, *, name: str, max_batch_size: int, cpu: bool
) -> Config:
    """Writes the files of the graph or plan into `target`/1, and returns its configuration. Raises InputError
    where a plan takes smaller batches.

    A graph is a folder model.onnx with model.onnx in it, as Triton wants graphs of several files. Weights in
    other files keep their names, by which the graph finds them.
    """
    version = target / "1"
    graph, engine = served.graph, served.engine
    if engine is not None:
        most = max(profile.largest[0] for profile in engine.profiles)
        if max_batch_size > most:
            raise InputError(
                f"--max-batch-size is {max_batch_size}, and {engine.file} takes at most {most} rows",
                field="max_batch_size",
            )
        if cpu:
            raise InputError("--cpu: a plan runs on the GPU it was compiled for", field="cpu")
        version.mkdir(parents=True)
        shutil.copyfile(source / engine.file, version / "model.plan")
    else:
        folder = version / "model.onnx"
        folder.mkdir(parents=True)
        if served.rewritten:
            extras.require("export")
            rewriting.padded_from_onnx(source / graph.file, folder / "model.onnx")
        else:
            shutil.copyfile(source / graph.file, folder / "model.onnx")
            home = Path(graph.file).parent
            for file in graph.external:
                place = folder / Path(file).relative_to(home)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / file, place)
    return Config(
        name=name,
        backend="onnxruntime" if engine is None else "tensorrt",
        inputs=tuple(map(value_of, graph.inputs)),
        outputs=tuple(map(value_of, graph.outputs)),
        max_batch_size=max_batch_size,
        profiles=0 if engine is None else len(engine.profiles),
        cpu=cpu,
    )

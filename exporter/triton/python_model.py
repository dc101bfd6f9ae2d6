"""The Triton model that prepares texts: what it takes and returns, and its files.

poolrt.runtime.integrations.triton computes it, from the files that are written here.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal, get_args

from ...runtime.artifact.manifest import FILE, Manifest
from ...runtime.errors import UnsupportedTask
from .config import ANY, Config, Value
from .served_graph import ServedGraph

TritonTask = Literal["embed", "token_embed", "classify", "token_classify", "score"]
LABELS = "labels.txt"

MODEL = '''"""Written by `poolrt triton`. What it computes is in poolrt.runtime.integrations.triton."""

from pathlib import Path

from poolrt.runtime.integrations.triton import PythonModel


class TritonPythonModel(PythonModel):
    folder = Path(__file__).resolve().parent / "artifact"
'''


def offered(manifest: Manifest) -> tuple[TritonTask, ...]:
    """The tasks that the artifact has, the one that is served unless another is named first."""
    tasks: list[TritonTask] = [*manifest.tasks]
    if manifest.scoring in ("cross-encoder", "listwise"):
        return ("score", *tasks)
    if manifest.scoring == "late-interaction" and "token_embed" in tasks:
        tasks.sort(key=lambda task: task != "token_embed")
    return (*tasks, "score") if manifest.scoring is not None else tuple(tasks)


def checked(manifest: Manifest, tasks: tuple[TritonTask, ...]) -> tuple[TritonTask, ...]:
    """`tasks`, or where there are none the artifact's own. Raises UnsupportedTask."""
    known = offered(manifest)
    if missing := [task for task in tasks if task not in known]:
        raise UnsupportedTask(
            f"--task {missing[0]}: {manifest.name} has {', '.join(known)}; name one of them", field="task"
        )
    return tuple(dict.fromkeys(tasks)) or known[:1]


def values(manifest: Manifest, task: TritonTask) -> tuple[tuple[Value, ...], tuple[Value, ...]]:
    """Inputs and outputs of a task."""
    text, count = Value("text", "TYPE_STRING", (1,)), Value("tokens", "TYPE_INT64", (1,))
    if task == "score":
        several = (ANY,) if manifest.scoring == "listwise" else (1,)
        pair = Value("query", "TYPE_STRING", (1,)), Value("document", "TYPE_STRING", several)
        return pair, (Value("score", "TYPE_FP32", several),)
    head = manifest.heads[task]
    assert task in get_args(TritonTask)
    if task == "embed":
        cut = head.matryoshka or head.any_dimension or head.dimensions is not None
        return (text,), (Value("embedding", "TYPE_FP32", (ANY if cut else head.dim,)),)
    if task == "classify":
        labels = LABELS if head.labels else None
        return (text,), (Value("scores", "TYPE_FP32", (head.dim,), labels),)
    widths = () if head.flat else (ANY,) if task == "token_embed" or head.returned_token_ids else (head.dim,)
    name = "token_embeddings" if task == "token_embed" else "token_scores"
    return (text,), (Value(name, "TYPE_FP32", (ANY, *widths)), count)


def write(
    manifest: Manifest,
    served: ServedGraph,
    source: Path,
    target: Path,
    *,
    name: str,
    task: TritonTask,
    graph: str,
    max_batch_size: int,
    cpu: bool,
) -> Config:
    """Writes the files of a Python model into `target`, and returns its configuration.

    Args:
        graph: name of the Triton model that computes the graph.
    """
    artifact = target / "1" / "artifact"
    computed = {file for graph in manifest.graphs for file in (graph.file, *graph.external)}
    computed |= {engine.file for engine in manifest.engines}
    for file in (FILE, *(file for file in manifest.files if file not in computed)):
        place = artifact / file
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / file, place)
    (target / "1" / "model").with_suffix(".py").write_text(MODEL, encoding="utf-8")
    inputs, outputs = values(manifest, task)
    if any(output.label_filename for output in outputs):
        (target / LABELS).write_text("\n".join(manifest.heads["classify"].labels) + "\n", encoding="utf-8")
    computes = {"graph_file": served.graph.file}
    if served.engine is not None:
        computes["engine_file"] = served.engine.file
    return Config(
        name=name,
        backend="python",
        inputs=inputs,
        outputs=outputs,
        max_batch_size=0 if task == "score" and manifest.scoring == "listwise" else max_batch_size,
        cpu=cpu,
        parameters={
            "task": task,
            "graph": graph,
            **computes,
            "graph_max_batch_size": str(max_batch_size),
        },
    )

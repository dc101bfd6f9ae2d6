"""jina-embeddings-v4 (https://arxiv.org/abs/2506.18902) as its authors publish it: Qwen2.5-VL with one vector
of a text or picture, and one of each of its tokens.

`adapters/` holds low-rank corrections for three tasks in one file, those of the projection of tokens
included. The export adds the set that `jina_task` of config.json names, which an override may set. The
repositories of single tasks, which their authors merged for vLLM, are read by qwen2_5_vl.py: they have no
projection of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..files import adapter
from ..files.recipe import template
from . import _decoders, _qwen2_vl, qwen2_5_vl
from .registry import Config, Layer

if TYPE_CHECKING:
    from ..files.adapter import LoraAdapter
    from ..files.checkpoint_files import Files

NAME = "JinaEmbeddingsV4Model"
TASK = "jina_task"
DEFAULT_TASK = "retrieval"
ALIKE = "text-matching"
"""The task whose texts are all prompted as queries."""
ADAPTERS = "adapters"
"""Folder beside the weights."""
PROJECTION = Layer(name="multi_vector_projector")
MOST_TOKENS = 32768
"""Of a text, by the published processor."""


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return NAME in (config.get("architectures") or ())


def translate(config: Config) -> Config:
    """The text model's settings in front, and widths under vLLM's name."""
    widths = {"matryoshka_dimensions": config["matryoshka_dims"]} if config.get("matryoshka_dims") else {}
    return {**widths, **_qwen2_vl.translate(config)}


def _chosen(source: str, config: Config) -> str:
    """The task that is exported. Raises CheckpointError for one that the checkpoint does not have."""
    task, tasks = str(config.get(TASK) or DEFAULT_TASK), _tasks(config)
    if task not in tasks:
        raise CheckpointError(f"{source}: {TASK} {task!r}; this checkpoint has {', '.join(tasks)}")
    return task


def _tasks(config: Config) -> tuple[str, ...]:
    listed = config.get("task_names")
    names = listed if isinstance(listed, list) else (DEFAULT_TASK, ALIKE, "code")
    return tuple(str(name) for name in names)


def guesses(source: str, config: Config) -> tuple[Guess, ...]:
    """Which of its tasks is exported."""
    task = _chosen(source, config)
    others = [name for name in _tasks(config) if name != task]
    why = f"config.json, {TASK}" if config.get(TASK) else "the default of a checkpoint with several"
    return (Guess("task", task, why, f'--hf-overrides \'{{"{TASK}": "{"|".join(others)}"}}\''),)


def built_in(folder: Path, config: Config) -> LoraAdapter:
    """The adapter of the chosen task. Raises CheckpointError where it is missing or no plain product."""
    place, task = folder / ADAPTERS, _chosen(folder.name, config)
    if not (place / adapter.SETTINGS).is_file():
        raise CheckpointError(
            f"{place}: no {adapter.SETTINGS}; the model is not whole without its adapters; download the "
            "repository again"
        )
    known = adapter.read(place, task=task, tasks=_tasks(config))
    # The published code would train these, and reads neither of them.
    if known.settings.get("use_dora") or known.whole or known.tokens:
        strange = [*known.whole, *known.tokens] or ["use_dora"]
        raise CheckpointError(
            f"{place}: {', '.join(strange[:3])}; expected lora_A and lora_B of {', '.join(_tasks(config))}"
        )
    return known


def roles(files: Files) -> dict[str, Role]:
    """Queries and passages are named so, unless texts are compared with their like."""
    alike = _chosen(files.source, files.config) == ALIKE
    sides = {"query": "query", "document": "query" if alike else "document"}
    return {role: Role(template=template(f"jina_v4_{side}.jinja")) for role, side in sides.items()}


def _positions(config: Config) -> int:
    return min(_decoders.positions(config), MOST_TOKENS)


ARCHITECTURE = _qwen2_vl.family(
    body="qwen2_5_vl",
    videos=False,
    names=(NAME,),
    matches=matches,
    translate=translate,
    adapt=qwen2_5_vl.adapt,
    guesses=guesses,
    load=partial(_qwen2_vl.load, model_type="qwen2_5_vl", heads=(*_qwen2_vl.HEADS, PROJECTION.name)),
    built_in=built_in,
    pool="mean",
    pooled=qwen2_5_vl.of_picture,
    token_projection=(PROJECTION,),
    positions=_positions,
    roles=roles,
)

"""Prompts with pictures through the two graphs of a tiny checkpoint, without the runtime's workers: features
from the vision graph, then the text graph, each on one padded batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime.answers import postprocess
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.artifact import manifest
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.inputs.items import Item, VisionItem
from poolrt.runtime.inputs.media.medium import Medium
from poolrt.runtime.inputs.multimodal import positions
from tokenizers import Tokenizer

from .evidence import note
from .proof import Floats, file_of, opened


@dataclass(frozen=True)
class Prompt:
    """A text with `{}` for each medium, in order."""

    text: str
    media: tuple[Medium, ...] = ()

    @property
    def written(self) -> str:
        return self.text.format(*(medium.text for medium in self.media))


@dataclass
class Pictured:
    """A checkpoint's plan and its two graphs; without sessions, its torch modules compute."""

    plan: planning.Plan
    text: tracing.PoolingModel
    vision: tracing.PictureModel
    tokenizer: Tokenizer
    sessions: tuple[onnxruntime.InferenceSession, ...] = ()
    graphs: tuple[manifest.Graph, ...] = field(default=())

    def item(self, prompt: Prompt) -> Item:
        """The prompt's tokens; features follow in `answers`."""
        ids = self.tokenizer.encode(prompt.written, add_special_tokens=True).ids
        images = self.plan.vision.images if self.plan.vision is not None else None
        assert images is not None
        tokens = [images.token, *([images.videos.token] if images.videos is not None else [])]
        marks = [self.tokenizer.token_to_id(token) for token in tokens]
        places = (
            np.flatnonzero(np.isin(ids, [mark for mark in marks if mark is not None]))
            if prompt.media
            else np.zeros(0, np.int64)
        )
        runs = [run for medium in prompt.media for run in medium.runs]
        item = Item(ids=ids)
        item.feature_places = places
        item.positions = positions.mrope(ids, places, runs)
        return item

    def features(self, rows: Sequence[VisionItem]) -> list[Floats]:
        """[features, width] of each row, computed as one batch."""
        assert self.plan.vision is not None
        arrays = Feed(self.plan.vision.inputs).arrays(rows)
        [result] = self._run(1, self.vision, arrays, [self.plan.vision.output.name])
        return [result[place, : row.rows] for place, row in enumerate(rows)]

    def answers(self, task: manifest.Task, prompts: Sequence[Prompt], **params: Any) -> list[Floats]:
        """What the runtime returns for the prompts, computed as one batch."""
        items = [self.item(prompt) for prompt in prompts]
        rows = [row for prompt in prompts for medium in prompt.media for row in medium.items]
        computed = iter(self.features(rows) if rows else [])
        for item, prompt in zip(items, prompts, strict=True):
            if prompt.media:
                own = [next(computed) for medium in prompt.media for _ in medium.items]
                item.features = np.concatenate(own)
        return self.answered(task, items, **params)

    def answered(self, task: manifest.Task, items: Sequence[Item], **params: Any) -> list[Floats]:
        """What the runtime returns for items with their features, computed as one batch."""
        arrays = Feed(self.plan.tensors, pad_id=self.plan.text.pad_id).arrays(items)
        head = self.plan.heads[task]
        names = [self.plan.heads[name].output for name in self.plan.tasks]
        result = dict(zip(names, self._run(0, self.text, arrays, names), strict=True))[head.output]
        own = [
            result[place, : len(item.ids)] if result.ndim == 3 else result[place]
            for place, item in enumerate(items)
        ]
        return postprocess.answers(task, head, own, list(items), [PoolingParams(**params)] * len(items))

    def _run(
        self, which: int, module: torch.nn.Module, arrays: dict[str, Any], names: list[str]
    ) -> list[Floats]:
        if self.sessions:
            return [np.asarray(array) for array in self.sessions[which].run(names, arrays)]
        with torch.inference_mode():
            result = module(*(torch.from_numpy(array) for array in arrays.values()))
        return [array.numpy() for array in (result if isinstance(result, tuple) else (result,))]


def pictured(folder: Path, out: Path | None = None, **asked: Any) -> Pictured:
    """Reads and plans without a recipe. With `out`, both graphs are exported and ONNX Runtime computes."""
    read = checkpoint.read(folder, **{"recipe": None, **asked})
    plan = planning.plan(read)
    text = tracing.module(read, plan)
    vision = tracing.picture_module(read, plan, text)
    assert vision is not None
    note(architecture=read.architecture, file=file_of(read.family), tasks=plan.tasks)
    tokenizer = Tokenizer.from_str(plan.files["tokenizer.json"].decode())
    if out is None:
        return Pictured(plan, text, vision, tokenizer)
    graphs = (
        tracing.onnx_from_module(text, plan, out / "model.onnx"),
        tracing.onnx_from_pictures(vision, plan, out / "vision.onnx"),
    )
    note(exported=True)
    sessions = tuple(opened(out / graph.file) for graph in graphs)
    return Pictured(plan, text, vision, tokenizer, sessions, graphs)

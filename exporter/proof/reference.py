"""The PyTorch side of verification: texts without padding, in eager fp32, and the heads' arithmetic in torch.

Independent of the runtime on purpose: what the runtime pads, batches, cuts and activates in
numpy is compared with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...runtime.artifact.manifest import Graph, Head, Task
from ...runtime.engines.feed import Feed
from ...runtime.inputs.items import Item
from ...runtime.outputs import Floats
from ..base.refusals import in_one_sentence

if TYPE_CHECKING:
    import torch


# Token slots of one PyTorch batch: enough to be quick, little enough to fit beside a large model.
_TOGETHER = 2048


class Reference:
    """Answers per task from the module that was exported. Every item is computed once."""

    def __init__(self, module: torch.nn.Module, graph: Graph, heads: dict[str, Head]) -> None:
        self._module, self._graph, self._heads = module.eval(), graph, heads
        self._feed = Feed(graph.inputs, pad_id=0)
        # The item is kept beside its answers: an id is only its own while the object lives.
        self._known: dict[int, tuple[Item, dict[str, torch.Tensor]]] = {}

    def answers(self, task: Task, items: Sequence[Item]) -> list[Floats]:
        head = self._heads[task]
        lengths: dict[int, list[Item]] = {}
        for item in items:
            if id(item) not in self._known:
                lengths.setdefault(len(item.ids), []).append(item)
        # Longest first: a module that a short text would change for good has then computed the long ones.
        for length, alike in sorted(lengths.items(), reverse=True):
            # Texts of one length need no padding, so running them together proves as much
            # as running each alone.
            rows = max(1, _TOGETHER // length)
            for start in range(0, len(alike), rows):
                self._compute(alike[start : start + rows])
        return [finished(task, head, self._known[id(item)][1][head.output], item).numpy() for item in items]

    def _compute(self, items: Sequence[Item]) -> None:
        import torch

        from ..graph.streaming import widened

        # Items of one length: nothing is padded.
        arrays = self._feed.arrays(items)
        computing = f"PyTorch cannot compute a text of {len(items[0].ids)} tokens"
        with in_one_sentence(computing), torch.inference_mode(), widened(self._module):
            found = self._module(*(torch.from_numpy(arrays[tensor.name]) for tensor in self._graph.inputs))
        found = found if isinstance(found, tuple | list) else (found,)
        named = {tensor.name: value.float() for tensor, value in zip(self._graph.outputs, found, strict=True)}
        for row, item in enumerate(items):
            self._known[id(item)] = (item, {name: value[row] for name, value in named.items()})


def finished(task: Task, head: Head, raw: torch.Tensor, item: Item) -> torch.Tensor:
    """What the manifest says is done to a graph output [dim] or [tokens, dim] before it is answered."""
    import torch
    from torch.nn.functional import layer_norm, normalize

    if task in ("token_embed", "token_classify"):
        kept = (
            torch.ones(len(raw), dtype=torch.bool)
            if item.keep is None
            else torch.from_numpy(np.array(item.keep))
        )
        if head.drop_first_id in (None, item.ids[0]):
            kept[: head.drop_first] = False
        if head.drop_last and head.drop_last_id in (None, item.ids[-1]):
            kept[-head.drop_last :] = False
        if head.pool == "step" and head.step_tag_id is not None:
            kept &= torch.tensor(item.ids) == head.step_tag_id
        raw = raw[kept]
        raw = (
            raw[:, list(head.returned_token_ids)] if head.pool == "step" and head.returned_token_ids else raw
        )
    if head.norm_before_cut and head.dimensions is not None:
        raw = layer_norm(raw, raw.shape[-1:])
    raw = raw[..., : head.dimensions]
    raw = (raw - (head.logit_mean or 0.0)) / (1.0 if head.logit_sigma is None else head.logit_sigma)
    if head.activation == "l2":
        raw = normalize(raw, dim=-1)
    elif head.activation == "softmax":
        raw = raw.softmax(dim=-1)
    elif head.activation != "identity":
        raw = getattr(torch, head.activation)(raw)
    return raw[..., 0] if head.flat and task == "token_classify" and raw.shape[-1] == 1 else raw

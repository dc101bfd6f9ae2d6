"""The PyTorch side of verification: texts without padding in eager fp32, and the heads' arithmetic in torch.

It shares no code with the runtime, whose padding, batching, cutting and activating in numpy is compared
with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact.manifest import Graph, Head, Task
from ...runtime.engines.feed import Feed
from ...runtime.inputs.items import Item
from ...runtime.outputs import Floats
from ..base.refusals import in_one_sentence
from .pictures.seen import Seen

if TYPE_CHECKING:
    import torch

    from ..graph.tracing import PictureModel, PoolingModel
    from ..heads.planning import Plan

# Token slots of one PyTorch batch: enough to be quick, little enough to fit beside a large model.
_TOGETHER = 2048


class Reference:
    """The answers of the module that was exported, by task. Every item is computed once.

    Args:
        pictures: the half that reads pictures; None: the model reads text only.
        apart: whether a picture is embedded by that half alone.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        graph: Graph,
        heads: dict[str, Head],
        pictures: PictureModel | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self._seen, self._apart = None if pictures is None else Seen(pictures), apart
        self._module, self._graph, self._heads = module.eval(), graph.whole(), heads
        self._feed = Feed(self._graph.inputs, pad_id=0)
        self._known: dict[tuple[bytes, ...], dict[str, torch.Tensor]] = {}

    def answers(self, task: Task, items: Sequence[Item]) -> list[Floats]:
        """Returns an array per item, [dim] or [tokens, dim]. Raises CheckpointError where PyTorch fails."""
        head = self._heads[task]
        lengths: dict[int, list[Item]] = {}
        for item in items:
            if self._key(item) in self._known:
                continue
            if item.vision and self._apart:
                self._known[self._key(item)] = {head.output: self._embedded(item)}
            else:
                lengths.setdefault(len(item.ids), []).append(item)
        # Longest first, because a short text changes some modules for good, and the long ones are then done.
        for length, alike in sorted(lengths.items(), reverse=True):
            # Texts of one length need no padding, so running them together proves as much
            # as running each alone.
            rows = max(1, _TOGETHER // length)
            for start in range(0, len(alike), rows):
                self._compute(alike[start : start + rows])
        return [
            finished(task, head, self._known[self._key(item)][head.output], item).numpy() for item in items
        ]

    def _embedded(self, item: Item) -> torch.Tensor:
        """A picture that is embedded apart."""
        import torch

        assert self._seen is not None, "pictures need the half that reads them"
        return torch.from_numpy(np.array(self._seen.of(item.vision[0])))

    def _with_features(self, item: Item) -> Item:
        if not item.vision:
            return item
        assert self._seen is not None, "pictures need the half that reads them"
        rows = np.concatenate([self._seen.of(picture) for picture in item.vision])
        return dataclasses.replace(
            item, features=rows if item.feature_order is None else rows[item.feature_order]
        )

    def _compute(self, items: Sequence[Item]) -> None:
        import torch

        from ..graph.streaming import widened

        # Items of one length: nothing is padded.
        arrays = self._feed.arrays([self._with_features(item) for item in items])
        computing = f"PyTorch cannot compute a text of {len(items[0].ids)} tokens"
        with in_one_sentence(computing), torch.inference_mode(), widened(self._module):
            outputs = self._module(*(torch.from_numpy(arrays[tensor.name]) for tensor in self._graph.inputs))
        outputs = outputs if isinstance(outputs, tuple | list) else (outputs,)
        named = {
            tensor.name: value.float() for tensor, value in zip(self._graph.outputs, outputs, strict=True)
        }
        for row, item in enumerate(items):
            self._known[self._key(item)] = {name: value[row] for name, value in named.items()}

    def _key(self, item: Item) -> tuple[bytes, ...]:
        """All that the module reads of an item, so that the same prompt is computed once."""
        arrays = self._feed.arrays([dataclasses.replace(item, features=None) if item.vision else item])
        pictures = (picture.digest for picture in item.vision)
        order = b"" if item.feature_order is None else item.feature_order.tobytes()
        return (*(array.tobytes() for array in arrays.values()), order, *pictures)


def finished(task: Task, head: Head, raw: torch.Tensor, item: Item) -> torch.Tensor:
    """A graph output [dim] or [tokens, dim] after everything that the manifest says is done to it."""
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
        if head.pool == "step" and head.returned_token_ids:
            raw = raw[:, list(head.returned_token_ids)]
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


def outputs_together(module: PoolingModel, plan: Plan, items: Sequence[Item]) -> list[dict[str, Floats]]:
    """Our module on one batch, padded on the right. Returns for every item, without its padding, `hidden`
    [tokens, hidden] and the graph outputs by name."""
    import torch

    from ..graph.tracing import described

    if not items:
        return []
    inputs = described(plan, "model.onnx", ()).whole().inputs
    arrays = Feed(inputs, pad_id=plan.text.pad_id).arrays(items)
    hidden: list[Any] = []
    handle = module.backbone.register_forward_hook(lambda backbone, arguments, output: hidden.append(output))
    try:
        with torch.inference_mode():
            outputs = module(*(torch.from_numpy(arrays[tensor.name]) for tensor in inputs))
    finally:
        handle.remove()
    names = [plan.heads[part.task].output for part in plan.parts]
    last = hidden[0][-1] if hidden[0].ndim == 4 else hidden[0]  # of all layers the last
    results = []
    for row, item in enumerate(items):
        count = len(item.ids)
        answers = {
            name: (value[row, :count] if value.ndim == 3 else value[row]).float().numpy()
            for name, value in zip(names, outputs, strict=True)
        }
        # A class that is run with its own head returns logits in the place of hidden states.
        states = {} if plan.published is not None else {"hidden": last[row, :count].float().numpy()}
        results.append({**states, **answers})
    return results

"""The PyTorch side of verification: each text alone, unpadded, in eager fp32, and the heads' arithmetic in torch.

Independent of the runtime on purpose: what the runtime pads, batches, cuts and activates in numpy is compared with this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runtime.manifest import Graph, Head, Task
from ..runtime.outputs import Floats
from ..runtime.text import Item

if TYPE_CHECKING:
    import torch


class Reference:
    """Answers per task from the module that was exported. Every item is computed once."""

    def __init__(self, module: torch.nn.Module, graph: Graph, heads: dict[str, Head]) -> None:
        self._module, self._graph, self._heads = module.eval(), graph, heads
        self._known: dict[int, tuple[Item, dict[str, Any]]] = {}

    def answers(self, task: Task, items: Sequence[Item]) -> list[Floats]:
        head = self._heads[task]
        return [finished(task, head, self._raw(item)[head.output], item).numpy() for item in items]

    def _raw(self, item: Item) -> dict[str, Any]:
        """Graph output -> tensor without the batch axis."""
        import torch

        # The item is kept too: an id is only its own while the object lives.
        known = self._known.get(id(item))
        if known is not None:
            return known[1]
        columns = {
            "input_ids": item.ids,
            "attention_mask": [1] * len(item.ids) if item.attention is None else item.attention,
            "token_type_ids": [0] * len(item.ids) if item.type_ids is None else item.type_ids,
        }
        with torch.inference_mode():
            found = self._module(*(torch.tensor([list(columns[tensor.name])], dtype=torch.int64) for tensor in self._graph.inputs))
        found = found if isinstance(found, tuple | list) else (found,)
        named = {tensor.name: value[0].float() for tensor, value in zip(self._graph.outputs, found, strict=True)}
        self._known[id(item)] = (item, named)
        return named


def finished(task: Task, head: Head, raw: torch.Tensor, item: Item) -> torch.Tensor:
    """What the manifest says is done to a graph output [dim] or [tokens, dim] before it is answered."""
    import torch
    from torch.nn.functional import layer_norm, normalize

    if task in ("token_embed", "token_classify"):
        kept = torch.ones(len(raw), dtype=torch.bool) if item.keep is None else torch.from_numpy(np.array(item.keep))
        kept[: head.drop_first] = False
        if head.drop_last:
            kept[-head.drop_last :] = False
        if head.pool == "step" and head.step_tag_id is not None:
            kept &= torch.tensor(item.ids) == head.step_tag_id
        raw = raw[kept]
        raw = raw[:, list(head.returned_token_ids)] if head.pool == "step" and head.returned_token_ids else raw
    if head.norm_before_cut:
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

"""The module that is traced for a graph which computes tokens behind a prefix.

It runs the backbone with positions, a causal mask and a cache of its own, where the plain module leaves all
three to transformers. With a prefix of no tokens both compute the same.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from .interface import Interface

# Worst measured 4e-7 of the largest value: five families, float32 in torch.
TOLERANCE = 1e-4


class BehindPrefix(nn.Module):
    """A causal decoder and its heads: graph inputs, keys and values of a prefix, and the tokens whose own are
    returned -> task outputs, then those keys and values. The modules are those of the plain model."""

    def __init__(self, backbone: nn.Module, heads: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone, self.heads, self.names = backbone, heads, names
        # The argument was renamed in transformers 5.24.
        inner: Any = backbone.model
        known = inspect.signature(inspect.unwrap(type(inner).forward)).parameters
        self._argument = "cache" if "cache" in known else "past_key_values"

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Args:
        inputs: those of the plain model, [batch, tokens], then `past` [2 x layers, heads, past, width] and
            `kept` [kept].
        """
        *plain, past, kept = inputs
        named = dict(zip(self.names, plain, strict=True))
        ids, mask = named["input_ids"], named["attention_mask"]
        before = past.shape[2]
        places = torch.arange(ids.shape[1]) + before
        keys = torch.arange(before + ids.shape[1])
        # The mask speaks of the tokens behind the prefix. All tokens of the prefix are attended to.
        attended = (keys < before) | (mask.index_select(1, (keys - before).clamp(min=0)) > 0)
        allowed = (keys <= places[:, None])[None, None] & attended[:, None, None, :]
        cache = Behind(past)
        hidden = self.backbone(
            input_ids=ids,
            attention_mask=allowed,
            position_ids=places[None],
            use_cache=True,
            **{self._argument: cache},
        )
        # Selected for each layer, so that what nobody keeps is freed at once.
        present = torch.stack([values.index_select(2, kept) for values in cache.own], dim=1)
        return *self.heads(hidden, mask, ids), present


class Behind:
    """What transformers' attention asks for earlier keys and values: those of the prefix, the same for every
    row."""

    def __init__(self, past: torch.Tensor) -> None:
        self.past = past
        self.own: list[torch.Tensor] = []
        """Keys and values of the tokens themselves, of each layer one behind the other: [batch, heads,
        tokens, width]."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the keys and values that a layer attends to. transformers passes these names."""
        self.own += [keys, values]
        return self._joined(keys, 2 * layer_idx), self._joined(values, 2 * layer_idx + 1)

    def _joined(self, own: torch.Tensor, place: int) -> torch.Tensor:
        before = self.past[place][None].expand(own.shape[0], -1, -1, -1)
        return torch.cat([before, own], dim=2)


def check_exact(module: BehindPrefix, shape: Interface) -> None:
    """Asserts that the traced sample has the same results in one piece by the plain forward, and behind a
    prefix. It fails for a model whose tokens attend to later ones."""
    ids = torch.randint(0, shape.vocabulary, (1, shape.tokens), generator=torch.Generator().manual_seed(4))
    mask, cut = torch.ones_like(ids), shape.tokens // 2
    layers, heads, _, width = (int(axis) if isinstance(axis, int) else 0 for axis in shape.inputs[-2].axes)
    nothing, none = torch.zeros(layers, heads, 0, width), torch.arange(0)
    with torch.inference_mode():
        whole = module.heads(module.backbone(input_ids=ids, attention_mask=mask), mask, ids)
        *_, prefix = module(ids[:, :cut], mask[:, :cut], nothing, torch.arange(cut))
        *behind, _ = module(ids[:, cut:], mask[:, cut:], prefix[0], none)
    outputs = zip(whole, behind, shape.outputs[:-1], strict=True)
    for expected, value, tensor in outputs:
        expected = expected[:, cut:] if "tokens" in tensor.axes else expected
        worst = float((value - expected).abs().max()) / max(float(expected.abs().max()), 1.0)
        assert worst <= TOLERANCE, (
            f"{tensor.name} behind a prefix differs by {worst:.1e}: tokens of this model attend to later ones"
        )

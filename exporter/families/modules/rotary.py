"""Rotary frequencies that depend on the length of a text (`dynamic`, `longrope`), for each row of a batch by
its own length.

transformers keeps them in a buffer that the longest text so far has set, so a result depends on the texts
that ran before and beside it. Here each row gets the frequencies that a fresh model computes for it alone.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


INNER = ("language_model", "text_model")
"""Names of the decoder inside a model that reads pictures too."""
FIRST = {"PaliGemmaModel": 1}
"""Class of such a model -> position of a text's first token, where that is not 0."""


class RowFrequencies(nn.Module):
    """Passes explicit positions to a decoder, from which each rotary module computes the length of a row.

    `first`: position of the first token.
    """

    def __init__(self, model: nn.Module, first: int = 0) -> None:
        super().__init__()
        self.model, self.first = model, first

    @property
    def config(self) -> Any:
        return self.model.config

    def get_input_embeddings(self) -> Any:
        model: Any = self.model
        return model.get_input_embeddings()

    def forward(self, *, attention_mask: torch.Tensor, masks: Any = None, **inputs: Any) -> Any:
        """Args:
        attention_mask: [batch, tokens].
        masks: what the decoder takes in its place; None: it itself.
        inputs: input_ids or inputs_embeds, and what else the decoder takes.
        """
        # Padding is masked, so it may have any position below the largest of its row.
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device) + self.first
        masks = attention_mask if masks is None else masks
        return self.model(attention_mask=masks, position_ids=places * attention_mask, **inputs)


def by_row(model: nn.Module) -> nn.Module:
    """`model` with frequencies by row; `model` itself where no frequency depends on the length."""
    changed = [part for part in model.modules() if any(True for _ in _depending(part))]
    for part in changed:
        _change(part)
    if not changed:
        return model
    for path, part in model.named_modules():
        owner, _, name = path.rpartition(".")
        if name in INNER and any(inner in changed for inner in part.modules()):
            outer = model.get_submodule(owner)
            setattr(outer, name, RowFrequencies(part, FIRST.get(type(outer).__name__, 0)))
            return model
    return RowFrequencies(model)


def _depending(part: Any) -> Iterator[tuple[str | None, str]]:
    """(layer type or None, rope type) of the frequencies of a rotary module that depend on the length."""
    kinds = getattr(part, "rope_type", None)
    for layer, kind in (kinds if isinstance(kinds, dict) else {None: kinds}).items():
        if isinstance(kind, str) and ("dynamic" in kind or kind == "longrope"):
            yield layer, kind


def _change(part: Any) -> None:
    plain = inspect.unwrap(type(part).forward)
    kinds = dict(_depending(part))
    longest = {layer: _long(part, layer) for layer, kind in kinds.items() if kind == "longrope"}
    for layer in kinds:
        name = _name(layer)
        part.__dict__[name] = part._buffers.pop(name)

    def forward(x: torch.Tensor, position_ids: torch.Tensor, layer_type: str | None = None) -> Any:
        named = {} if layer_type is None else {"layer_type": layer_type}
        if layer_type not in kinds:
            return plain(part, x, position_ids, **named)
        name = _name(layer_type)
        stored = part.__dict__[name]
        length = position_ids.amax(-1) + 1
        try:
            if layer_type in longest:
                long, limit = longest[layer_type]
                part.__dict__[name] = torch.where(length[:, None, None] > limit, long, stored)
            else:
                part.__dict__[name] = _dynamic(part, layer_type, length)
            return plain(part, x, position_ids, **named)
        finally:
            part.__dict__[name] = stored

    part.forward = forward


def _name(layer: str | None) -> str:
    return "inv_freq" if layer is None else f"{layer}_inv_freq"


def _settings(part: Any, layer: str | None) -> Any:
    parameters = part.config.rope_parameters
    return parameters if layer is None else parameters[layer]


def _long(part: Any, layer: str | None) -> tuple[torch.Tensor, int]:
    """Frequencies of texts beyond the original length, and that length in tokens."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    limit = int(_settings(part, layer)["original_max_position_embeddings"])
    named = {} if layer is None else {"layer_type": layer}
    frequencies, _ = ROPE_INIT_FUNCTIONS["longrope"](
        part.config, torch.device("cpu"), seq_len=limit + 1, **named
    )
    return frequencies, limit


def _dynamic(part: Any, layer: str | None, length: torch.Tensor) -> torch.Tensor:
    """Frequencies [rows, 1, width / 2] by NTK scaling (https://arxiv.org/abs/2309.00071, appendix B.1), whose
    base grows with the length."""
    settings, original = _settings(part, layer), int(part.config.max_position_embeddings)
    width = 2 * part.__dict__[_name(layer)].shape[-1]
    factor = float(settings["factor"])
    stretched = factor * length.clamp(min=original).to(torch.float32) / original - (factor - 1)
    base = float(settings["rope_theta"]) * stretched ** (width / (width - 2))
    exponent = torch.arange(0, width, 2, dtype=torch.float32, device=length.device) / width
    return (1.0 / base[:, None] ** exponent).unsqueeze(1)

"""Pooling and head layers as torch modules, float32 throughout: what follows the backbone in the graph."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from ..runtime.manifest import Pool
from .checkpoint import Checkpoint
from .heads import Part
from .layers import Step, tensors
from .weights import Weights

# Finite, and inside float16's range so that a lowered precision keeps it finite; no hidden value comes near.
LOWEST = -60000.0


def cls(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    # Items are right-padded, so the first token is at 0 in every row.
    return hidden[:, 0]


def mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def mean_sqrt_len(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    weight = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).sqrt()


def weightedmean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Tokens weigh 1, 2, 3, ... (SGPT): later tokens of a causal model have seen more."""
    position = mask.cumsum(1) * mask
    weight = position.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1)


def maximum(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return torch.where(mask.unsqueeze(-1) > 0, hidden, LOWEST).amax(1)


def last(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The last attended position, whichever side is padded."""
    position = torch.arange(mask.shape[1], device=mask.device)
    index = (position * mask).amax(1)
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


def tokens(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return hidden


def splade(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """log(1 + relu) of vocabulary logits [batch, tokens, vocabulary], largest over attended tokens.

    The function never falls, so it may wait until the largest logit is known; a masked logit of 0 ends as 0, which never wins.
    """
    return torch.log1p(torch.relu((hidden * mask.unsqueeze(-1).to(hidden.dtype)).amax(1)))


def splade_sum(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (torch.log1p(torch.relu(hidden)) * mask.unsqueeze(-1).to(hidden.dtype)).sum(1)


POOLS: dict[Pool, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": cls, "mean": mean, "max": maximum, "mean_sqrt_len": mean_sqrt_len, "weightedmean": weightedmean, "last": last,
    "tokens": tokens, "step": tokens, "splade": splade,
    "splade_sum": splade_sum,
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"), "silu": nn.functional.silu, "sigmoid": torch.sigmoid,
    "identity": lambda value: value, "log1p_relu": lambda value: torch.log1p(torch.relu(value)),
}  # fmt: skip


class StepModule(nn.Module):
    """One layer of a head."""

    def __init__(self, checkpoint: Checkpoint, step: Step) -> None:
        super().__init__()
        opened = tensors(checkpoint, step.layer.where)
        weight = _rows(opened, step) if step.layer.rows else opened.read(step.weight).float()
        bias = None if step.bias is None else opened.read(step.bias).float()
        if step.layer.kind == "linear":
            inner: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        else:
            inner = nn.LayerNorm(weight.shape[0], eps=step.eps, bias=bias is not None)
        inner.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        self.inner = inner
        self.activation = ACTIVATIONS[step.activation]
        self.adds_input = step.layer.residual
        self.residual: nn.Linear | None = None
        if step.residual is not None:
            crossing = opened.read(step.residual).float()
            self.residual = nn.Linear(crossing.shape[1], crossing.shape[0], bias=False)
            self.residual.load_state_dict({"weight": crossing})

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        result = self.activation(self.inner(value))
        if self.adds_input:
            result = result + (value if self.residual is None else self.residual(value))
        return result


def _rows(opened: Weights, step: Step) -> torch.Tensor:
    """Differences are taken in float32: two rows of a language model's output are close to one another."""
    wanted = [token for rows in step.layer.rows for token in rows]
    read = dict(zip(wanted, opened.rows(step.weight, wanted).float(), strict=True))
    return torch.stack([read[first] - sum((read[token] for token in others), start=torch.zeros(())) for first, *others in step.layer.rows])


class Heads(nn.Module):
    """Hidden states [batch, tokens, hidden] and mask [batch, tokens] -> one array for each part, in order."""

    def __init__(self, checkpoint: Checkpoint, parts: tuple[Part, ...]) -> None:
        super().__init__()
        self.parts = parts
        # Tasks that share a layer (a Dense for texts and for tokens) share its weights in the graph.
        different = list(dict.fromkeys(step for part in parts for step in (*part.before, *part.after)))
        self.layers = nn.ModuleList(StepModule(checkpoint, step) for step in different)
        self.places = {step: index for index, step in enumerate(different)}

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        hidden = hidden.float()
        made = []
        for part in self.parts:
            value = hidden
            for step in part.before:
                value = self.layers[self.places[step]](value)
            if part.pools:
                value = torch.cat([POOLS[pool](value, mask) for pool in part.pools], dim=-1)
            for step in part.after:
                value = self.layers[self.places[step]](value)
            made.append(value)
        return tuple(made)

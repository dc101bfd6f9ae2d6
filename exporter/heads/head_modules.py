"""What follows the backbone in the graph, as torch modules in float32: poolings and the layers of heads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from ...runtime.artifact.manifest import Pool
from ...runtime.errors import CheckpointError
from ..checkpoint import Checkpoint
from ..files.weights import Weights
from .layers import LayerStep, Operation, tensors, torch_activation
from .operations import OPERATIONS
from .tasks import TaskHead

# What padding is in a maximum. It is within the range of float16, and no hidden value is close to it.
LOWEST = -60000.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Which tokens of [batch, tokens] are pooled, and how much each counts in a mean."""

    mask: torch.Tensor
    attended: torch.Tensor
    """Which tokens the model attends to: the same object as `mask` unless a prompt is not pooled."""
    weights: torch.Tensor | None = None
    """From WordWeights, already multiplied into the hidden states; None: all tokens weigh 1."""

    def total(self, counts: torch.Tensor) -> torch.Tensor:
        """Returns what a sum over tokens is divided by for its mean, [batch, 1].

        Args:
            counts: how often each token is in the sum, [batch, tokens, 1].
        """
        return counts.sum(1) if self.weights is None else self.weights.sum(1, keepdim=True).clamp(min=1e-9)


# Poolings: hidden states [batch, tokens, width] -> [batch, width].


def cls(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The first pooled token."""
    if tokens.attended is tokens.mask:
        # Items are padded on the right, so the first token is at 0 in every row.
        return hidden[:, 0]
    return _at(hidden, tokens.mask.argmax(1))


def mean(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The mean of the pooled tokens."""
    weight = tokens.mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / tokens.total(weight)


def mean_sqrt_len(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The sum of the pooled tokens over the square root of their number."""
    weight = tokens.mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / tokens.total(weight).sqrt()


def weightedmean(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """A mean in which tokens weigh 1, 2, 3, ... (SGPT): later tokens of a causal model have seen more."""
    position = tokens.attended.cumsum(1) * tokens.mask
    weight = position.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weight).sum(1) / tokens.total(weight)


def maximum(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The largest value of each dimension."""
    return torch.where(tokens.mask.unsqueeze(-1) > 0, hidden, LOWEST).amax(1)


def last(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The last pooled token, on whichever side padding is."""
    position = torch.arange(tokens.mask.shape[1], device=tokens.mask.device)
    return _at(hidden, (position * tokens.mask).amax(1))


def _at(hidden: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    return hidden.gather(1, index[:, None, None].expand(-1, 1, hidden.shape[-1])).squeeze(1)


def every(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """All tokens, not pooled: [batch, tokens, width]."""
    return hidden


def splade(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The largest log(1 + relu) of vocabulary logits [batch, tokens, vocabulary] over the pooled tokens.

    The function never decreases, so it is applied to the largest logit. A masked logit is 0, which becomes
    the smallest possible result.
    """
    return torch.log1p(torch.relu((hidden * tokens.mask.unsqueeze(-1).to(hidden.dtype)).amax(1)))


def splade_sum(hidden: torch.Tensor, tokens: Tokens) -> torch.Tensor:
    """The sum of log(1 + relu) of vocabulary logits over the pooled tokens."""
    return (torch.log1p(torch.relu(hidden)) * tokens.mask.unsqueeze(-1).to(hidden.dtype)).sum(1)


POOLS: dict[Pool, Callable[[torch.Tensor, Tokens], torch.Tensor]] = {
    "cls": cls, "mean": mean, "max": maximum, "mean_sqrt_len": mean_sqrt_len, "weightedmean": weightedmean,
    "last": last,
    "tokens": every, "step": every, "splade": splade, "splade_sum": splade_sum,
}  # fmt: skip
ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh, "relu": torch.relu, "gelu": nn.functional.gelu,
    "gelu_tanh": partial(nn.functional.gelu, approximate="tanh"), "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
    "identity": lambda value: value, "log1p_relu": lambda value: torch.log1p(torch.relu(value)),
}  # fmt: skip


class StepModule(nn.Module):
    """One layer of a head: [..., width] -> [..., width of the layer]."""

    def __init__(self, checkpoint: Checkpoint, step: LayerStep) -> None:
        super().__init__()
        opened = tensors(checkpoint, step.layer.where)
        weight = _rows(opened, step, step.weight) if step.layer.rows else opened.read(step.weight).float()
        bias = None
        if step.bias is not None:
            bias = _rows(opened, step, step.bias) if step.layer.rows else opened.read(step.bias).float()
        if step.layer.kind == "linear":
            inner: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        else:
            inner = nn.LayerNorm(weight.shape[0], eps=step.eps, bias=bias is not None)
        inner.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        self.inner = inner
        self.activation = _activation(checkpoint, step, opened)
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


def _activation(
    checkpoint: Checkpoint, step: LayerStep, opened: Weights
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Returns the activation of a step with its learned parameters. Raises CheckpointError if they are
    missing."""
    if step.activation in ACTIVATIONS:
        return ACTIVATIONS[step.activation]
    activation = torch_activation(checkpoint.source, step.activation)
    state = activation.state_dict()  # PReLU learns its slope
    if state:
        keys = {name: opened.find(f"activation_function.{name}") for name in state}
        missing = [name for name, key in keys.items() if key is None]
        if missing:
            raise CheckpointError(
                f"{checkpoint.source}: activation {step.activation!r} lacks "
                f"{', '.join(missing)} in {step.layer.where}"
            )
        activation.load_state_dict({name: opened.read(str(key)).float() for name, key in keys.items()})
    return activation


def _rows(opened: Weights, step: LayerStep, name: str) -> torch.Tensor:
    """Returns the rows of a tensor that a step uses. Where several are one entry, the first minus the others.

    This is done in float32, because two rows of a language model's output are close to each other.
    """
    tokens = [token for rows in step.layer.rows for token in rows]
    row_of = dict(zip(tokens, opened.rows(name, tokens).float(), strict=True))
    return torch.stack(
        [
            row_of[first] - sum((row_of[token] for token in others), start=torch.zeros(()))
            for first, *others in step.layer.rows
        ]
    )


class HeadsModule(nn.Module):
    """Hidden states [batch, tokens, hidden], mask and ids [batch, tokens] -> a tensor of each part, in order.

    Where a part mixes layers (`wants_layers`), hidden states are [layers, batch, tokens, hidden].
    """

    def __init__(self, checkpoint: Checkpoint, parts: tuple[TaskHead, ...]) -> None:
        super().__init__()
        self.parts = parts
        # Tasks that have the same step (a Dense for texts and for tokens) share its weights in the graph.
        different = list(dict.fromkeys(step for part in parts for step in (*part.before, *part.after)))
        modules = (
            OPERATIONS[step.kind](checkpoint, step)
            if isinstance(step, Operation)
            else StepModule(checkpoint, step)
            for step in different
        )
        self.layers = nn.ModuleList(modules)
        self.places = {step: index for index, step in enumerate(different)}
        self.wants_layers = any(
            isinstance(step, Operation) and step.kind == "layer_mix" for step in different
        )

    def forward(
        self,
        hidden: torch.Tensor,
        mask: torch.Tensor,
        ids: torch.Tensor,
        pooled: torch.Tensor | None = None,
        kinds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Computes every part.

        Args:
            pooled: the mask of the tokens to pool, [batch, tokens]; None: all of `mask`.
            kinds: the kind of each token (runtime/inputs/items.py), [batch, tokens]; static words need it.
        """
        hidden = hidden.float()
        outputs = []
        for part in self.parts:
            mixes = any(isinstance(step, Operation) and step.kind == "layer_mix" for step in part.before)
            value, weights = hidden[-1] if self.wants_layers and not mixes else hidden, None
            for step in part.before:
                module = self.layers[self.places[step]]
                if isinstance(step, Operation) and step.kind == "word_weights":
                    weights = module(ids) * mask.to(value.dtype)
                    value = value * weights.unsqueeze(-1)
                elif isinstance(step, Operation) and step.kind == "convolve":
                    value = module(value, mask)
                else:
                    value = module(value)
            tokens = Tokens(mask if pooled is None else pooled, mask, weights)
            if part.pools:
                value = torch.cat([POOLS[pool](value, tokens) for pool in part.pools], dim=-1)
            for step in part.after:
                module = self.layers[self.places[step]]
                words = isinstance(step, Operation) and step.kind == "static_words"
                value = module(value, ids, mask, kinds) if words else module(value)
            outputs.append(value)
        return tuple(outputs)

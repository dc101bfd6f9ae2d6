"""What heads do besides layers, as torch modules in float32: modules of Sentence Transformers that are no
linear map, and what language models do to their logits.

Each class takes the checkpoint and an Operation, whose fields are explained in layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ...runtime.errors import CheckpointError
from ...runtime.inputs.items import STATIC
from . import static_words
from .layers import Operation, tensors

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


def tensor(checkpoint: Checkpoint, where: str, *names: str) -> torch.Tensor:
    """Reads the first of `names` that the folder `where` has. Raises CheckpointError where it has none."""
    opened = tensors(checkpoint, where)
    stored = next((key for name in names if (key := opened.find(name)) is not None), None)
    if stored is None:
        raise CheckpointError(f"{checkpoint.source}: missing {names[0]} in {where}")
    return opened.read(stored).float()


class Normalize(nn.Module):
    """Divides vectors by their length."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return functional.normalize(value, dim=-1)


class WordWeights(nn.Module):
    """Ids [batch, tokens] -> the weight of each."""

    table: torch.Tensor

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.register_buffer("table", tensor(checkpoint, operation.where, "emb_layer.weight")[:, 0])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table[ids]


class LayerMix(nn.Module):
    """Hidden states [layers, batch, tokens, hidden] -> their weighted mean from layer `number` on."""

    shares: torch.Tensor

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.start = int(operation.number)
        weights = tensor(checkpoint, operation.where, "layer_weights")
        self.register_buffer("shares", weights / weights.sum())

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return (value[self.start :] * self.shares[:, None, None, None]).sum(0)


class Convolutions(nn.Module):
    """Convolutions over neighbouring tokens, whose results are concatenated: [batch, tokens, width] ->
    [batch, tokens, kernels * channels]. Padding counts as 0, as does what is outside a text."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        opened = tensors(checkpoint, operation.where)
        count = sum(name.startswith("convs.") and name.endswith(".weight") for name in opened)
        convolutions = []
        for index in range(count):
            weight, bias = (
                tensor(checkpoint, operation.where, f"convs.{index}.{last}") for last in ("weight", "bias")
            )
            layer = nn.Conv1d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2)
            layer.load_state_dict({"weight": weight, "bias": bias})
            convolutions.append(layer)
        self.layers = nn.ModuleList(convolutions)

    def forward(self, value: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        columns = (value * mask.unsqueeze(-1).to(value.dtype)).transpose(1, 2)
        return torch.cat([layer(columns) for layer in self.layers], dim=1).transpose(1, 2)


class SparseCode(nn.Module):
    """The encoder of SparseAutoEncoder: keeps the `number` largest latents and sets negative ones to 0."""

    bias: torch.Tensor
    weight: torch.Tensor
    shift: torch.Tensor

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.register_buffer("shift", tensor(checkpoint, operation.where, "pre_bias"))
        self.register_buffer(
            "weight", tensor(checkpoint, operation.where, "encoder.weight", "decoder.linear.weight")
        )
        self.register_buffer("bias", tensor(checkpoint, operation.where, "latent_bias"))
        self.count, self.standardised = int(operation.number), operation.flag

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        if self.standardised:
            value = value - value.mean(dim=-1, keepdim=True)
            value = value / (value.std(dim=-1, keepdim=True) + 1e-5)
        return torch.relu(_largest(functional.linear(value - self.shift, self.weight, self.bias), self.count))


class Largest(nn.Module):
    """Keeps the `number` largest values and sets the others to 0."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.count = int(operation.number)

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return _largest(value, self.count)


def _largest(value: torch.Tensor, count: int) -> torch.Tensor:
    if count >= value.shape[-1]:
        return value
    largest = torch.topk(value, count, dim=-1)
    return torch.zeros_like(value).scatter(-1, largest.indices, largest.values)


class Log1pRelu(nn.Module):
    """log(1 + relu(x))."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return torch.log1p(torch.relu(value))


class Scale(nn.Module):
    """Multiplies by `number`."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.factor = operation.number

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value * self.factor


class Cap(nn.Module):
    """Bounds logits by `number`, smoothly, as Gemma 2 does."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.bound = operation.number

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return self.bound * torch.tanh(value / self.bound)


class Subtract(nn.Module):
    """[..., 2] -> [..., 1]: the first minus the second."""

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return value[..., :1] - value[..., 1:]


class StaticWords(nn.Module):
    """Replaces the rows of queries by the weights of the words that they contain, [batch, vocabulary].

    Rows of documents keep what the model computed.
    """

    table: torch.Tensor

    def __init__(self, checkpoint: Checkpoint, operation: Operation) -> None:
        super().__init__()
        self.register_buffer("table", static_words.table(checkpoint, operation.where, int(operation.number)))

    def forward(
        self, value: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, kinds: torch.Tensor
    ) -> torch.Tensor:
        width = self.table.shape[0]
        # Padding writes to an extra column, so that all writes to a column have the same value.
        places = torch.where(mask > 0, ids, width)
        contains = value.new_zeros(value.shape[0], width + 1).scatter(
            1, places, torch.ones_like(places, dtype=value.dtype)
        )[:, :width]
        return torch.where(
            (kinds == STATIC).to(value.dtype).amax(1, keepdim=True) > 0, contains * self.table, value
        )


OPERATIONS: dict[str, Callable[[Checkpoint, Operation], nn.Module]] = {
    "normalize": Normalize, "word_weights": WordWeights, "layer_mix": LayerMix, "convolve": Convolutions,
    "code": SparseCode,
    "largest": Largest, "scale": Scale, "cap": Cap, "subtract": Subtract, "log1p_relu": Log1pRelu,
    "static_words": StaticWords,
}  # fmt: skip

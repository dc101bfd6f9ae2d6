"""Finding the tensors of a head's layers and following their widths, so that a head that is not whole fails before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..runtime.errors import CheckpointError
from . import weights
from .architectures import Layer
from .checkpoint import Checkpoint

# Activations inside a head, by the last part of a torch class name in lower case.
ACTIVATIONS = ("identity", "tanh", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "log1p_relu")
SPELLINGS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_python": "gelu", "swish": "silu", "linear": "identity"}
"""transformers' names of the same functions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A layer with its tensors found."""

    layer: Layer
    weight: str
    bias: str | None
    residual: str | None
    activation: str
    """One of ACTIVATIONS."""
    eps: float


def hidden_size(checkpoint: Checkpoint) -> int:
    width = checkpoint.family.width
    return checkpoint.number("hidden_size") if width is None else width(checkpoint.config)


def dense(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    found = checkpoint.sentence.dense if checkpoint.sentence else ()
    return tuple(
        Layer(name="linear", names=("dense", ""), where=dense.folder, bias=dense.bias, activation=dense.activation, residual=dense.residual)
        for dense in found
    )


def tensors(checkpoint: Checkpoint, where: str) -> weights.Weights:
    """The weights a layer names: the model's own, those of a folder inside the checkpoint, or a file."""
    if not where:
        return checkpoint.weights
    path = next((home / where for home in (checkpoint.beside, checkpoint.folder) if (home / where).exists()), None)
    if path is None:
        raise CheckpointError(f"{checkpoint.source}: {where} is missing; the head of {checkpoint.architecture} is in it")
    return weights.open_folder(path) if path.is_dir() else weights.open_files([path])


def steps(checkpoint: Checkpoint, layers: Sequence[Layer], width: int) -> tuple[tuple[Step, ...], int]:
    """Finds each layer's tensors and follows the widths; raises CheckpointError with all that is missing or does not fit."""
    made: list[Step] = []
    problems: list[str] = []
    for layer in layers:
        opened = tensors(checkpoint, layer.where)
        prefixes = () if layer.where else checkpoint.family.prefixes
        at = f" in {layer.where}" if layer.where else ""

        def key(name: str, last: str) -> str:
            return f"{name}.{last}" if name else last

        def look(last: str, layer: Layer = layer, opened: weights.Weights = opened, prefixes: tuple[str, ...] = prefixes) -> str | None:
            names = (layer.name, *layer.names)
            return next((found for name in names if (found := opened.find(key(name, last), prefixes)) is not None), None)

        weight, bias = look("weight"), look("bias") if layer.bias is not False else None
        if weight is None:
            problems.append(f"missing {key(layer.name, 'weight')}{at}")
        if bias is None and layer.bias is True:
            problems.append(f"missing {key(layer.name, 'bias')}{at}")
        if weight is None:
            continue
        shape = opened.shapes[weight]
        if shape[-1] != width and not problems:
            problems.append(f"{weight}{at} has shape {list(shape)}, expected {width} columns")
        width = (len(layer.rows) or shape[0]) if layer.kind == "linear" else width
        residual = opened.find("residual.weight") if layer.residual else None
        made.append(Step(
            layer=layer, weight=weight, bias=bias, residual=residual, activation=_inner_activation(checkpoint, layer),
            eps=float(checkpoint.config.get(*layer.eps)) if isinstance(layer.eps, tuple) else layer.eps,
        ))  # fmt: skip
    if problems:
        raise CheckpointError(f"{checkpoint.source}: the head of {checkpoint.architecture} is not complete: {'; '.join(problems)}")
    return tuple(made), width


def widths(checkpoint: Checkpoint, made: Sequence[Step]) -> list[int]:
    return [tensors(checkpoint, step.layer.where).shapes[step.weight][0] for step in made]


def _inner_activation(checkpoint: Checkpoint, layer: Layer) -> str:
    asked = layer.activation
    if asked.startswith("@"):
        asked = str(checkpoint.config.get(asked[1:], "gelu"))
    name = asked.rsplit(".", 1)[-1].lower()
    name = SPELLINGS.get(name, name)
    if name not in ACTIVATIONS:
        raise CheckpointError(f"{checkpoint.source}: activation {asked!r} inside a head; known are {', '.join(ACTIVATIONS)}")
    return name

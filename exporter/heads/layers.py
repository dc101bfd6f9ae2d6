"""Finds the tensors of a head's layers and follows their widths; an incomplete head fails before any work."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...runtime.errors import CheckpointError
from ..checkpoint import Checkpoint
from ..families.registry import Layer
from ..files import weights

# Activations inside a head, by the last part of a torch class name in lower case.
ACTIVATIONS = ("identity", "tanh", "relu", "gelu", "gelu_tanh", "silu", "sigmoid", "log1p_relu")
SPELLINGS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python": "gelu",
    "swish": "silu",
    "linear": "identity",
}
"""Other names that transformers has for these functions."""
NN = "torch.nn.modules."


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerStep:
    """A layer with its tensors found."""

    layer: Layer
    weight: str
    bias: str | None
    residual: str | None
    """Names of tensors; None: the layer has none."""
    activation: str
    """One of ACTIVATIONS, or a dotted class of torch.nn."""
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """What a head does besides layers; the torch modules are in operations.py."""

    kind: Literal[
        "normalize", "word_weights", "layer_mix", "convolve", "code", "scale", "cap", "subtract", "largest",
        "log1p_relu", "static_words",
    ]  # fmt: skip
    where: str = ""
    """Folder of the module whose tensors it reads; empty: none."""
    number: float = 0.0
    """scale: the factor; cap: the bound; code, largest: how many values stay; static_words: the width;
    layer_mix: the first layer that counts."""
    flag: bool = False
    """code: whether its input is standardised."""


Steps = tuple[LayerStep | Operation, ...]


def hidden_size(checkpoint: Checkpoint) -> int:
    """Returns the width of the hidden states."""
    width = checkpoint.family.width
    return checkpoint.number("hidden_size") if width is None else width(checkpoint.config)


def tensors(checkpoint: Checkpoint, where: str) -> weights.Weights:
    """Returns the weights that a layer names: the model's own, or those of a folder or file beside it.

    Raises CheckpointError where it is missing.
    """
    if not where:
        return checkpoint.weights
    path = next(
        (home / where for home in (checkpoint.beside, checkpoint.folder) if (home / where).exists()), None
    )
    if path is None:
        raise CheckpointError(
            f"{checkpoint.source}: {where} is missing; the head of {checkpoint.architecture} is in it"
        )
    return weights.open_folder(path) if path.is_dir() else weights.open_files([path])


def steps(checkpoint: Checkpoint, layers: Sequence[Layer], width: int) -> tuple[tuple[LayerStep, ...], int]:
    """Finds the tensors of each layer; returns the steps and the width of the last one.

    Raises CheckpointError with every tensor that is missing or does not fit.
    """
    complete: list[LayerStep] = []
    problems: list[str] = []
    for layer in layers:
        opened = tensors(checkpoint, layer.where)
        prefixes = () if layer.where else checkpoint.family.prefixes
        at = f" in {layer.where}" if layer.where else ""

        def key(name: str, last: str) -> str:
            return f"{name}.{last}" if name else last

        def look(
            last: str,
            layer: Layer = layer,
            opened: weights.Weights = opened,
            prefixes: tuple[str, ...] = prefixes,
        ) -> str | None:
            names = (layer.name, *layer.names)
            return next(
                (stored for name in names if (stored := opened.find(key(name, last), prefixes)) is not None),
                None,
            )

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
        activation = _inner_activation(checkpoint, layer)
        width = _activated_width(checkpoint, activation, width)
        eps = float(checkpoint.config.get(*layer.eps)) if isinstance(layer.eps, tuple) else layer.eps
        complete.append(
            LayerStep(
                layer=layer, weight=weight, bias=bias, residual=residual, activation=activation, eps=eps
            )
        )
    if problems:
        raise CheckpointError(
            f"{checkpoint.source}: the head of {checkpoint.architecture} is not "
            f"complete: {'; '.join(problems)}"
        )
    return tuple(complete), width


def _inner_activation(checkpoint: Checkpoint, layer: Layer) -> str:
    """Returns one of ACTIVATIONS, or a dotted class of torch.nn. Raises CheckpointError for any other."""
    stored = layer.activation
    if stored.startswith("@"):  # a key of config.json
        stored = str(checkpoint.config.get(stored[1:], "gelu"))
    name = stored.rsplit(".", 1)[-1].lower()
    name = SPELLINGS.get(name, name)
    if name in ACTIVATIONS and (stored.startswith("torch.nn.modules.") or "." not in stored):
        return name
    if "." in stored:
        torch_activation(checkpoint.source, stored)
        return stored
    raise CheckpointError(
        f"{checkpoint.source}: activation {stored!r} inside a head; known are {', '.join(ACTIVATIONS)}"
    )


def torch_activation(source: str, name: str) -> Any:
    """Returns a new module of a class of torch.nn; one that mixes values does it along the last axis.

    Raises CheckpointError for other code, for a class that needs arguments, and for one that refuses vectors.
    """
    import torch

    module, _, last = name.rpartition(".")
    kind = (
        getattr(importlib.import_module(module), last, None)
        if module == "torch.nn" or module.startswith(NN)
        else None
    )
    if not (isinstance(kind, type) and issubclass(kind, torch.nn.Module)):
        raise CheckpointError(
            f"{source}: activation {name!r} inside a head; expected a class of "
            "torch.nn, as no other code is run"
        )
    try:
        activation = kind().eval().requires_grad_(False)
    except TypeError:
        raise CheckpointError(
            f"{source}: activation {name!r} inside a head needs arguments that no file holds"
        ) from None
    if "dim" in vars(activation) and activation.dim is None:
        activation.dim = -1  # pyright: ignore[reportArgumentType]
    try:
        value = activation(torch.zeros(2, 4))
        fits = isinstance(value, torch.Tensor) and value.shape[:1] == (2,) and value.dim() == 2
    except (RuntimeError, TypeError, ValueError, NotImplementedError):
        fits = False
    if not fits:
        raise CheckpointError(
            f"{source}: activation {name!r} inside a head does not take vectors; expected one that does"
        )
    return activation


def _activated_width(checkpoint: Checkpoint, name: str, width: int) -> int:
    """Returns the width behind an activation, which GLU halves."""
    if "." not in name:
        return width
    import torch

    return int(torch_activation(checkpoint.source, name)(torch.zeros(2, width)).shape[-1])

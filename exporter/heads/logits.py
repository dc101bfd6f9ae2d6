"""Finds what a language model does to its logits behind the output matrix, by running transformers' class.

The backbone is replaced by fixed hidden states and the output matrix by a small one. The logits then show
whether the class multiplies, divides or bounds them. What no number of config.json explains is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ..base.quiet import silent_transformers
from .layers import Operation

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

_VOCABULARY = 6
_CLOSE = 1e-5


@dataclass(frozen=True, slots=True)
class Output:
    """The output layer of a language model."""

    name: str
    """Name of the matrix in the class; where it is tied, name of the token table."""
    has_bias: bool
    operations: tuple[Operation, ...]
    """What the class does to the logits."""


def read(checkpoint: Checkpoint) -> Output:
    """Returns the output layer of the checkpoint's language model.

    Raises CheckpointError where transformers has no such model, or where its change of logits is unknown.
    """
    import torch
    import transformers
    from torch import nn
    from transformers.models.auto import modeling_auto as auto

    model_type = str(checkpoint.config.get("model_type", ""))
    # Those of the second list read pictures too.
    lists = (auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)
    name = next((names[model_type] for names in lists if model_type in names), None)
    if name is None:
        raise CheckpointError(
            f"{checkpoint.source}: LogitScore needs a language model of transformers; "
            f"model_type {model_type!r} has none"
        )
    kind: Any = getattr(transformers, name)
    settings = {key: value for key, value in checkpoint.config.items() if key != "auto_map"}
    try:
        with silent_transformers(), torch.device("meta"):
            config = kind.config_class.from_dict(settings)
            model = kind(config).eval()
        head, table = model.get_output_embeddings(), model.get_input_embeddings()
        names = {id(module): path for path, module in model.named_modules()}
        if type(head) is not nn.Linear:
            raise CheckpointError(
                f"{checkpoint.source}: the output of {name} is a {type(head).__name__}; LogitScore is "
                "known behind a linear layer"
            )
        raw, logits = _probed(model, head)
    except CheckpointError:
        raise
    except Exception as error:  # any error of transformers' class means that it does not have the usual shape
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(
            f"{checkpoint.source}: what {name} does to its logits could not be read: {reason}"
        ) from error
    for operations in _candidates(config):
        expected = _applied(operations, raw)
        if logits.shape == raw.shape and torch.allclose(expected, logits, rtol=_CLOSE, atol=_CLOSE):
            tied = bool(getattr(config, "tie_word_embeddings", False))
            return Output(names[id(table)] if tied else names[id(head)], head.bias is not None, operations)
    raise CheckpointError(
        f"{checkpoint.source}: {name} does something to its logits that poolrt does not know; known "
        "are a factor and a bound of config.json"
    )


def _probed(model: Any, head: torch.nn.Linear) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns logits of a small output matrix and those that the class makes of them, [1, 3, vocabulary]."""
    import torch
    from transformers.modeling_outputs import MoeModelOutputWithPast

    generator = torch.Generator().manual_seed(0)
    width = head.in_features
    hidden = torch.randn(1, 3, width, generator=generator)
    small = torch.nn.Linear(width, _VOCABULARY, bias=head.bias is not None)
    with torch.no_grad():
        small.weight.copy_(torch.randn(small.weight.shape, generator=generator) * 20 / width**0.5)
        if small.bias is not None:
            small.bias.copy_(torch.randn(small.bias.shape, generator=generator))

    class Hidden(MoeModelOutputWithPast):
        """Hidden states alone. What a class of pictures reads besides is missing."""

        def __getattr__(self, name: str) -> None:
            if name.startswith("_"):
                raise AttributeError(name)

    model.set_output_embeddings(small)
    getattr(model, model.base_model_prefix).forward = lambda *_, **__: Hidden(last_hidden_state=hidden)
    with torch.inference_mode():
        logits = model(input_ids=torch.zeros(1, 3, dtype=torch.int64), use_cache=False).logits
        return small(hidden), logits


def _candidates(config: Any) -> list[tuple[Operation, ...]]:
    """Returns what the class may do: nothing, or a factor, a divisor or a bound that config.json has."""
    numbers = {
        key: float(value)
        for key, value in vars(config).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    words = ("logit", "lm_head", "head", "scal", "cap", "mult", "mup")
    usable = sorted(
        {
            value
            for key, value in numbers.items()
            if value not in (0.0, 1.0) and any(word in key for word in words)
        }
    )
    return [
        (),
        *((Operation(kind="scale", number=value),) for value in usable),
        *((Operation(kind="scale", number=1 / value),) for value in usable),
        *((Operation(kind="cap", number=value),) for value in usable),
    ]


def _applied(operations: tuple[Operation, ...], value: torch.Tensor) -> torch.Tensor:
    """Returns `value` after the operations."""
    import torch

    for operation in operations:
        value = (
            value * operation.number
            if operation.kind == "scale"
            else operation.number * torch.tanh(value / operation.number)
        )
    return value

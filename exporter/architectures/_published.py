"""Published classes of transformers with their own head, run as they are: for heads that no table of ours describes."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from ._transformers import backbone

if TYPE_CHECKING:
    from torch import nn

    from ..checkpoint import Checkpoint

HeadKind = Literal["classify", "token_classify", "splade"]


def class_name(checkpoint: Checkpoint, kind: HeadKind) -> str | None:
    """transformers' class of this model_type with such a head; None: it has none, or the checkpoint names a class of another code."""
    from transformers.models.auto import modeling_auto as auto

    tables: dict[HeadKind, Any] = {
        "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token_classify": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "splade": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }
    name = tables[kind].get(str(checkpoint.config.get("model_type")))
    return name if kind == "splade" or name == checkpoint.architecture else None


def labels(checkpoint: Checkpoint, name: str) -> int:
    """Columns of the logits of class `name`."""
    import transformers

    settings = {key: value for key, value in checkpoint.config.items() if key != "auto_map"}
    config = getattr(transformers, name).config_class.from_dict(settings)
    return int(config.vocab_size if name.endswith(("ForMaskedLM", "WithLMHeadModel")) else config.num_labels)


def load(checkpoint: Checkpoint, name: str) -> nn.Module:
    """Class `name` with its head; its forward returns an object with `logits`. Raises CheckpointError."""
    import transformers

    kind = getattr(transformers, name)
    settings = dict(checkpoint.config)
    if "use_cache" in settings:
        settings["use_cache"] = False
    return backbone(checkpoint, name, config=settings, attention="sdpa" if kind._supports_sdpa else "eager")


def takes(name: str, parameter: str) -> bool:
    """Whether the forward of transformers' class `name` has that parameter."""
    import transformers

    return parameter in inspect.signature(getattr(transformers, name).forward).parameters

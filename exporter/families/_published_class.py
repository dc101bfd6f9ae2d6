"""Published classes of transformers with their own head, for heads that no family describes by layers."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Literal

from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

HeadKind = Literal["classify", "token_classify", "splade"]


def class_name(config: Config, architecture: str, kind: HeadKind) -> str | None:
    """transformers' class of this model_type with such a head.

    None where it has none, or where `architecture` is a class that transformers does not know.
    """
    from transformers.models.auto import modeling_auto as auto

    tables: dict[HeadKind, Any] = {
        "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
        "token_classify": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        "splade": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    }
    name = tables[kind].get(str(config.get("model_type")))
    return name if kind == "splade" or name == architecture else None


def labels(files: Files, name: str) -> int:
    """How many logits class `name` returns."""
    import transformers

    settings = {key: value for key, value in files.config.items() if key != "auto_map"}
    config = getattr(transformers, name).config_class.from_dict(settings)
    return int(config.vocab_size if name.endswith(("ForMaskedLM", "WithLMHeadModel")) else config.num_labels)


def load(files: Files, name: str) -> nn.Module:
    """Class `name` with its head; its forward returns an object with `logits`. Raises CheckpointError."""
    import transformers

    kind = getattr(transformers, name)
    settings = dict(files.config)
    if "use_cache" in settings:
        settings["use_cache"] = False
    return backbone(files, name, config=settings, attention="sdpa" if kind._supports_sdpa else "eager")


def takes(name: str, parameter: str) -> bool:
    """Whether the forward of transformers' class `name` has that parameter."""
    import transformers

    return parameter in inspect.signature(getattr(transformers, name).forward).parameters

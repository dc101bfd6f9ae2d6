"""What decoder families share: rotary positions, a causal mask that config.json may lift, last-token pooling,
a `score` layer without bias.

The graph computes masks and rotary angles from the length of the text, by transformers' code. Nothing of the
size of a long text is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer, Past

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

SCORE = (Layer(name="score", bias=None),)
SEQUENCE = Classifier(pool="last", layers=SCORE, tokens=SCORE)
INPUTS = ("input_ids", "attention_mask")
# Rotary scalings that max_position_embeddings includes already (vLLM's ModelConfig).
COUNTED = ("default", "su", "longrope", "llama3", "proportional")


def load(files: Files, name: str, *, attention: str = "sdpa", **settings: Any) -> nn.Module:
    """transformers' class `name`. `settings` override config.json; `is_causal` false in either lifts the
    causal mask."""
    return backbone(files, name, attention=attention, config={**files.config, "use_cache": False, **settings})


def positions(config: Config) -> int:
    """max_position_embeddings, multiplied by a rotary scaling that it does not include, as vLLM does."""
    longest = int(config["max_position_embeddings"])
    scaling = rope(config)
    kind, factor = scaling.get("rope_type", scaling.get("type", "default")), scaling.get("factor")
    if kind in COUNTED:
        return longest
    if kind == "yarn":
        longest = int(scaling.get("original_max_position_embeddings") or longest)
    return int(longest * float(factor or 1.0))


def rope(config: Config) -> Mapping[str, Any]:
    """The rotary settings, under today's key or the older one."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def past(config: Config) -> Past | None:
    """The keys and values of a decoder whose tokens attend to all earlier ones and to no later one, in every
    layer. None for any other, and where rotary frequencies depend on the length of the text."""
    kinds = set(config.get("layer_types") or ["full_attention"])
    both_ways = config.get("is_causal") is False or config.get("use_bidirectional_attention")
    scaling = rope(config)
    stretched = scaling.get("rope_type", scaling.get("type", "default")) in ("dynamic", "longrope", "su")
    if both_ways or stretched or windowed(config) or kinds != {"full_attention"}:
        return None
    heads = int(config["num_attention_heads"])
    return Past(
        layers=int(config["num_hidden_layers"]),
        heads=int(config.get("num_key_value_heads") or heads),
        width=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
    )


def windowed(config: Config) -> bool:
    """Whether tokens attend to their neighbours only. Mistral's class takes a window where config.json states
    none; Qwen's take one only where it says so."""
    if config.get("model_type") == "mistral":
        return config.get("sliding_window", "a default") is not None
    return bool(config.get("use_sliding_window"))


def family(
    *, model_types: tuple[str, ...], stem: str, name: str = "", names: tuple[str, ...] = (), **more: Any
) -> Architecture:
    """The record of a decoder with the classes <stem>Model, <stem>ForCausalLM,
    <stem>ForSequenceClassification and <stem>ForTokenClassification.

    `name`: transformers' class of the backbone, <stem>Model by default. `names`: more published class names.
    `more` overrides fields of the record.
    """
    published = tuple(
        f"{stem}{suffix}"
        for suffix in ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
    )
    kind = name or f"{stem}Model"
    settings: dict[str, Any] = {
        "inputs": INPUTS,
        "load": lambda files: load(files, kind),
        "prefixes": ("model.",),
        "pool": "last",
        "positions": positions,
        "capped_by_tokenizer": False,
        "sequence": SEQUENCE,
        "tokens": SCORE,
    }
    return Architecture(model_types=model_types, names=(*published, *names), **settings | more)

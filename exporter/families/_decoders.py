"""What decoder families share: rotary positions, a causal mask that config.json may lift, the last token
pooled, a bias-free `score`.

Masks and rotary angles are made by transformers from the length while the graph runs: nothing of the size
of a long text is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

SCORE = (Layer(name="score", bias=None),)
SEQUENCE = Classifier(pool="last", layers=SCORE, tokens=SCORE)
INPUTS = ("input_ids", "attention_mask")
# Scalings whose max_position_embeddings already counts them (vLLM's ModelConfig).
COUNTED = ("default", "su", "longrope", "llama3", "proportional")
SIZES: dict[str, Any] = {
    "vocab_size": 112, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16,
    "intermediate_size": 48, "max_position_embeddings": 128,
}  # fmt: skip


def load(files: Files, name: str, *, attention: str = "sdpa", **settings: Any) -> nn.Module:
    """transformers' class `name`; `settings` go over config.json. `is_causal` false in
    either lifts the causal mask."""
    return backbone(files, name, attention=attention, config={**files.config, "use_cache": False, **settings})


def positions(config: Config) -> int:
    """max_position_embeddings, stretched by those rotary scalings that do not count it yet, as vLLM does."""
    longest = int(config["max_position_embeddings"])
    scaling = rope(config)
    kind, factor = (
        scaling.get("rope_type", scaling.get("type", "default")),
        float(scaling.get("factor") or 1.0),
    )
    if kind in COUNTED:
        return longest
    if kind == "yarn":
        longest = int(scaling.get("original_max_position_embeddings") or longest)
    return int(longest * factor)


def rope(config: Config) -> Mapping[str, Any]:
    """The rotary settings, under today's key or yesterday's."""
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def family(
    *, model_types: tuple[str, ...], stem: str, name: str = "", names: tuple[str, ...] = (), **more: Any
) -> Architecture:
    """A decoder named `stem`: <stem>Model, <stem>ForCausalLM, <stem>ForSequenceClassification,
    <stem>ForTokenClassification."""
    published = tuple(
        f"{stem}{suffix}"
        for suffix in ("Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification")
    )
    kind = name or f"{stem}Model"
    settings: dict[str, Any] = {
        "inputs": INPUTS, "load": lambda files: load(files, kind), "prefixes": ("model.",), "pool": "last",
        "positions": positions, "capped_by_tokenizer": False, "sequence": SEQUENCE, "tokens": SCORE,
        "tiny": SIZES,
    }  # fmt: skip
    return Architecture(model_types=model_types, names=(*published, *names), **settings | more)

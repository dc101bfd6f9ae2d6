"""Nomic BERT (https://arxiv.org/abs/2402.01613), the dense gated models: nomic-embed-text v1 and v1.5,
arctic-embed-m-long, CodeRankEmbed.

config.json has GPT-2's keys, and in newer revisions transformers' as well. transformers has a class for them,
which reads the translated keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from ._transformers import backbone
from .registry import Architecture, Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    return backbone(files, "NomicBertModel", add_pooling_layer=False)


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return not config.get("num_experts") and any(".mlp.fc11." in name for name in shapes)


NAMES = {
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "layer_norm_epsilon": "layer_norm_eps",
    "embd_pdrop": "hidden_dropout_prob",
}
ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
# Values of the published models, which transformers' class implements. Models with others are not published.
EXPECTED = {
    "prenorm": False,
    "parallel_block": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
    "use_rms_norm": False,
    "use_rms_norm_eps": None,
}


def translate(config: Config) -> Config:
    """Adds the keys of transformers that are missing. Raises CheckpointError for settings not in EXPECTED."""
    wrong = [
        f"{key} {config[key]!r}" for key, value in EXPECTED.items() if config.get(key) not in (None, value)
    ]
    if wrong:
        raise CheckpointError(
            f"config.json: {', '.join(wrong)} of nomic_bert is not supported; expected {EXPECTED}"
        )
    added = {
        new: config[old] for old, new in NAMES.items() if new not in config and config.get(old) is not None
    }
    if "hidden_act" not in config and (activation := config.get("activation_function")):
        added["hidden_act"] = ACTIVATIONS.get(activation, activation)
    if not config.get("rope_parameters") and "rope_theta" not in config:
        added["rope_parameters"] = {
            "rope_type": "default",
            "rope_theta": float(config.get("rotary_emb_base", 10000.0)),
        }
    return {**config, **added}


def positions(config: Config) -> int:
    # These models are cut at the trained length, as in vLLM. Beyond it they would need scaled frequencies.
    limits = (config.get("max_position_embeddings", 2048), config.get("max_trained_positions"))
    return min(int(limit) for limit in limits if limit)


ARCHITECTURE = Architecture(
    model_types=("nomic_bert",),
    names=("NomicBertModel",),
    inputs=("input_ids", "attention_mask"),  # token types are zeros in every published use
    load=load,
    matches=matches,
    translate=translate,
    prefixes=("nomic_bert.", "bert."),
    pool="cls",  # vLLM's default; the files of every published model state another
    positions=positions,
    settings=tuple(EXPECTED),
    capped_by_tokenizer=False,
)

"""Nomic BERT with plain layers, and with experts in every second one (nomic-embed-text-v2-moe,
https://arxiv.org/abs/2502.07972).

transformers has no class for these, so their module is exporter/families/modules/nomic_moe.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from . import nomic
from .registry import Architecture, Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files


def load(files: Files) -> nn.Module:
    from .modules.nomic_moe import NomicMoe, Sizes

    config = files.config
    if config.get("moe_normalize_expert_weights"):
        raise CheckpointError(
            f"{files.source}: moe_normalize_expert_weights true is not supported; no published model has it"
        )
    sizes = Sizes(
        hidden=int(config["hidden_size"]),
        heads=int(config["num_attention_heads"]),
        inner=int(config["intermediate_size"]),
        layers=int(config["num_hidden_layers"]),
        vocabulary=int(config["vocab_size"]),
        types=int(config.get("type_vocab_size", 0)),
        eps=float(config.get("layer_norm_eps", 1e-5)),
        theta=float((config.get("rope_parameters") or config)["rope_theta"]),
        activation=str(config.get("hidden_act", "gelu")),
        experts=int(config.get("num_experts") or 0),
        chosen=int(config.get("moe_top_k", 2)),
        every=int(config.get("moe_every_n_layers") or 0),
        attention_bias=bool(config.get("qkv_proj_bias", True)),
        inner_bias=bool(config.get("mlp_fc1_bias", True)),
        outer_bias=bool(config.get("mlp_fc2_bias", True)),
    )
    return NomicMoe(sizes).filled(files)


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return not nomic.matches(config, shapes)


ARCHITECTURE = Architecture(
    model_types=("nomic_bert",),
    names=("NomicBertModel",),
    inputs=("input_ids", "attention_mask"),
    load=load,
    matches=matches,
    translate=nomic.translate,
    prefixes=("nomic_bert.", "bert."),
    pool="cls",
    positions=nomic.positions,
    settings=tuple(nomic.EXPECTED),
    capped_by_tokenizer=False,
)

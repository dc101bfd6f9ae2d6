"""Qwen3.5 (https://qwen.ai/blog?id=qwen3.5): Qwen3-VL's vision tower without deepstack, and a text tower of
gated delta nets with full attention in every fourth layer.

It is published as a chat model; `--convert embed|classify` or vLLM's default makes a pooling model of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from . import _qwen3_vl
from ._decoders import SCORE, SEQUENCE
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

CONTRACT = "retrieval_attention_contract"
"""Key of config.json: which way the layers with full attention look."""
CONTRACTS = {"causal": True, "bidirectional": False}


def causal(source: str, config: Config) -> bool:
    """Whether a token attends to earlier ones only: by the contract, then by `is_causal`, else it does.

    Raises CheckpointError for contracts that differ, and for one that is not known.
    """
    inner = config.get("text_config") or {}
    stated = {value for value in (config.get(CONTRACT), inner.get(CONTRACT)) if value is not None}
    if len(stated) > 1:
        raise CheckpointError(
            f"{source}: config.json says {CONTRACT} {config.get(CONTRACT)!r}, its text_config "
            f"{inner.get(CONTRACT)!r}; --hf-overrides with both decides"
        )
    for value in stated:
        if value not in CONTRACTS:
            raise CheckpointError(
                f"{source}: {CONTRACT} {value!r}; expected {' or '.join(map(repr, CONTRACTS))}"
            )
        return CONTRACTS[value]
    return config.get("is_causal") is not False


def load(files: Files) -> nn.Module:
    from .modules.delta_net import HybridTower

    model = _qwen3_vl.both_towers(files, "Qwen3_5Model", _qwen3_vl.nested(files.config, "qwen3_5"))
    return HybridTower(model, causal=causal(files.source, files.config))


ARCHITECTURE = replace(
    _qwen3_vl.family(
        model_types=("qwen3_5",),
        names=("Qwen3_5Model", "Qwen3_5ForConditionalGeneration", "Qwen3_5ForSequenceClassification"),
        sequence=SEQUENCE,
        tokens=SCORE,
    ),
    load=load,
    vision=replace(_qwen3_vl.VISION_HALF, width=lambda config: int(config["hidden_size"])),
    sample_tokens=150,
)

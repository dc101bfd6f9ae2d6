"""InternLM2 (https://arxiv.org/abs/2403.17297): Llama under other names, with queries, keys and values in one
matrix.

The rows of `wqkv` are grouped by key head: first the queries that share it, then the key, then the value.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from ._decoders import family
from ._transformers import backbone
from .registry import Config, Layer, Reward

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
}
FUSED = re.compile(r"(.*)attention\.wqkv\.(weight|bias)")


def llama_state(state: dict[str, torch.Tensor], *, heads: int, key_heads: int) -> dict[str, torch.Tensor]:
    """The state dict under Llama's names, with queries, keys and values apart."""
    renamed: dict[str, torch.Tensor] = {}
    for name, tensor in state.items():
        if (fused := FUSED.fullmatch(name)) is not None:
            groups = tensor.unflatten(0, (key_heads, heads // key_heads + 2, -1))
            parts = {"q_proj": groups[:, :-2], "k_proj": groups[:, -2:-1], "v_proj": groups[:, -1:]}
            renamed |= {
                f"{fused[1]}self_attn.{part}.{fused[2]}": rows.flatten(0, 2) for part, rows in parts.items()
            }
            continue
        for old, new in NAMES.items():
            name = re.sub(rf"(^|\.){re.escape(old)}\.", rf"\g<1>{new}.", name)
        renamed[name] = tensor
    return renamed


def load(files: Files) -> nn.Module:
    config = files.config
    heads = files.number("num_attention_heads")
    key_heads = int(config.get("num_key_value_heads") or heads)
    if heads % key_heads:
        raise CheckpointError(f"{files.source}: {heads} heads do not divide into {key_heads} groups")
    biased = bool(config.get("bias", False))
    settings = {"model_type": "llama", "use_cache": False, "attention_bias": biased, "mlp_bias": False}
    return backbone(
        files,
        "LlamaModel",
        rename=lambda state: llama_state(state, heads=heads, key_heads=key_heads),
        config={**config, **settings},
    )


def positions(config: Config) -> int:
    return int(config["max_position_embeddings"])


ARCHITECTURE = family(
    model_types=("internlm2",),
    stem="InternLM2",
    names=("InternLM2ForRewardModel",),
    load=load,
    positions=positions,
    rewards={"InternLM2ForRewardModel": Reward(layers=(Layer(name="v_head", bias=False),), raw=False)},
)

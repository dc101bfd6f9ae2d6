"""Tiny decoders whose published tensors are not those of the transformers class that computes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    HIDDEN,
    TABLE,
    _hf,
    _json,
    configure,
    randomise,
    rewrite_weights,
    sentence_transformers_files,
)

from .decoder_tokens import lfm2_bpe
from .decoders import SIZES, WIDE, llama, qwen

MARKERS = ("[Q] ", "[D] ")


def linear(out: int, seed: int, width: int = HIDDEN) -> Any:
    import torch

    return randomise(torch.nn.Linear(width, out, bias=False), seed=seed).weight.detach()


def voyage(folder: Path, *, width: int = 96, **more: Any) -> Path:
    """voyageai/voyage-4-nano: Qwen3 under `model.` and a top-level `linear.weight` wider than the model."""
    settings = qwen(folder, **WIDE | more)
    _hf(folder, "Qwen3Model", architectures=["VoyageQwen3BidirectionalEmbedModel"], **settings)
    rewrite_weights(
        folder, lambda name: f"model.{name}", add={"linear.weight": linear(width, 5, settings["hidden_size"])}
    )
    # num_labels is the width of the vectors.
    configure(folder, use_bidirectional_attention=True, num_labels=width, id2label=None, label2id=None)
    sentence_transformers_files(
        folder,
        max_tokens=TABLE,
        prompts={"query": "Represent the query: ", "document": "Represent the document: "},
    )
    return folder


def gritlm(folder: Path, **more: Any) -> Path:
    """parasail-ai/GritLM-7B-vllm: a Mistral with a window that its embeddings do not use."""
    _hf(folder, "MistralForCausalLM", architectures=["GritLM"], **llama(folder, sliding_window=8, **more))
    return folder


def internlm2_reward(folder: Path, *, heads: int = 4, key_heads: int = 2, **more: Any) -> Path:
    """internlm/internlm2-1_8b-reward: names of its own, `wqkv` grouped by key head, `v_head`."""
    import torch

    sizes: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "head_dim": HIDDEN // heads,
        **more,
    }
    settings = llama(folder, **sizes)
    module = _hf(folder, "LlamaForCausalLM", **settings)
    state = module.state_dict()
    names = {
        "self_attn.o_proj": "attention.wo", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
        "embed_tokens": "tok_embeddings",
    }  # fmt: skip

    def rename(name: str) -> str | None:
        if name.startswith("lm_head.") or re.search(r"[qkv]_proj", name):
            return None
        for new, old in names.items():
            name = name.replace(f"{new}.", f"{old}.")
        return name

    fused = {}
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        rows = {part: state[f"{at}self_attn.{part}_proj.weight"].split(HIDDEN // heads) for part in "qkv"}
        per = heads // key_heads
        grouped = [
            [*rows["q"][group * per : (group + 1) * per], rows["k"][group], rows["v"][group]]
            for group in range(key_heads)
        ]
        fused[f"{at}attention.wqkv.weight"] = torch.cat([piece for group in grouped for piece in group])
    rewrite_weights(folder, rename, add={**fused, "v_head.weight": linear(1, 6)})
    configure(
        folder, model_type="internlm2", architectures=["InternLM2ForRewardModel"], bias=False,
        reward_token_id=5, head_dim=None,
        attention_bias=None, mlp_bias=None, rope_parameters=None, rope_theta=1e6, rope_scaling=None,
        auto_map={"AutoConfig": "configuration_internlm2.InternLM2Config",
        "AutoModel": "modeling_internlm2.InternLM2ForRewardModel"},
    )  # fmt: skip
    return folder


def lfm2_colbert(folder: Path, *, today: bool = False, **more: Any) -> Path:
    """LiquidAI/LFM2-ColBERT-350M in PyLate's layout: queries are filled up with the end token,
    which nothing attends to."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    count = lfm2_bpe(folder, added=MARKERS)
    sizes = {key: value for key, value in SIZES.items() if key != "head_dim"}
    settings: dict[str, Any] = sizes | {
        "vocab_size": count,
        "num_hidden_layers": 4,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    types = ["conv", "conv", "full_attention", "conv"]
    settings |= {"layer_types": types, "block_auto_adjust_ff_dim": False, "conv_L_cache": 3}
    _hf(folder, "Lfm2Model", **settings, **more)
    if not today:
        configure(
            folder,
            layer_types=None,
            full_attn_idxs=[2],
            block_ff_dim=settings["intermediate_size"],
            intermediate_size=None,
        )
    kinds = [("", "sentence_transformers.models.Transformer"), ("1_Dense", "pylate.models.Dense.Dense")]
    _json(
        folder / "modules.json",
        [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)],
    )
    _json(folder / "sentence_bert_config.json", {"max_seq_length": 63, "do_lower_case": False})
    identity = "torch.nn.modules.linear.Identity"
    _json(
        folder / "1_Dense/config.json",
        {"in_features": HIDDEN, "out_features": 16, "bias": False, "activation_function": identity},
    )
    save_file({"linear.weight": linear(16, 7)}, folder / "1_Dense/model.safetensors")
    _json(
        folder / "config_sentence_transformers.json",
        {
            "query_prefix": "[Q] ",
            "document_prefix": "[D] ",
            "query_length": 16,
            "document_length": 48,
            "similarity_fn_name": "MaxSim",
        }
        | {
            "attend_to_expansion_tokens": False,
            "skiplist_words": [".", ",", "!", "?"],
            "do_query_expansion": True,
            "prompts": {},
        },
    )
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write for write in (voyage, gritlm, internlm2_reward, lfm2_colbert)
}

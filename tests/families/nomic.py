"""Tiny Nomic BERT checkpoints: GPT-2's config keys (v1), both spellings (v1.5), and the
mixture of experts of v2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    HIDDEN,
    TABLE,
    _bert_settings,
    _hf,
    _json,
    _roberta_settings,
    _unigram,
    configure,
    sentence_transformers_files,
)

PROMPTS = {"search_query": "search_query: ", "search_document": "search_document: "}
OLD: dict[str, Any] = {
    "n_embd": HIDDEN, "n_head": 2, "n_inner": 48, "n_layer": 2, "n_positions": 4 * TABLE,
    "layer_norm_epsilon": 1e-12,
    "activation_function": "swiglu", "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None, "rotary_scaling_factor": None, "max_trained_positions": TABLE,
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False, "mlp_fc2_bias": False, "prenorm": False, "parallel_block": False,
    "use_rms_norm": False,
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
}  # fmt: skip
NATIVE = (
    "hidden_size", "num_attention_heads", "intermediate_size", "num_hidden_layers", "max_position_embeddings",
    "layer_norm_eps",
    "hidden_act", "rope_parameters", "head_dim", "hidden_dropout_prob", "attention_probs_dropout_prob",
)  # fmt: skip


def nomic_v1(folder: Path, **more: Any) -> Path:
    """nomic-ai/nomic-embed-text-v1: places for four times the text it was trained on."""
    known = _bert_settings(folder) | {"max_position_embeddings": 4 * TABLE, "hidden_act": "silu"} | more
    _hf(folder, "NomicBertModel", **known)
    sentence_transformers_files(folder, max_tokens=4 * TABLE, prompts=PROMPTS)
    kept = dict.fromkeys(NATIVE)
    config = {
        "n_embd": known["hidden_size"],
        "n_head": known["num_attention_heads"],
        "n_inner": known["intermediate_size"],
    }
    config["n_layer"] = known["num_hidden_layers"]
    configure(folder, **kept)
    # Null values stay in the published file.
    path = folder / "config.json"
    _json(
        path,
        json.loads(path.read_text(encoding="utf-8")) | OLD | config | {"architectures": ["NomicBertModel"]},
    )
    return folder


def nomic_v15(folder: Path) -> Path:
    """nomic-ai/nomic-embed-text-v1.5: today's keys beside the old ones."""
    nomic_v1(folder)
    configure(
        folder, hidden_size=HIDDEN, num_attention_heads=2, intermediate_size=48, num_hidden_layers=2,
        max_position_embeddings=2 * TABLE,
        layer_norm_eps=1e-12, hidden_act="silu", rope_theta=1000.0, matryoshka_dimensions=[32, 16],
    )  # fmt: skip
    return folder


def nomic_moe(
    folder: Path,
    *,
    experts: int = 8,
    top: int = 2,
    layers: int = 4,
    heads: int = 2,
    hidden: int = HIDDEN,
    seed: int = 0,
) -> Path:
    """nomic-ai/nomic-embed-text-v2-moe: XLM-R's tokenizer, biases everywhere, experts in layers 1
    and 3 stacked row by row."""
    import torch
    from safetensors.torch import save_file

    count = _roberta_settings(folder, _unigram)["vocab_size"]
    inner = 48
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 0.3, around: float = 0.0) -> torch.Tensor:
        return around + scale * torch.randn(shape, generator=generator)

    tensors = {
        "embeddings.word_embeddings.weight": noise(count, hidden),
        "embeddings.token_type_embeddings.weight": noise(1, hidden),
    }
    norms = [
        "emb_ln",
        *(f"encoder.layers.{layer}.norm{number}" for layer in range(layers) for number in (1, 2)),
    ]
    for norm in norms:
        tensors |= {f"{norm}.weight": noise(hidden, around=1.0), f"{norm}.bias": noise(hidden, scale=0.2)}
    for layer in range(layers):
        at = f"encoder.layers.{layer}"
        shapes = {"attn.Wqkv": (3 * hidden, hidden), "attn.out_proj": (hidden, hidden)}
        if layer % 2 == 0:
            shapes |= {"mlp.fc1": (inner, hidden), "mlp.fc2": (hidden, inner)}
        else:
            # Small router weights leave the experts close to one another; a large bias shows
            # when it is counted twice.
            tensors[f"{at}.mlp.router.layer.weight"] = noise(experts, hidden, scale=0.05)
            tensors |= {
                f"{at}.mlp.experts.mlp.{name}": noise(experts * inner, hidden) for name in ("w1", "w2")
            }
            tensors[f"{at}.mlp.experts.bias"] = noise(hidden, scale=2.0)
        for name, shape in shapes.items():
            tensors |= {f"{at}.{name}.weight": noise(*shape), f"{at}.{name}.bias": noise(shape[0], scale=0.2)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    moe = {
        "num_experts": experts,
        "moe_top_k": top,
        "moe_every_n_layers": 2,
        "moe_normalize_expert_weights": False,
    }
    biased = {
        "qkv_proj_bias": True,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "ffn_div": 1,
        "expert_choice_router": False,
    }
    sizes = {
        "n_embd": hidden,
        "n_head": heads,
        "n_inner": inner,
        "n_layer": layers,
        "vocab_size": count,
        "type_vocab_size": 1,
    }
    config = OLD | {
        "model_type": "nomic_bert",
        "architectures": ["NomicBertModel"],
        "pad_token_id": 1,
        "torch_dtype": "float32",
    }
    config |= {
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu",
        "rotary_emb_base": 10000.0,
        "n_positions": TABLE,
    }
    _json(folder / "config.json", config | sizes | moe | biased)
    sentence_transformers_files(folder, max_tokens=TABLE, prompts=PROMPTS)
    return folder


ALL: dict[str, Callable[[Path], Path]] = {write.__name__: write for write in (nomic_v1, nomic_v15, nomic_moe)}

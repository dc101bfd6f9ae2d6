"""GTE (new-impl), Nomic BERT and its mixture of experts once more, in numpy, float64 and plain loops: one
unpadded text at a time.

Written from the description of the models, not from the exporter: the independent side of their tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Tensors = Mapping[str, Array]
erf = np.vectorize(math.erf, otypes=[np.float64])


def tensors(folder: Path, *, prefix: str = "") -> dict[str, Array]:
    from safetensors.numpy import load_file

    return {
        name.removeprefix(prefix): value.astype(np.float64)
        for name, value in load_file(folder / "model.safetensors").items()
    }


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def linear(known: Tensors, name: str, x: Array) -> Array:
    return x @ known[f"{name}.weight"].T + known.get(f"{name}.bias", 0.0)


def norm(known: Tensors, name: str, x: Array, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * known[f"{name}.weight"]
        + known[f"{name}.bias"]
    )


def attention(qkv: Array, heads: int, frequencies: Array) -> Array:
    """[tokens, 3 * hidden] -> [tokens, hidden]; thirds are query, key, value; rotary over the
    whole head, halves turned."""
    count, width = qkv.shape[0], qkv.shape[1] // 3 // heads
    query, key, value = (part.reshape(count, heads, width) for part in np.split(qkv, 3, axis=1))
    made = np.zeros((count, heads, width))
    for head in range(heads):
        turned = []
        for side in (query[:, head], key[:, head]):
            out = np.zeros_like(side)
            for position in range(count):
                for index, frequency in enumerate(frequencies):
                    angle = position * frequency
                    first, second = side[position, index], side[position, index + width // 2]
                    out[position, index] = first * math.cos(angle) - second * math.sin(angle)
                    out[position, index + width // 2] = second * math.cos(angle) + first * math.sin(angle)
            turned.append(out)
        made[:, head] = softmax(turned[0] @ turned[1].T / math.sqrt(width)) @ value[:, head]
    return made.reshape(count, heads * width)


def frequencies(width: int, theta: float, *, ntk: float | None = None) -> Array:
    """1 / base^(2i/width). NTK of new-impl: base theta * factor, the whole divided by factor^(2/width)."""
    base = theta * (1.0 if ntk is None else ntk)
    plain = base ** (-np.arange(0, width, 2) / width)
    return plain if ntk is None else plain / ntk ** (2 / width)


def gte(known: Tensors, config: Mapping[str, Any], ids: list[int]) -> Array:
    scaling = config.get("rope_scaling") or {}
    width = config["hidden_size"] // config["num_attention_heads"]
    turning = frequencies(width, config["rope_theta"], ntk=scaling.get("factor"))
    eps = config["layer_norm_eps"]
    x = known["embeddings.word_embeddings.weight"][ids]
    if config["type_vocab_size"]:
        x = x + known["embeddings.token_type_embeddings.weight"][0]
    x = norm(known, "embeddings.LayerNorm", x, eps)
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        seen = attention(linear(known, f"{at}.attention.qkv_proj", x), config["num_attention_heads"], turning)
        x = norm(known, f"{at}.attn_ln", x + linear(known, f"{at}.attention.o_proj", seen), eps)
        up, gate = np.split(linear(known, f"{at}.mlp.up_gate_proj", x), 2, axis=1)
        x = norm(known, f"{at}.mlp_ln", x + linear(known, f"{at}.mlp.down_proj", up * gelu(gate)), eps)
    return x


def nomic(known: Tensors, config: Mapping[str, Any], ids: list[int]) -> Array:
    turning = frequencies(config["n_embd"] // config["n_head"], config["rotary_emb_base"])
    eps = config["layer_norm_epsilon"]
    x = known["embeddings.word_embeddings.weight"][ids] + known["embeddings.token_type_embeddings.weight"][0]
    x = norm(known, "emb_ln", x, eps)
    for layer in range(config["n_layer"]):
        at = f"encoder.layers.{layer}"
        seen = attention(linear(known, f"{at}.attn.Wqkv", x), config["n_head"], turning)
        x = norm(known, f"{at}.norm1", x + linear(known, f"{at}.attn.out_proj", seen), eps)
        if f"{at}.mlp.router.layer.weight" in known:
            inner = np.stack([expert_sum(known, f"{at}.mlp", config, token) for token in x])
        elif f"{at}.mlp.fc11.weight" in known:
            inner = linear(
                known,
                f"{at}.mlp.fc2",
                linear(known, f"{at}.mlp.fc11", x) * silu(linear(known, f"{at}.mlp.fc12", x)),
            )
        else:
            inner = linear(known, f"{at}.mlp.fc2", gelu(linear(known, f"{at}.mlp.fc1", x)))
        x = norm(known, f"{at}.norm2", x + inner, eps)
    return x


def expert_sum(known: Tensors, at: str, config: Mapping[str, Any], token: Array) -> Array:
    """One token through its experts: softmax over all, the best as they are, one bias at the end."""
    inner = config["n_inner"]
    weights = softmax(known[f"{at}.router.layer.weight"] @ token)
    total = np.zeros_like(token)
    for expert in np.argsort(-weights, kind="stable")[: config["moe_top_k"]]:
        rows = slice(expert * inner, (expert + 1) * inner)
        total += weights[expert] * (
            gelu(known[f"{at}.experts.mlp.w1"][rows] @ token) @ known[f"{at}.experts.mlp.w2"][rows]
        )
    return total + known[f"{at}.experts.bias"]

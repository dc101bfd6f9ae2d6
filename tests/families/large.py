"""Checkpoints of published sizes with random bfloat16 weights, in shards with an index: written tensor by
tensor, never held whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import _json, sentence_transformers_files

from . import llava, qwen3_vl
from .decoder_tokens import llama_bpe, qwen_bpe

BLOCK = 1 << 22
"""Random numbers drawn once; every tensor takes its own stretch of them, scaled to its use."""
SHARD_BYTES = 2_000_000_000

# Sizes of Qwen/Qwen3-Embedding-4B and intfloat/e5-mistral-7b-instruct, from their config.json.
QWEN3_4B: dict[str, Any] = {
    "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 9728, "vocab_size": 151665, "max_position_embeddings": 40960, "rope_theta": 1e6,
    "tie_word_embeddings": True,
}  # fmt: skip
E5_MISTRAL: dict[str, Any] = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 32000, "max_position_embeddings": 32768, "sliding_window": 4096, "rope_theta": 10000.0,
}  # fmt: skip


def qwen3(folder: Path, **more: Any) -> Path:
    """Qwen/Qwen3-Embedding-4B, or less of it."""
    folder.mkdir(parents=True, exist_ok=True)
    count = qwen_bpe(folder, ends=True)
    ids = {"eos_token_id": count - 4, "bos_token_id": count - 6, "pad_token_id": count - 6}
    _write(folder, "Qwen3Model", "Qwen3ForCausalLM", QWEN3_4B | ids | more)
    sentence_transformers_files(folder, pooling="lasttoken", max_tokens=None)
    return folder


def e5_mistral(folder: Path, **more: Any) -> Path:
    """intfloat/e5-mistral-7b-instruct, or less of it."""
    folder.mkdir(parents=True, exist_ok=True)
    llama_bpe(folder, add_bos_token=True, add_eos_token=True, tokenizer_class="LlamaTokenizer")
    _write(
        folder,
        "MistralModel",
        "MistralModel",
        E5_MISTRAL | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2} | more,
    )
    sentence_transformers_files(folder, pooling="lasttoken", max_tokens=4096)
    return folder


def _write(folder: Path, kind: str, architecture: str, settings: Mapping[str, Any]) -> None:
    import torch
    import transformers

    config = getattr(transformers, kind).config_class(**settings)
    config.architectures = [architecture]
    config.dtype = torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {
            name: tuple(tensor.shape)
            for name, tensor in getattr(transformers, kind)(config).named_parameters()
        }
    _weights(folder, shapes)


def _weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Random bfloat16 tensors of those names and shapes, in shards with an index."""
    import torch

    noise = torch.randn(BLOCK, generator=torch.Generator().manual_seed(7))
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        size += 2 * torch.Size(shape).numel()
        if size > SHARD_BYTES and shards[-1]:
            shards.append([])
            size = 2 * torch.Size(shape).numel()
        shards[-1].append(name)
    places = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _shard(folder / file, {name: shapes[name] for name in names}, noise, seed=number)
        places |= dict.fromkeys(names, file)
    _json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": places})


def _header(shapes: Mapping[str, tuple[int, ...]]) -> tuple[bytes, int]:
    """What stands in front of the tensors of a file, and how many bytes they take."""
    import torch

    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, end


def hollow(path: Path, shapes: Mapping[str, tuple[int, ...]], noise: Any, *, seed: int) -> None:
    """In the place of `_shard`: a file whose tensors are holes, which takes no room on a disk."""
    front, size = _header(shapes)
    with path.open("wb") as file:
        file.write(front)
        file.truncate(len(front) + size)


def _shard(path: Path, shapes: Mapping[str, tuple[int, ...]], noise: Any, *, seed: int) -> None:
    import torch

    front, _ = _header(shapes)
    scaled: dict[tuple[float, float], Any] = {}
    with path.open("wb") as file:
        file.write(front)
        for index, shape in enumerate(shapes.values()):
            # Norms are near 1; matrices keep the size of what goes through them, as trained ones do.
            width = torch.Size(shape[1:]).numel()
            use = (0.1, 1.0) if len(shape) == 1 else (0.7 / width**0.5, 0.0)
            if use not in scaled:
                scaled[use] = (noise * use[0] + use[1]).to(torch.bfloat16).view(torch.int16).numpy()
            data = np.roll(scaled[use], (seed * 1009 + index) * 7919 % BLOCK)
            left = torch.Size(shape).numel()
            while left:
                part = data[: min(left, BLOCK)]
                file.write(part.data)
                left -= len(part)


def _enlarged(
    folder: Path,
    kind: str,
    sizes: Mapping[str, Mapping[str, Any]],
    rename: Callable[[str], str | None],
    more: Mapping[str, tuple[int, ...]] | None = None,
    **top: Any,
) -> Path:
    """The tiny checkpoint in `folder` with other sizes, and weights of transformers' class `kind` in them.

    Args:
        sizes: of parts of config.json.
        rename: name in the class -> name in the files; None: the tensor is left out.
        more: tensors that the class lacks.
        top: settings of config.json.
    """
    import torch
    import transformers

    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) | top | {"torch_dtype": "bfloat16"}
    )
    for part, settings in sizes.items():
        config[part] |= settings
    _json(folder / "config.json", config)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    known: Any = getattr(transformers, kind)
    plain = {key: value for key, value in config.items() if key not in ("auto_map", "architectures")}
    plain["model_type"] = known.config_class.model_type
    with torch.device("meta"):
        module = known(known.config_class.from_dict(plain))
    shapes = {
        new: tuple(tensor.shape)
        for name, tensor in module.named_parameters()
        if (new := rename(name)) is not None
    }
    _weights(folder, shapes | dict(more or {}))
    return folder


def colqwen3(folder: Path) -> Path:
    """TomoroAI/tomoro-colqwen3-embed-4b."""
    qwen3_vl.colqwen3(folder)
    head = {"embedding_proj_layer.weight": (320, 2560), "embedding_proj_layer.bias": (320,)}
    text = QWEN3_4B | {
        "vocab_size": 151936, "max_position_embeddings": 262144, "rope_theta": 5e6,
        "rope_scaling": {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]},
    }  # fmt: skip
    vision = {
        "depth": 24, "hidden_size": 1024, "num_heads": 16, "intermediate_size": 4096, "out_hidden_size": 2560,
        "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
    }  # fmt: skip
    return _enlarged(
        folder,
        "Qwen3VLModel",
        {"text_config": text, "vision_config": vision},
        lambda name: f"vlm.model.{name}",
        head,
        embed_dim=320,
    )


def e5_v(folder: Path) -> Path:
    """royokong/e5-v, over Llama 3 8B."""
    llava.e5_v(folder, side=336, patch=14)
    text = {
        "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "head_dim": 128, "intermediate_size": 14336, "vocab_size": 128320, "max_position_embeddings": 8192,
    }  # fmt: skip
    vision = {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
        "projection_dim": 768,
    }  # fmt: skip
    return _enlarged(
        folder,
        "LlavaNextForConditionalGeneration",
        {"text_config": text, "vision_config": vision},
        llava._older,
    )


LARGE: dict[str, Callable[..., Path]] = {
    "qwen3_4b": qwen3,
    "e5_mistral_7b": e5_mistral,
    "colqwen3_4b": colqwen3,
    "e5_v_8b": e5_v,
}

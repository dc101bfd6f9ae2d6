"""Tiny checkpoints of Qwen3.5 and ColQwen3.5, each in the layout of its published repository, and their model
as transformers' Qwen3_5Model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.checkpoints import _json, randomise

from . import natives
from .decoder_tokens import qwen_bpe
from .qwen3_vl import CHAT, MARKS, MAX_TOKENS, PICTURES, VIDEOS, VISION
from .qwen3_vl_reference import Reference, bare

TEXT: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "attn_output_gate": True, "full_attention_interval": 4,
    "head_dim": 32, "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02,
    "intermediate_size": 96,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "linear_value_head_dim": 24, "mamba_ssm_dtype": "float32",
    "max_position_embeddings": MAX_TOKENS, "mlp_only_layers": [], "model_type": "qwen3_5_text",
    "mtp_num_hidden_layers": 1, "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "use_cache": True,
    # 8 of 32 dimensions turn: 4 frequencies.
    "rope_parameters": {
        "mrope_interleaved": True, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25,
        "rope_theta": 10000000, "rope_type": "default",
    },
}  # fmt: skip
CHAT_MODEL = "Qwen3_5ForConditionalGeneration"
TOWER = {**VISION, "deepstack_visual_indexes": []}


def qwen3_5(
    folder: Path,
    *,
    name: str = CHAT_MODEL,
    rename: Callable[[str], str | None] = lambda name: name,
    head: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    tied: bool = True,
    dtype: str = "float32",
    shard: str = "1GB",
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A checkpoint of 4B's form. The arguments are those of `qwen3_vl.qwen3_vl`."""
    import torch
    from huggingface_hub import save_torch_state_dict
    from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    count = qwen_bpe(folder, ends=False, max_tokens=MAX_TOKENS, added=MARKS)
    start, end, image, video = range(count - 4, count)
    pad = count - 10
    inner = {**TEXT, "vocab_size": count + 3, "eos_token_id": pad, **(text or {})}
    settings: dict[str, Any] = {
        "architectures": [name], "image_token_id": image, "model_type": "qwen3_5", "text_config": inner,
        "tie_word_embeddings": tied, "video_token_id": video,
        "vision_config": {**TOWER, "model_type": "qwen3_5", **(vision or {})},
        "vision_end_token_id": end, "vision_start_token_id": start, **config,
    }  # fmt: skip
    _json(folder / "config.json", settings)
    model = Qwen3_5ForConditionalGeneration(
        Qwen3_5Config.from_dict(
            settings
            | {
                "text_config": dict(inner),
                "vision_config": {**TOWER, "model_type": "qwen3_5_vision", **(vision or {})},
            }
        )
    )
    randomise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for layer in model.model.language_model.layers:
        if hasattr(layer, "linear_attn"):
            # Heads that forget within a token, and heads that keep a whole text.
            rates = torch.rand(layer.linear_attn.A_log.shape, generator=generator) * 6 - 4
            layer.linear_attn.A_log.data.copy_(rates)
    state = {new: value for old, value in model.state_dict().items() if (new := rename(old)) is not None}
    if tied:
        state = {key: value for key, value in state.items() if not key.endswith("lm_head.weight")}
    for key, shape in (head or {}).items():
        state[key] = torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.1)
    kind = getattr(torch, dtype)
    save_torch_state_dict(
        {key: value.to(kind).contiguous().clone() for key, value in state.items()},
        folder,
        max_shard_size=shard,
    )
    _json(folder / "preprocessor_config.json", PICTURES)
    _json(folder / "video_preprocessor_config.json", VIDEOS)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


def published(folder: Path, **more: Any) -> Path:
    """Qwen/Qwen3.5-4B: its output matrix is the token table; with a layer that guesses a word ahead."""
    settings: dict[str, Any] = {"head": {"mtp.fc.weight": (64, 128), "mtp.norm.weight": (64,)}}
    return qwen3_5(folder, **settings | more)


def colqwen3_5(
    folder: Path, *, dims: int = 40, outer: str = "", contract: str | None = None, **more: Any
) -> Path:
    """athrael-soju/colqwen3.5-4.5B: names of Qwen3_5Model, no output matrix. `outer`: in front of all names,
    as adapters leave them."""

    def rename(name: str) -> str | None:
        return None if name.startswith("lm_head") else outer + name.removeprefix("model.")

    settings: dict[str, Any] = {
        "name": "ColQwen3_5", "seed": 5, "dim": dims, "embed_dim": dims, "rename": rename,
        "head": {f"{outer}custom_text_proj.weight": (dims, 64), f"{outer}custom_text_proj.bias": (dims,)},
    }  # fmt: skip
    if contract is not None:
        settings["retrieval_attention_contract"] = contract
    return qwen3_5(folder, **settings | more)


SHORT: dict[str, Any] = {"num_hidden_layers": 2, "layer_types": ["linear_attention", "full_attention"]}


def short(folder: Path) -> Path:
    """What is exported: with one layer of each kind."""
    return colqwen3_5(folder, contract="bidirectional", text=SHORT, vision={"depth": 1}, seed=11)


@dataclass
class HybridReference(Reference):
    """Qwen3_5Model in eager float32. `both_ways`: of the layers with full attention."""

    def __post_init__(self) -> None:
        import json

        self.tensors = natives.tensors(self.folder)
        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        vision = {**config["vision_config"], "model_type": "qwen3_5_vision"}
        self.model = natives.build(
            self.folder, "Qwen3_5Model", rename=bare, model_type="qwen3_5", vision_config=vision
        )
        if self.both_ways:
            for part in (self.model.config, self.model.language_model.config):
                part.is_causal = False

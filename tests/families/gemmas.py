"""Tiny checkpoints of PaliGemma 1 and 2 and of Gemma 3 with pictures, in the layouts of their
repositories."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.checkpoints import HIDDEN, TABLE, _json, configure, randomise, rewrite_weights

from .decoder_tokens import sentencepiece_bpe
from .pages import SIGLIP, _gemma_tokens, _sharded, _siglip_processor

ROLES = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
PICTURES = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}
GEMMA: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "head_dim": 32, "intermediate_size": 48, "max_position_embeddings": TABLE * 16,
    "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def _lowered(module: Any) -> Any:
    """`module` with weights of Gemma's norms around 0, to which the layer adds 1."""
    import torch

    with torch.no_grad():
        for name, parameter in module.named_parameters():
            normed = name.endswith("norm.weight") or "layernorm" in name
            if normed and parameter.ndim == 1 and "vision_tower" not in name:
                parameter.sub_(1.0)
    return module


def _paligemma(folder: Path, *, seed: int, kind: str, side: int = 56, **text: Any) -> Any:
    """transformers' class, with its tokenizer and processor in `folder`."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    count = _gemma_tokens(folder)
    path = folder / "tokenizer_config.json"
    _json(path, json.loads(path.read_text()) | {"processor_class": "PaliGemmaProcessor"})
    _siglip_processor(folder, side, image_seq_length=(side // 14) ** 2, processor_class="PaliGemmaProcessor")
    vision = SIGLIP | {"image_size": side, "patch_size": 14, "vision_use_head": False}
    config = PaliGemmaConfig(
        text_config=GEMMA | {"model_type": kind, "vocab_size": count} | text,
        vision_config=vision | {"projection_dim": HIDDEN},
        image_token_index=4, projection_dim=HIDDEN, hidden_size=HIDDEN,
    )  # fmt: skip
    return _lowered(randomise(PaliGemmaForConditionalGeneration(config), seed))


def _older(name: str) -> str | None:
    """Names of transformers 4; the language model's output layer is tied."""
    if name.startswith("lm_head"):
        return None
    name = name.removeprefix("model.").replace("vision_tower.", "vision_tower.vision_model.")
    name = name.replace("vision_model.vision_model.", "vision_model.")
    return re.sub(r"^language_model\.(?!model\.)", "language_model.model.", name)


def paligemma(folder: Path) -> Path:
    """google/paligemma-3b-pt-224 and a head `score` of three labels, in two files."""
    import torch

    _paligemma(folder, seed=70, kind="gemma").save_pretrained(folder)
    weight = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(3)) / 4
    rewrite_weights(folder, _older, add={"score.weight": weight})
    configure(folder, id2label={"0": "page", "1": "photo", "2": "chart"})
    return _sharded(folder)


def paligemma2(folder: Path, *, older: bool = False) -> Path:
    """google/paligemma2-3b-mix-224: Gemma 2 with a window shorter than a prompt, and a cap. With `older`, the
    tensors have the names that transformers 4 gave them."""
    more = {"sliding_window": 8, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 32}
    module = _paligemma(folder, seed=71, kind="gemma2", **more)
    module.save_pretrained(folder)
    if older:
        rewrite_weights(folder, _older)
    return folder


def gemma3(folder: Path, **more: Any) -> Path:
    """google/gemma-3-4b-it: layers with windows smaller than a picture, and rotary angles stretched in the
    others."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    special = ("<pad>", "<eos>", "<bos>", "<unk>", *PICTURES.values())
    count = sentencepiece_bpe(
        folder, special=special, roles=ROLES, template="<bos> $A", prepend=False, max_tokens=10**30,
        extra_special_tokens=PICTURES, processor_class="Gemma3Processor",
    )  # fmt: skip
    side, patch, tokens = 42, 7, 9
    _siglip_processor(
        folder, side, resample=2, image_processor_type="Gemma3ImageProcessor", image_seq_length=tokens,
        do_pan_and_scan=None, pan_and_scan_max_num_crops=None, processor_class="Gemma3Processor", **more,
    )  # fmt: skip
    _json(
        folder / "processor_config.json", {"image_seq_length": tokens, "processor_class": "Gemma3Processor"}
    )
    text = GEMMA | {
        "model_type": "gemma3_text", "vocab_size": count, "num_hidden_layers": 3, "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "query_pre_attn_scalar": 32,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }  # fmt: skip
    config = Gemma3Config(
        text_config=text,
        vision_config=SIGLIP | {"image_size": side, "patch_size": patch, "vision_use_head": False},
        mm_tokens_per_image=tokens, boi_token_index=4, eoi_token_index=5, image_token_index=6,
    )  # fmt: skip
    _lowered(randomise(Gemma3ForConditionalGeneration(config), 72)).save_pretrained(folder)
    rewrite_weights(folder, _older)
    return folder

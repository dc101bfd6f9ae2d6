"""Tiny checkpoints of Idefics3 and SmolVLM, and of the page models over them, in the layouts of their
repositories."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import HIDDEN, TABLE, configure, randomise, rewrite_weights

from .decoder_tokens import qwen_bpe
from .nemotron_vl import BEGIN, llama3_bpe
from .pages import _idefics_processor, _sharded

TOKENS = (
    "<fake_token_around_image>", "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<end_of_utterance>", "<image>",
)  # fmt: skip
CHAT = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}<image>{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


VIDEO_SAMPLING = {"fps": 1, "max_frames": 64, "video_size": {"longest_edge": 42}}


def _module(
    folder: Path,
    name: str,
    *,
    seed: int,
    side: int = 42,
    table: int = 42,
    patch: int = 7,
    factor: int = 2,
    longest: int = 100,
    **text: Any,
) -> Any:
    """transformers' class `name`ForConditionalGeneration, with its tokenizer and processor in `folder`.

    Args:
        side: pixels of a tile's side.
        table: of the pictures that the table of positions is for.
    """
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    chat: dict[str, Any] = {"chat_template": CHAT, "processor_class": f"{name}Processor"}
    if name == "Idefics3":
        special = (BEGIN, "<|end_of_text|>", "<pad>", *TOKENS)
        count = llama3_bpe(folder, special, pad_token="<pad>", **chat)
    else:
        count = qwen_bpe(folder, ends=False, added=TOKENS, tokenizer_class="PreTrainedTokenizerFast", **chat)
    _idefics_processor(
        folder, side, longest, (side // patch) ** 2 // factor**2, image_processor_type=f"{name}ImageProcessor"
    )
    settings: dict[str, Any] = {
        "model_type": "llama", "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 48, "rms_norm_eps": 1e-5,
        "max_position_embeddings": TABLE * 16, "vocab_size": count, "rope_theta": 100000.0,
        "pad_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": table, "patch_size": patch,
    }  # fmt: skip
    config = getattr(transformers, f"{name}Config")(
        text_config=settings | text, vision_config=vision, scale_factor=factor, image_token_id=count - 1,
        tie_word_embeddings=False,
    )  # fmt: skip
    return randomise(getattr(transformers, f"{name}ForConditionalGeneration")(config), seed)


def smolvlm(folder: Path, **more: Any) -> Path:
    """HuggingFaceTB/SmolVLM2-256M-Video-Instruct, whose settings of videos stand among those of pictures."""
    _module(folder, "SmolVLM", **{"seed": 60, **more}).save_pretrained(folder)
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"video_sampling": dict(VIDEO_SAMPLING)}
    path.write_text(json.dumps(settings), encoding="utf-8")
    return folder


def idefics3(folder: Path, table: int = 70) -> Path:
    """HuggingFaceM4/Idefics3-8B-Llama3 and a head `score` of three labels: several bfloat16 files, and tiles
    of another size than the table of positions, whose places fall into its buckets."""
    import torch

    _module(folder, "Idefics3", seed=61, table=table, factor=3).to(torch.bfloat16).save_pretrained(folder)
    weight = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(1)) / 4
    rewrite_weights(folder, lambda name: name, add={"score.weight": weight.to(torch.bfloat16)})
    configure(folder, id2label={"0": "page", "1": "photo", "2": "chart"})
    return _sharded(folder)


def col_smol(folder: Path, **more: Any) -> Path:
    """vidore/ColSmolVLM-Instruct-256M-base: Idefics3's class around SmolVLM's tokenizer, and colpali-engine's
    projection."""
    import torch

    generator = torch.Generator().manual_seed(2)
    projection = {
        "linear.weight": torch.randn(128, HIDDEN, generator=generator) / 8,
        "linear.bias": torch.randn(128, generator=generator) / 8,
    }
    _module(folder, "SmolVLM", **{"seed": 63, "longest": 84, **more}).save_pretrained(folder)
    rewrite_weights(folder, lambda name: None if name.startswith("lm_head") else name, add=projection)
    configure(folder, architectures=["ColIdefics3"], model_type="idefics3")
    _idefics_processor(folder, 42, 84, 9)
    return folder


LATE: Mapping[str, Callable[[Path], Path]] = {"col_smol": col_smol}

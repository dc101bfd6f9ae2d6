"""Tiny checkpoints of LLaVA-NeXT in the layouts of its repositories."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import HIDDEN, TABLE, _json, configure, randomise, rewrite_weights

from .nemotron_vl import BEGIN, llama3_bpe
from .pages import _sharded

LLAMA3 = (
    BEGIN,
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<pad>",
    "<image>",
)
CLIP: dict[str, Any] = {
    "model_type": "clip_vision_model", "hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
    "intermediate_size": 48, "hidden_act": "quick_gelu", "projection_dim": 32,
}  # fmt: skip
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]


def _module(
    folder: Path,
    *,
    seed: int,
    side: int = 28,
    patch: int = 7,
    layer: Any = -2,
    tall: int = 2,
    kind: str = "llama",
    **text: Any,
) -> Any:
    """transformers' class, with its tokenizer and processor in `folder`."""
    from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    count = llama3_bpe(folder, LLAMA3, pad_token="<pad>", extra_special_tokens={"image_token": "<image>"},
                       processor_class="LlavaNextProcessor")  # fmt: skip
    pairs = [[side, 2 * side], [2 * side, side], [2 * side, 2 * side], [3 * side, side], [side, 3 * side]]
    pairs = pairs if tall == 2 else [*pairs, [tall * side, side]]
    settings = {
        "model_type": kind, "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 48, "rms_norm_eps": 1e-5,
        "max_position_embeddings": TABLE * 8, "vocab_size": count, "rope_theta": 500000.0,
    }  # fmt: skip
    config = LlavaNextConfig(
        text_config=settings | text,
        vision_config=CLIP | {"image_size": side, "patch_size": patch},
        image_token_index=count - 1, image_grid_pinpoints=pairs, vision_feature_layer=layer,
        vision_feature_select_strategy="default", tie_word_embeddings=False,
        image_seq_length=(side // patch) ** 2,
    )  # fmt: skip
    _json(
        folder / "preprocessor_config.json",
        {
            "crop_size": {"height": side, "width": side}, "do_center_crop": True, "do_convert_rgb": True,
            "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
            "image_grid_pinpoints": pairs, "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "resample": 3,
            "image_processor_type": "LlavaNextImageProcessor", "rescale_factor": 1 / 255,
            "size": {"shortest_edge": side},
        },
    )  # fmt: skip
    _json(
        folder / "processor_config.json",
        {"patch_size": patch, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1,
         "processor_class": "LlavaNextProcessor", "image_token": "<image>"},
    )  # fmt: skip
    return randomise(LlavaNextForConditionalGeneration(config), seed)


def e5_v(folder: Path, **more: Any) -> Path:
    """royokong/e5-v: names of transformers 4."""
    _module(folder, **{"seed": 50, **more}).save_pretrained(folder)
    rewrite_weights(folder, _older)
    configure(folder, architectures=["LlavaNextForConditionalGeneration"], transformers_version="4.40.1")
    return folder


def llava_next_new(folder: Path) -> Path:
    """Names of transformers 5, two layers of the tower, other sizes, bfloat16 in two files."""
    import torch

    module = _module(folder, seed=51, side=42, patch=14, layer=[-2, -1], tall=4, kind="mistral")
    module.to(torch.bfloat16).save_pretrained(folder)
    rewrite_weights(folder, lambda name: _newer(_older(name)))
    return _sharded(folder)


def _older(name: str) -> str:
    """transformers 4's name of a tensor: `language_model.model.`, `language_model.lm_head.`,
    `vision_tower.vision_model.`."""
    name = name.removeprefix("model.")
    if name.startswith("lm_head."):
        return f"language_model.{name}"
    if name.startswith("language_model.") and not name.startswith(
        ("language_model.model.", "language_model.lm_")
    ):
        name = name.replace("language_model.", "language_model.model.", 1)
    if name.startswith("vision_tower.") and not name.startswith("vision_tower.vision_model."):
        name = name.replace("vision_tower.", "vision_tower.vision_model.", 1)
    return name


def _newer(name: str) -> str:
    if name.startswith("language_model.lm_head."):
        return name.removeprefix("language_model.")
    return "model." + name.replace("language_model.model.", "language_model.")


ALL: Mapping[str, Callable[[Path], Path]] = {write.__name__: write for write in (e5_v, llava_next_new)}


@contextmanager
def pillow_12() -> Iterator[None]:
    """Pillow's resize with its horizontal pass first, which version 13 turns for some sizes."""
    from PIL import Image

    plain = Image.Image.resize

    def resize(self: Any, size: Any, resample: Any = None, **more: Any) -> Any:
        return plain(plain(self, (size[0], self.height), resample, **more), size, resample, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", resize)
        yield


class Reference:
    """transformers' own model and processor of a folder, one prompt at a time.

    Args:
        folder: with weights under either names.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, LlavaNextConfig, LlavaNextForConditionalGeneration
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        from .natives import tensors

        self.torch = torch
        config = LlavaNextConfig.from_dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        self.model = LlavaNextForConditionalGeneration._from_config(config, attn_implementation="eager")
        own = {_older(name): name for name in self.model.state_dict()}
        state = {own[_older(name)]: tensor.float() for name, tensor in tensors(folder).items()}
        self.model.load_state_dict(state)
        self.model = self.model.float().eval()
        settings = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
        settings.pop("image_processor_type")
        self.processor = LlavaNextImageProcessorPil(**settings)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def ids(self, prompt: str, tokens: int = 0) -> list[int]:
        """Token ids, one `<image>` as often as its features need."""
        return self.tokenizer(prompt.replace("<image>", "<image>" * tokens))["input_ids"]

    def pixels(self, *pictures: Any) -> dict[str, Any]:
        """The processor's tensors of pictures [height, width, 3]."""
        from PIL import Image

        with pillow_12():
            return dict(
                self.processor(images=[Image.fromarray(page) for page in pictures], return_tensors="pt")
            )

    def last(self, ids: list[int], picture: Any = None) -> Any:
        """The last hidden state of the last token, [hidden]."""
        torch = self.torch
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "use_cache": False}
        if picture is not None:
            inputs |= self.pixels(picture)
        with torch.inference_mode():
            return self.model.model(**inputs).last_hidden_state[0, -1]

"""Tiny checkpoints of the families on Qwen2-VL and Qwen2.5-VL, each in the layout of its published
repository, and transformers' own classes over them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.medium import Medium

from tests.checkpoints import _json, randomise

from .decoder_tokens import qwen_bpe
from .natives import tensors
from .qwen3_vl import CHAT, MARKS, MAX_TOKENS

Floats = npt.NDArray[np.float32]
TEXT: dict[str, Any] = {
    "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
    "intermediate_size": 96, "max_position_embeddings": MAX_TOKENS, "max_window_layers": 2,
    "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0, "sliding_window": 32768, "use_cache": True, "use_sliding_window": False,
}  # fmt: skip
SECTIONS = [4, 6, 6]
"""Of 16 frequencies: time, height, width."""
VISION: dict[str, Any] = {
    "depth": 2, "in_chans": 3, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2,
    "spatial_patch_size": 14, "temporal_patch_size": 2,
}  # fmt: skip
VISION_2 = {**VISION, "embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
VISION_2_5 = {
    **VISION, "depth": 3, "fullatt_block_indexes": [1], "hidden_act": "silu", "hidden_size": 64,
    "intermediate_size": 80, "out_hidden_size": 128, "tokens_per_second": 2, "window_size": 112,
}  # fmt: skip
PICTURES: dict[str, Any] = {
    "min_pixels": 3136, "max_pixels": 602112, "patch_size": 14, "temporal_patch_size": 2, "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
}  # fmt: skip
NAMES = ((r"^model\.visual\.", "visual."), (r"^model\.language_model\.", "model."))
"""Of today's classes -> of files of transformers 4."""


def qwen2_vl(
    folder: Path,
    *,
    newer: bool = False,
    name: str = "",
    rename: Callable[[str], str | None] = lambda name: name,
    head: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    modern: bool = False,
    dtype: str = "float32",
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    pictures: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A checkpoint of Qwen2-VL's form.

    Args:
        newer: Qwen2.5-VL.
        name: of its class; empty: the language model's.
        rename: name in a file of that form -> name in this file; None: the tensor is left out.
        head: names and shapes of tensors that transformers' class lacks.
        modern: config.json and names as transformers 5 writes them, else as transformers 4 did.
        text, vision, pictures: settings of the towers and of the processor.
        config: further keys of config.json.
    """
    import torch
    import transformers
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    count = qwen_bpe(folder, ends=False, max_tokens=MAX_TOKENS, added=MARKS, padding_side="left")
    start, end, image, video = range(count - 4, count)
    kind = "qwen2_5_vl" if newer else "qwen2_vl"
    stem = "Qwen2_5_VL" if newer else "Qwen2VL"
    pad = count - 10  # the end of a text is the first of Qwen's own special tokens
    inner = {**TEXT, "vocab_size": count + 3, "bos_token_id": pad, "eos_token_id": pad + 2, **(text or {})}
    tower = {**(VISION_2_5 if newer else VISION_2), **(vision or {})}
    rotary = {"rope_type": "default", "mrope_section": SECTIONS, "rope_theta": inner["rope_theta"]}
    settings: dict[str, Any] = {
        "architectures": [name or f"{stem}ForConditionalGeneration"], "model_type": kind,
        "image_token_id": image, "video_token_id": video, "vision_end_token_id": end,
        "vision_start_token_id": start, "vision_token_id": video, "tie_word_embeddings": True,
        "torch_dtype": dtype,
    }  # fmt: skip
    if modern:
        inner = {key: value for key, value in inner.items() if key != "rope_theta"}
        settings["text_config"] = {**inner, "rope_parameters": rotary, "model_type": f"{kind}_text"}
        settings["vision_config"] = {**tower, "model_type": f"{kind}_vision"}
    else:
        settings |= {**inner, "rope_scaling": {"type": "mrope", "mrope_section": SECTIONS}}
        settings["vision_config"] = tower
    settings |= config
    _json(folder / "config.json", settings)
    plain = {**json.loads(json.dumps(settings)), "model_type": kind}
    model = getattr(transformers, f"{stem}ForConditionalGeneration")(
        getattr(transformers, f"{stem}Config").from_dict(plain)
    )
    randomise(model, seed)
    state: dict[str, torch.Tensor] = {}
    for stored, value in model.state_dict().items():
        stored = stored if modern else _older(stored)
        if not stored.startswith("lm_head") and (stored := rename(stored)) is not None:
            state[stored] = value
    generator = torch.Generator().manual_seed(seed + 1)
    for key, shape in (head or {}).items():
        state[key] = torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.1)
    save_file(
        {key: value.to(getattr(torch, dtype)).contiguous().clone() for key, value in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _json(folder / "preprocessor_config.json", PICTURES | dict(pictures or {}))
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


def _older(name: str) -> str:
    for pattern, older in NAMES:
        name = re.sub(pattern, older, name)
    return name


@dataclass
class Reference:
    """transformers' own model of a folder in eager float32, as it reads the files."""

    folder: Path

    def __post_init__(self) -> None:
        import torch
        import transformers

        config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("vlm_config", config)
        kind: Any = transformers.Qwen2_5_VLForConditionalGeneration
        kind = kind if "2_5" in config["model_type"] else transformers.Qwen2VLForConditionalGeneration
        inside = any(name.startswith("vlm.") for name in tensors(self.folder))
        model, loaded = kind.from_pretrained(
            str(self.folder),
            config=kind.config_class.from_dict(config),
            attn_implementation="eager",
            dtype=torch.float32,
            output_loading_info=True,
            key_mapping={r"^vlm\.": ""} if inside else None,
        )
        assert not set(loaded["missing_keys"]) - {"lm_head.weight"}
        self.model: Any = model.model.eval()
        self.torch = torch

    def hidden(self, ids: Sequence[int], media: Sequence[Medium] = (), *, seconds: float = 1.0) -> Floats:
        """Hidden states [tokens, width] of one prompt with its pictures and videos in order.

        `seconds`: between two groups of frames of its videos.
        """
        torch = self.torch
        config = self.model.config
        tokens = torch.tensor([list(ids)])
        kinds = (tokens == config.image_token_id).long() + 2 * (tokens == config.video_token_id).long()
        inputs: dict[str, Any] = {"input_ids": tokens, "mm_token_type_ids": kinds, "use_cache": False}
        merge = config.vision_config.spatial_merge_size
        for kind, pixels, grid in (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ):
            chosen = [medium for medium in media if medium.kind == kind]
            if chosen:
                rows = [item.arrays["pixel_values"] for medium in chosen for item in medium.items]
                inputs[pixels] = torch.from_numpy(np.concatenate(rows))
                sizes = [(len(medium.items), *medium.grids[0]) for medium in chosen]
                inputs[grid] = torch.tensor(
                    [[time, high * merge, wide * merge] for time, high, wide in sizes]
                )
                if kind == "video" and "2_5" in config.model_type:
                    inputs["second_per_grid_ts"] = torch.tensor([seconds] * len(chosen))
        with torch.inference_mode():
            return self.model(**inputs).last_hidden_state[0].numpy()


def colqwen2(folder: Path, *, engine: bool = True, newer: bool = False, dims: int = 40, **more: Any) -> Path:
    """vidore/colqwen2-v1.0-hf, or `engine`: merged weights as colpali-engine saves them."""
    projection = "custom_text_proj" if engine else "embedding_proj_layer"
    head: dict[str, tuple[int, ...]] = {f"{projection}.weight": (dims, 128), f"{projection}.bias": (dims,)}
    if engine:
        own: dict[str, Any] = {"name": "ColQwen2_5" if newer else "ColQwen2"}
    else:
        own = {"modern": True, "rename": lambda name: f"vlm.{name}"}
    folder = qwen2_vl(folder, **{"head": head, "newer": newer, "seed": 6, **own} | more)
    if not engine:
        inner = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        outer = {"architectures": ["ColQwen2ForRetrieval"], "embedding_dim": dims, "model_type": "colqwen2"}
        _json(folder / "config.json", {**outer, "vlm_config": inner})
    return folder


LATE: Mapping[str, Callable[[Path], Path]] = {
    "colqwen2": lambda folder: colqwen2(folder, engine=False),
    "colqwen2_5": lambda folder: colqwen2(
        folder, newer=True, rename=lambda name: re.sub(r"^model\.", "language_model.", name)
    ),
}
"""Models of late interaction that are exported."""


def classifier(folder: Path, **more: Any) -> Path:
    """A head `score` of three labels, where vLLM has it: inside the language model."""
    labels = {"0": "page", "1": "photo", "2": "chart"}
    return qwen2_vl(folder, head={"language_model.score.weight": (3, 128)}, id2label=labels, seed=9, **more)


SCORE_TOKEN = 100


def jina_m0(folder: Path, **more: Any) -> Path:
    """jinaai/jina-reranker-m0."""
    head: dict[str, tuple[int, ...]] = {
        "score.0.weight": (128, 128), "score.0.bias": (128,), "score.2.weight": (1, 128), "score.2.bias": (1,)
    }  # fmt: skip
    auto = {"AutoModel": "modeling.JinaVLForRanking"}
    return qwen2_vl(folder, **{"name": "JinaVLForRanking", "head": head, "auto_map": auto, "seed": 3} | more)


@dataclass
class JinaReference(Reference):
    """The reranker's prompt, and its layers behind transformers' model."""

    def __post_init__(self) -> None:
        from tokenizers import Tokenizer

        super().__post_init__()
        self.tokenizer: Any = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        self.layers = {
            name: tensor.float().numpy()
            for name, tensor in tensors(self.folder).items()
            if name.startswith("score.")
        }

    def prompt(self, images: Images, query: Any, document: Any) -> tuple[list[int], list[Medium]]:
        """Ids, and pictures in their order; a side is a text, or a mapping with `image` and `text`."""
        texts, media = [], []
        for side in (document, query):
            parts = {"text": side} if isinstance(side, str) else side
            if "image" in parts:
                media.append(prepared.image(images, parts["image"]))
            pads = MARKS[2] * media[-1].tokens if "image" in parts else ""
            texts.append((f"{MARKS[0]}{pads}{MARKS[1]}" if pads else "") + parts.get("text", ""))
        written = "**Document**:\n{}\n**Query**:\n{}".format(*texts)
        return [*self.tokenizer.encode(written, add_special_tokens=False).ids, SCORE_TOKEN], media

    def score(self, ids: Sequence[int], media: Sequence[Medium]) -> float:
        last = self.hidden(ids, media)[-1]
        hidden = np.maximum(self.layers["score.0.weight"] @ last + self.layers["score.0.bias"], 0)
        [logit] = self.layers["score.2.weight"] @ hidden + self.layers["score.2.bias"]
        return float(1 / (1 + np.exp(2.65 - logit)))


def normalised(values: Floats) -> Floats:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)

"""Tiny checkpoints of Phi-3-Vision in the layout of its repositories, and their parts as transformers'
classes."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import HIDDEN, TABLE, _json, configure, randomise

from .decoder_tokens import sentencepiece_bpe
from .llava import CLIP_MEAN, CLIP_STD, pillow_12
from .natives import tensors
from .pages import _sharded

SPECIAL = ("<unk>", "<s>", "</s>", "<|endoftext|>", "<|image|>")
SIDE, PATCH, WIDTH, INNER = 56, 14, 64, 48
HEAD = 64
"""Width of a head of CLIP."""


def _written(
    folder: Path,
    *,
    seed: int = 60,
    crops: int = 4,
    order: str = "sub_glb",
    layers: int = 3,
    window: int | None = 262144,
    original: int = 32,
    prefix: str = "model.",
    side: int = SIDE,
    width: int = WIDTH,
) -> Path:
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3Model

    folder.mkdir(parents=True, exist_ok=True)
    roles = {
        "bos_token": "<s>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<unk>",
        "pad_token": "<|endoftext|>",
    }
    count = sentencepiece_bpe(
        folder, special=SPECIAL, roles=roles, template="<s> $A", prepend=True, max_tokens=10**9,
        padding_side="right",
    )  # fmt: skip
    _strip(folder / "tokenizer.json")
    heads, generator = 2, np.random.default_rng(seed)
    short, long = (
        np.sort(generator.uniform(low, high, 16)).round(4).tolist() for low, high in ((1, 2), (2, 40))
    )
    text: dict[str, Any] = {
        "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": 48, "rms_norm_eps": 1e-5, "max_position_embeddings": TABLE * 8,
        "original_max_position_embeddings": original, "rope_theta": 10000.0, "sliding_window": window,
        "vocab_size": count, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 3, "pad_token_id": 3,
        "attention_bias": False, "attention_dropout": 0.0, "hidden_act": "silu",
        "resid_pdrop": 0.0, "embd_pdrop": 0.0,
    }  # fmt: skip
    scaling = {"short_factor": short, "long_factor": long}
    language = randomise(
        Phi3Model(Phi3Config.from_dict(text | {"rope_scaling": {"type": "longrope", **scaling}})), seed
    )
    vision = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // HEAD,
        "intermediate_size": INNER, "image_size": side, "patch_size": PATCH, "hidden_act": "quick_gelu",
    }  # fmt: skip
    tower = randomise(CLIPVisionModel(CLIPVisionConfig(**vision)), seed + 1)
    projection = randomise(
        nn.Sequential(nn.Linear(4 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)), seed + 2
    )
    noise = torch.Generator().manual_seed(seed + 3)
    pictures = f"{prefix}vision_embed_tokens."
    state = {f"{prefix}{key}": value for key, value in language.state_dict().items()}
    state |= {
        f"{pictures}img_processor.vision_model.{key.removeprefix('vision_model.')}": value
        for key, value in tower.state_dict().items()
    }
    state |= {f"{pictures}img_projection.{key}": value for key, value in projection.state_dict().items()}
    state |= {
        f"{pictures}glb_GN": torch.randn(1, 1, 4 * width, generator=noise),
        f"{pictures}sub_GN": torch.randn(1, 1, 1, 4 * width, generator=noise),
        f"{pictures}wte.weight": state[f"{prefix}embed_tokens.weight"].clone(),
        "lm_head.weight": torch.randn(count, HIDDEN, generator=noise),
    }
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    _json(
        folder / "config.json",
        text
        | {
            "architectures": ["Phi3VForCausalLM"], "model_type": "phi3_v", "torch_dtype": "float32",
            "auto_map": {"AutoConfig": "configuration_phi3_v.Phi3VConfig"},
            "rope_scaling": {"type": "su", **scaling},
            "embd_layer": {
                "embedding_cls": "image", "hd_transform_order": order, "projection_cls": "mlp",
                "use_hd_transform": True, "with_learnable_separator": True,
            },
            "img_processor": {
                "image_dim_out": width, "model_name": "openai/clip-vit-large-patch14-336",
                "name": "clip_vision_model", "num_img_tokens": (side // PATCH) ** 2 // 4, "layer_idx": -2,
                "type_feature": "patch",
            },
        },
    )  # fmt: skip
    _json(
        folder / "preprocessor_config.json",
        {
            "auto_map": {"AutoImageProcessor": "processing_phi3_v.Phi3VImageProcessor"}, "num_crops": crops,
            "image_mean": CLIP_MEAN, "image_std": CLIP_STD, "image_processor_type": "Phi3VImageProcessor",
            "num_img_tokens": (side // PATCH) ** 2 // 4, "do_convert_rgb": True,
        },
    )  # fmt: skip
    return folder


def _strip(path: Path) -> None:
    """The space that the tokenizer puts before a text is gone again from what it decodes, as in Llama's.
    vLLM decodes a prompt with pictures and tokenises it again."""
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.decoder = decoders.Sequence([tokenizer.decoder, decoders.Strip(" ", 1, 0)])
    tokenizer.save(str(path))


def vlm2vec(folder: Path, **more: Any) -> Path:
    """TIGER-Lab/VLM2Vec-Full."""
    return _written(folder, **more)


def phi3v_other(folder: Path) -> Path:
    """More tiles, the whole picture first, a short window, bfloat16 in two files."""
    import torch
    from safetensors.torch import load_file, save_file

    _written(folder, seed=70, crops=7, order="glb_sub", layers=2, window=20, original=8)
    state = {
        name: value.to(torch.bfloat16) for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return _sharded(folder)


LAYERS = 2
"""Of CLIP in the recorded checkpoint; the last one's output is not read."""
CONFIGURATION = f"""
from transformers import PretrainedConfig
from vllm.model_executor.models import phi3v

phi3v._IMAGE_TOKEN_ID = {SPECIAL.index("<|image|>")}
phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG.num_hidden_layers = {LAYERS}
phi3v.CLIP_VIT_LARGE_PATCH14_336_CONFIG.intermediate_size = {INNER}


class Phi3VConfig(PretrainedConfig):
    model_type = "phi3_v"
"""
"""Only read by vLLM, which knows the tower's sizes and the token of pictures by heart."""
PUBLISHED = ("processing_phi3_v.py", "image_processing_phi3_v.py")
"""Files of TIGER-AI-Lab/VLM2Vec (src/model/baseline_backbone/phi3_v) that prepare pictures for vLLM. The
environment variable POOLRT_PHI3V names a folder that has them, only while answers are recorded."""


def vlm2vec_recorded(folder: Path) -> Path:
    """With tiles of 336 pixels and a tower as wide as the published one, which vLLM insists on, and a table
    of positions that ends where the short factors do."""
    _written(folder, side=336, width=1024, layers=LAYERS, original=4096)
    configure(folder, max_position_embeddings=4096)
    if source := os.environ.get("POOLRT_PHI3V"):
        for name in PUBLISHED:
            shutil.copy(Path(source) / name, folder / name)
        (folder / "configuration_phi3_v.py").write_text(CONFIGURATION, encoding="utf-8")
        path = folder / "preprocessor_config.json"
        automatic = {
            "AutoImageProcessor": "image_processing_phi3_v.Phi3VImageProcessor",
            "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
        }
        _json(path, json.loads(path.read_text(encoding="utf-8")) | {"auto_map": automatic})
    return folder


ALL: Mapping[str, Callable[[Path], Path]] = {write.__name__: write for write in (vlm2vec, phi3v_other)}


class Reference:
    """The model of a folder as transformers' classes, and its processor as its authors describe it, in
    Pillow and torch."""

    def __init__(self, folder: Path) -> None:
        import torch
        from torch import nn
        from transformers import AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3Model

        self.torch = torch
        self.config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.crops = json.loads((folder / "preprocessor_config.json").read_text())["num_crops"]
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        state = {name.removeprefix("model."): value.float() for name, value in tensors(folder).items()}
        scaling = {**self.config["rope_scaling"], "type": "longrope"}
        plain = {
            key: value
            for key, value in self.config.items()
            if key not in ("architectures", "model_type", "auto_map", "embd_layer", "img_processor")
        }
        self.language = Phi3Model._from_config(
            Phi3Config.from_dict(plain | {"rope_scaling": scaling}), attn_implementation="eager"
        ).float()  # pyright: ignore[reportAttributeAccessIssue]
        clip = "vision_embed_tokens.img_processor.vision_model."
        width, _, patch, _ = state[f"{clip}embeddings.patch_embedding.weight"].shape
        places = len(state[f"{clip}embeddings.position_embedding.weight"]) - 1
        self.side, self.width = math.isqrt(places) * patch, width
        depth = 1 + max(
            int(name.split("layers.")[1].split(".")[0]) for name in state if "encoder.layers" in name
        )
        self.tower: Any = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width, num_hidden_layers=depth, num_attention_heads=width // HEAD,
                intermediate_size=len(state[f"{clip}encoder.layers.0.mlp.fc1.bias"]),
                image_size=self.side, patch_size=patch, hidden_act="quick_gelu",
            )
        )  # fmt: skip
        self.projection = nn.Sequential(nn.Linear(4 * width, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))
        nested = any(name.startswith("vision_model.") for name in self.tower.state_dict())
        clip = clip.removesuffix("vision_model.") if nested else clip
        for module, prefix in ((self.tower, clip), (self.projection, "vision_embed_tokens.img_projection.")):
            module.load_state_dict(
                {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
            )
        self.language.load_state_dict(
            {
                name: value
                for name, value in state.items()
                if not name.startswith(("vision_embed_tokens.", "lm_head."))
            }
        )
        for module in (self.language, self.tower, self.projection):
            module.eval()
        self.line, self.border = (state[f"vision_embed_tokens.{name}"] for name in ("sub_GN", "glb_GN"))

    def canvas(self, page: Any) -> Any:
        """[3, rows * side, columns * side], normalised: the picture scaled and padded to whole tiles."""
        from PIL import Image, ImageOps

        torch, side = self.torch, self.side
        picture = Image.fromarray(page)
        turned = picture.width < picture.height
        if turned:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        ratio, scale = picture.width / picture.height, 1
        while scale * np.ceil(scale / ratio) <= self.crops:
            scale += 1
        scale -= 1
        width, height = int(scale * side), int(scale * side / ratio)
        with pillow_12():
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        target = int(np.ceil(height / side) * side)
        top = int((target - height) / 2)
        picture = ImageOps.expand(picture, (0, top, 0, target - height - top), fill=(255, 255, 255))
        if turned:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        values = torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(torch.float32) / 255
        mean, std = (torch.tensor(numbers).reshape(3, 1, 1) for numbers in (CLIP_MEAN, CLIP_STD))
        return (values - mean) / std

    def pixels(self, page: Any) -> tuple[Any, int, int]:
        """[1 + tiles, 3, side, side], the whole picture first, and how many rows and columns there are."""
        torch, side, values = self.torch, self.side, self.canvas(page)
        whole = torch.nn.functional.interpolate(values[None], size=(side, side), mode="bicubic")
        rows, columns = values.shape[1] // side, values.shape[2] // side
        tiles = values.reshape(3, rows, side, columns, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
        return torch.cat((whole, tiles)), rows, columns

    def features(self, page: Any) -> Any:
        """[tokens, hidden] of a picture."""
        torch = self.torch
        pixels, rows, columns = self.pixels(page)
        hidden = self.tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        half = math.isqrt(hidden.shape[1]) // 2
        cells = hidden.reshape(len(hidden), half, 2, half, 2, self.width).permute(0, 1, 3, 2, 4, 5)
        cells = cells.reshape(len(hidden), half, half, 4 * self.width)

        def lines(grid: Any) -> Any:
            end = self.line.reshape(1, 1, -1).expand(grid.shape[0], 1, -1)
            return torch.cat((grid, end), dim=1).flatten(0, 1)

        tiles = cells[1:].reshape(rows, columns, half, half, -1).permute(0, 2, 1, 3, 4)
        parts = [
            lines(tiles.reshape(rows * half, columns * half, -1)),
            self.border.reshape(1, -1),
            lines(cells[0]),
        ]
        if self.config["embd_layer"]["hd_transform_order"] == "glb_sub":
            parts.reverse()
        return self.projection(torch.cat(parts))

    def last(self, prompt: str, pages: list[Any] | None = None) -> tuple[list[int], Any]:
        """Token ids of a prompt, each text between pictures tokenised by itself, and the hidden state of the
        last one."""
        torch = self.torch
        mark = self.tokenizer.convert_tokens_to_ids("<|image|>")
        ids: list[int] = []
        places: list[tuple[int, Any]] = []
        with torch.inference_mode():
            chunks = re.split(r"<\|image_(\d+)\|>", prompt)
            for index, chunk in enumerate(chunks):
                if index % 2 == 0:
                    ids += self.tokenizer(chunk)["input_ids"]
                    continue
                rows = self.features((pages or [])[int(chunk) - 1])
                places.append((len(ids), rows))
                ids += [mark] * len(rows)
            embedded = self.language.embed_tokens(torch.tensor([ids]))
            for start, rows in places:
                embedded[0, start : start + len(rows)] = rows
            return ids, self.language(inputs_embeds=embedded, use_cache=False).last_hidden_state[0, -1]

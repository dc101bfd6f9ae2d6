"""Tiny checkpoints that compare pages with questions token by token, in the layouts of published files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import HIDDEN, TABLE, _json, configure, randomise, rewrite_weights
from tests.painted import painted

from . import modernbert
from .decoder_tokens import sentencepiece_bpe

SIGLIP: dict[str, Any] = {
    "model_type": "siglip_vision_model", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 48, "layer_norm_eps": 1e-6, "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
"""Heads of 32, which vLLM's attention on a processor runs."""
ENGINE = 128
"""The one width of vectors that colpali-engine knows."""
AROUND = "<fake_token_around_image>"
IDEFICS = (
    "<|begin_of_text|>", AROUND, "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<end_of_utterance>", "<image>",
)  # fmt: skip

PAGES = tuple(
    painted(*size, seed, channels)
    for seed, (size, channels) in enumerate(
        [((70, 40), 3), ((200, 100), 3), ((33, 500), 3), ((40, 70), 4), ((64, 48), 1), ((1, 1), 3)]
    )
)
"""Pictures [height, width, channels] with which these models are compared."""
QUESTIONS = ("what is the capital of france", "red")


# --- ColPali
# ------------------------------------------------------------------------------------------------------------


def _gemma_tokens(folder: Path) -> int:
    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    count = sentencepiece_bpe(
        folder, special=special, roles=roles, template="<bos> $A", prepend=False, max_tokens=10**30,
        extra_special_tokens={"image_token": "<image>"}, processor_class="ColPaliProcessor",
    )  # fmt: skip
    # Gemma's vocabulary has a line break, which vLLM looks up.
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"]["\n"] = count
    _json(folder / "tokenizer.json", content)
    return count + 1


def _siglip_processor(folder: Path, side: int, **more: Any) -> None:
    settings = {
        "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "rescale_factor": 1 / 255, "resample": 3,
        "size": {"height": side, "width": side}, "image_processor_type": "SiglipImageProcessor",
    }  # fmt: skip
    _json(folder / "preprocessor_config.json", settings | more)


def _colpali(
    folder: Path, *, seed: int, side: int = 56, heads: int = 4, dim: int = 24, bias: bool = True, **text: Any
) -> Any:
    """A module of transformers' class, with its tokenizer and processor in `folder`."""
    import torch
    from transformers import ColPaliConfig, ColPaliForRetrieval

    folder.mkdir(parents=True, exist_ok=True)
    count = _gemma_tokens(folder)
    _siglip_processor(folder, side, image_seq_length=(side // 14) ** 2, processor_class="ColPaliProcessor")
    gemma: dict[str, Any] = {
        "model_type": "gemma", "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": heads,
        "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 48, "vocab_size": count,
        "max_position_embeddings": TABLE * 8, "hidden_activation": "gelu_pytorch_tanh", "bos_token_id": 2,
        "eos_token_id": 1, "pad_token_id": 0,
    }  # fmt: skip
    vision = SIGLIP | {
        "image_size": side,
        "patch_size": 14,
        "vision_use_head": False,
        "projection_dim": HIDDEN,
    }
    settings = {
        "model_type": "paligemma", "text_config": gemma | text, "vision_config": vision,
        "image_token_index": 4, "projection_dim": HIDDEN, "hidden_size": HIDDEN,
    }  # fmt: skip
    module = randomise(ColPaliForRetrieval(ColPaliConfig(vlm_config=settings, embedding_dim=dim)), seed)
    with torch.no_grad():
        # Norms of Gemma multiply by 1 + weight.
        for name, parameter in module.named_parameters():
            if ("layernorm" in name and "language_model" in name) or name.endswith(
                "language_model.norm.weight"
            ):
                parameter.sub_(1.0)
            if not bias and name == "embedding_proj_layer.bias":
                parameter.zero_()
    return module


def colpali(folder: Path, **more: Any) -> Path:
    """vidore/colpali-v1.3-hf: transformers 4.47's names, in several bfloat16 files."""
    import torch

    _colpali(folder, **{"seed": 0, **more}).to(torch.bfloat16).save_pretrained(folder)
    rewrite_weights(folder, lambda name: name.replace("vision_tower.", "vision_tower.vision_model."))
    mirror = json.loads((folder / "config.json").read_text())["vlm_config"]["text_config"]
    configure(folder, text_config=mirror, torch_dtype="bfloat16", transformers_version="4.47.0.dev0")
    return _sharded(folder)


def colpali_exact(folder: Path, **more: Any) -> Path:
    """The same in float32, in one file."""
    _colpali(folder, **{"seed": 0, **more}).save_pretrained(folder)
    rewrite_weights(folder, lambda name: name.replace("vision_tower.", "vision_tower.vision_model."))
    return folder


def colpali_nested(folder: Path) -> Path:
    """Names of transformers 4.52 to 4.57, with the tied output layer; other heads and patches."""
    module = _colpali(folder, seed=7, side=42, heads=2)
    module.save_pretrained(folder)
    rewrite_weights(
        folder,
        lambda name: (
            name.replace("vlm.language_model.model.", "vlm.model.language_model.")
            .replace("vlm.vision_tower.", "vlm.model.vision_tower.vision_model.")
            .replace("vlm.multi_modal", "vlm.model.multi_modal")
        ),
        add={"vlm.lm_head.weight": module.vlm.language_model.embed_tokens.weight.detach().clone()},
    )
    return folder


def colpali_engine(folder: Path) -> Path:
    """vidore/colpali-v1.3-merged: PaliGemma's settings and colpali-engine's names."""
    _colpali(folder, seed=8, dim=ENGINE).save_pretrained(folder)
    rewrite_weights(
        folder,
        lambda name: (
            name.replace("embedding_proj_layer", "custom_text_proj")
            .replace("vlm.vision_tower.", "model.vision_tower.vision_model.")
            .replace("vlm.", "model.")
        ),
    )
    inner = json.loads((folder / "config.json").read_text())["vlm_config"]
    _json(folder / "config.json", inner | {"architectures": ["ColPali"]})
    return folder


def _sharded(folder: Path) -> Path:
    """model.safetensors in two files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    placed: dict[str, str] = {}
    for number in (1, 2):
        file = f"model-{number:05}-of-00002.safetensors"
        part = names[: len(names) // 2] if number == 1 else names[len(names) // 2 :]
        save_file(
            {name: tensors[name].contiguous() for name in part}, folder / file, metadata={"format": "pt"}
        )
        placed |= dict.fromkeys(part, file)
    (folder / "model.safetensors").unlink()
    _json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": placed})
    return folder


def colpali_recorded(folder: Path) -> Path:
    """What vLLM can be compared with: it leaves the projection's bias out."""
    return colpali_exact(folder, seed=11, bias=False)


# --- ColModernVBERT
# ------------------------------------------------------------------------------------------------------------


def _idefics_processor(folder: Path, side: int, longest: int, tokens_of_tile: int, **more: Any) -> None:
    settings = {
        "do_convert_rgb": True, "do_image_splitting": True, "do_normalize": True, "do_pad": True,
        "do_rescale": True, "do_resize": True, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor", "max_image_size": {"longest_edge": side},
        "resample": 1, "rescale_factor": 1 / 255, "size": {"longest_edge": longest},
    }  # fmt: skip
    _json(folder / "preprocessor_config.json", settings | more)
    _json(
        folder / "processor_config.json",
        {"image_seq_len": tokens_of_tile, "processor_class": "ColModernVBertProcessor"},
    )


def _colmodernvbert(
    folder: Path,
    *,
    seed: int,
    side: int = 64,
    factor: int = 2,
    longest: int = 160,
    dim: int = 24,
    **text: Any,
) -> Any:
    """A module of transformers' class, with its tokenizer and processor in `folder`."""
    from transformers import ColModernVBertConfig, ColModernVBertForRetrieval

    folder.mkdir(parents=True, exist_ok=True)
    settings = modernbert.settings(folder, added=IDEFICS)
    settings |= {"max_position_embeddings": TABLE * 8, "model_type": "modernbert"}
    tile = (side // 16) ** 2 // factor**2
    _idefics_processor(folder, side, longest, tile)
    vision = SIGLIP | {"image_size": side, "patch_size": 16}
    config = ColModernVBertConfig(
        vlm_config={
            "model_type": "modernvbert", "text_config": settings | text, "vision_config": vision,
            "image_token_id": settings["vocab_size"] - 1, "pixel_shuffle_factor": factor,
        },
        embedding_dim=dim,
    )  # fmt: skip
    return randomise(ColModernVBertForRetrieval(config), seed)


def colmodernvbert(folder: Path, **more: Any) -> Path:
    """ModernVBERT/colmodernvbert: transformers' own layout."""
    _colmodernvbert(folder, **{"seed": 0, **more}).save_pretrained(folder)
    return folder


def colmodernvbert_merged(folder: Path, **more: Any) -> Path:
    """ModernVBERT/colmodernvbert-merged: flat settings, a second `vision_model.`, no class named."""
    colmodernvbert(folder, **{"seed": 3, "factor": 4, "dim": ENGINE, **more})
    rewrite_weights(folder, _flat)
    inner = json.loads((folder / "config.json").read_text())["vlm_config"]
    inner["text_config"] = {
        key: value
        for key, value in inner["text_config"].items()
        if key not in ("_name_or_path", "architectures")
    }
    _json(folder / "config.json", inner | {"model_type": "modernvbert", "torch_dtype": "float32"})
    return folder


def colmodernvbert_recorded(folder: Path) -> Path:
    """vLLM's configuration reads some settings of the flat layout, and has defaults for the others: windows,
    thetas, and one tile for each picture."""
    return colmodernvbert_merged(
        folder, seed=12, factor=2, longest=64, local_attention=128, intermediate_size=48
    )


def colmodernvbert_split(folder: Path) -> Path:
    """The first revision: the added tokens in a table of their own, older names, bfloat16 in two files."""
    import torch
    from safetensors.torch import load_file, save_file

    _colmodernvbert(folder, seed=5, side=48, factor=3, longest=96).to(torch.bfloat16).save_pretrained(folder)
    added = len(IDEFICS)

    def older(name: str) -> str:
        name = _flat(name).replace("modality_projection.", "modality_projection.proj.")
        return name.replace("custom_text_proj", "model.custom_text_proj")

    rewrite_weights(folder, older)
    tensors = load_file(folder / "model.safetensors")
    table = "model.text_model.embeddings.tok_embeddings"
    whole = tensors[f"{table}.weight"]
    tensors[f"{table}.weight"] = whole[:-added].contiguous()
    tensors[f"{table}.additional_embedding.weight"] = whole[-added:].contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    inner = json.loads((folder / "config.json").read_text())["vlm_config"]
    inner["text_config"]["vocab_size"] -= added
    inner["vision_config"]["embed_dim"] = inner["vision_config"].pop("hidden_size")
    _json(
        folder / "config.json",
        inner
        | {"model_type": "modernvbert", "additional_vocab_size": added, "architectures": ["ColModernVBert"]},
    )
    return _sharded(folder)


def _flat(name: str) -> str:
    """colpali-engine's name of a tensor."""
    return (
        name.replace("embedding_proj_layer", "custom_text_proj")
        .replace("vlm.vision_model.", "model.vision_model.vision_model.")
        .replace("vlm.", "model.")
    )


ALL: Mapping[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        colpali, colpali_exact, colpali_nested, colpali_engine, colmodernvbert, colmodernvbert_merged,
        colmodernvbert_split,
    )
}  # fmt: skip

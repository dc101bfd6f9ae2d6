"""Tiny checkpoints of Llama-Nemotron-VL in the layout of NVIDIA's repositories, and their parts as
transformers' own classes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoints import HIDDEN, MERGES, TABLE, _json, configure, randomise

from .natives import tensors
from .pages import SIGLIP, _sharded

BEGIN, PAD, CONTEXT = "<|begin_of_text|>", "<|finetune_right_pad_id|>", "<IMG_CONTEXT>"
SPECIAL = (BEGIN, "<|end_of_text|>", PAD, "<img>", "</img>", CONTEXT)
LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip


def llama3_bpe(folder: Path, special: Sequence[str] = SPECIAL, **config: Any) -> int:
    """Llama 3's: byte-level BPE, special tokens behind the pieces, the first in front of a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A {BEGIN}:1 $B:1",
        special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
    )  # fmt: skip
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(
        folder / "tokenizer_config.json",
        {
            "bos_token": BEGIN, "eos_token": "<|end_of_text|>", "pad_token": PAD, "padding_side": "left",
            "model_max_length": TABLE, "tokenizer_class": "PreTrainedTokenizerFast",
        }
        | config,
    )  # fmt: skip
    return tokenizer.get_vocab_size(with_added_tokens=True)


def _written(
    folder: Path,
    name: str,
    *,
    outer: str,
    seed: int,
    side: int = 64,
    patch: int = 16,
    shrink: int = 2,
    heads: int = 2,
    score: bool = False,
    processor: Mapping[str, Any] | None = None,
    temperature: float = 1.0,
) -> Path:
    import torch
    from safetensors.torch import save_file
    from torch import nn
    from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

    folder.mkdir(parents=True, exist_ok=True)
    unsuitable = "{% for message in messages %}{{ message['role'] }}{% endfor %}"
    count = llama3_bpe(folder, chat_template=unsuitable)
    llama: dict[str, Any] = {
        "model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"], "hidden_size": HIDDEN,
        "num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": 1, "head_dim": 32,
        "intermediate_size": 48, "vocab_size": count, "max_position_embeddings": TABLE * 8,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "rope_scaling": LLAMA3, "pooling": "avg",
        "temperature": temperature, "pad_token_id": count - 4, "bos_token_id": count - 6,
    }  # fmt: skip
    if score:
        llama["num_labels"] = 1
    vision: dict[str, Any] = SIGLIP | {"image_size": side, "patch_size": patch}
    plain = {key: value for key, value in llama.items() if key not in ("model_type", "architectures")}
    language = randomise(LlamaModel(LlamaConfig(**plain)), seed)
    tower = randomise(SiglipVisionModel(SiglipVisionConfig(**vision)), seed + 1)
    wide = vision["hidden_size"] * shrink**2
    mlp = randomise(
        nn.Sequential(nn.LayerNorm(wide), nn.Linear(wide, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN)),
        seed + 2,
    )
    state = {f"{outer}language_model.{key}": value for key, value in language.state_dict().items()}
    state |= {
        f"{outer}vision_model.vision_model.{key.removeprefix('vision_model.')}": value
        for key, value in tower.state_dict().items()
    }
    state |= {f"{outer}mlp1.{key}": value for key, value in mlp.state_dict().items()}
    if score:
        generator = torch.Generator().manual_seed(seed + 3)
        state["score.weight"] = torch.randn(1, HIDDEN, generator=generator) / 4
    save_file(
        {key: value.contiguous() for key, value in state.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    kind = "llama_nemotron_vl_rerank" if score else "llama_nemotron_vl"
    config: dict[str, Any] = {
        "architectures": [name], "model_type": kind, "auto_map": {"AutoModel": f"modeling_{kind}.{name}"},
        "llm_config": llama, "vision_config": vision, "force_image_size": side,
        "downsample_ratio": 1 / shrink, "ps_version": "v2", "select_layer": -1, "template": "bidirectional",
        "img_context_token_id": count - 1, "dynamic_image_size": True, "use_thumbnail": True,
        "hidden_size": HIDDEN, "torch_dtype": "float32",
    }  # fmt: skip
    _json(folder / "config.json", config | ({"num_labels": 1} if score else {}))
    settings: dict[str, Any] = {
        "max_input_tiles": 6, "use_thumbnail": True, "dynamic_image_size": True, "prompt_template": "v1",
        "query_prefix": "query:", "passage_prefix": "passage:", "q_max_length": 512, "p_max_length": 10240,
        "processor_class": f"{name}Processor",
    }  # fmt: skip
    _json(folder / "processor_config.json", settings | dict(processor or {}))
    return folder


def embedder(folder: Path, **more: Any) -> Path:
    """nvidia/llama-nemotron-embed-vl-1b-v2."""
    return _written(folder, "LlamaNemotronVLModel", outer="", **{"seed": 20, **more})


def reranker(folder: Path, **more: Any) -> Path:
    """nvidia/llama-nemotron-rerank-vl-1b-v2: everything but the head behind `model.`."""
    name = "LlamaNemotronVLForSequenceClassification"
    return _written(folder, name, outer="model.", score=True, **{"seed": 30, **more})


def embedder_other(folder: Path) -> Path:
    """Other sizes, one tile, bfloat16 in two files."""
    import torch
    from safetensors.torch import load_file, save_file

    embedder(
        folder, seed=40, side=96, shrink=3, heads=4, processor={"max_input_tiles": 3, "use_thumbnail": False}
    )
    state = {
        name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / "model.safetensors").items()
    }
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return _sharded(folder)


CONFIGURATION = """from transformers import LlamaConfig, PretrainedConfig, SiglipVisionConfig


class {name}Config(PretrainedConfig):
    model_type = "{kind}"
    sub_configs = {{"vision_config": SiglipVisionConfig, "llm_config": LlamaConfig}}

    def __init__(self, vision_config=None, llm_config=None, **more):
        self.vision_config = SiglipVisionConfig(**(vision_config or {{}}))
        self.llm_config = LlamaConfig(**(llm_config or {{}}))
        super().__init__(**more)

    def get_text_config(self, *args, **more):
        return self.llm_config
"""
"""Settings as the published repositories bring them in Python, which vLLM runs and poolrt does not."""


def _recorded(folder: Path, score: bool) -> Path:
    """With the settings' class, which vLLM needs."""
    write = reranker if score else embedder
    write(folder)
    kind = "llama_nemotron_vl_rerank" if score else "llama_nemotron_vl"
    text = CONFIGURATION.format(name="LlamaNemotronVL", kind=kind)
    (folder / "configuration_nemotron.py").write_text(text, encoding="utf-8")
    configure(folder, auto_map={"AutoConfig": "configuration_nemotron.LlamaNemotronVLConfig"})
    return folder


def embedder_recorded(folder: Path) -> Path:
    return _recorded(folder, score=False)


def reranker_recorded(folder: Path) -> Path:
    return _recorded(folder, score=True)


ALL: Mapping[str, Callable[[Path], Path]] = {
    write.__name__: write for write in (embedder, reranker, embedder_other)
}


@dataclass
class Parts:
    """The model of a folder as transformers' classes, in float32."""

    folder: Path

    def __post_init__(self) -> None:
        import torch
        from torch import nn
        from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

        self.config = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        state = {name.removeprefix("model."): tensor.float() for name, tensor in tensors(self.folder).items()}
        llama = {
            key: value
            for key, value in self.config["llm_config"].items()
            if key not in ("model_type", "architectures", "pooling", "temperature")
        }
        vision = {key: value for key, value in self.config["vision_config"].items() if key != "model_type"}
        self.language = LlamaModel(LlamaConfig(**llama)).eval()
        self.tower = SiglipVisionModel(SiglipVisionConfig(**vision)).eval()
        wide, hidden = state["mlp1.1.weight"].shape[1], state["mlp1.1.weight"].shape[0]
        self.mlp = nn.Sequential(
            nn.LayerNorm(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        nested = any(name.startswith("vision_model.") for name in self.tower.state_dict())
        for module, prefix in (
            (self.language, "language_model."),
            (self.tower, "vision_model." if nested else "vision_model.vision_model."),
            (self.mlp, "mlp1."),
        ):
            module.load_state_dict(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in state.items()
                    if name.startswith(prefix)
                }
            )
        self.score = state.get("score.weight")
        self.torch = torch

    def features(self, tiles: Any) -> Any:
        """[tiles, 3, side, side] -> [tiles * tokens, hidden], the squares as InternVL's code makes them."""
        torch = self.torch
        with torch.inference_mode():
            hidden = self.tower(pixel_values=torch.from_numpy(np.ascontiguousarray(tiles))).last_hidden_state
            count, patches, width = hidden.shape
            side, ratio = int(patches**0.5), self.config["downsample_ratio"]
            small, wide = int(side * ratio), round(width / ratio)
            grid = hidden.reshape(count, side, side, width).reshape(count, side, small, wide)
            grid = grid.permute(0, 2, 1, 3).reshape(count, small, small, round(wide / ratio))
            grid = grid.permute(0, 2, 1, 3)
            return self.mlp(grid.reshape(count, small * small, -1)).flatten(0, 1)

    def pooled(self, ids: list[int], tiles: Any = None) -> Any:
        """The mean of the hidden states of one prompt, [hidden]: every token attends to every other."""
        torch = self.torch
        numbers = torch.tensor([ids])
        with torch.inference_mode():
            embedded = self.language.get_input_embeddings()(numbers)
            if tiles is not None:
                places = numbers[0] == self.config["img_context_token_id"]
                embedded[0, places] = self.features(tiles)
            # A mask of four axes is taken as it is.
            mask = torch.zeros(1, 1, len(ids), len(ids))
            return self.language(inputs_embeds=embedded, attention_mask=mask).last_hidden_state[0].mean(0)

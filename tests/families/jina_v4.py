"""A tiny jinaai/jina-embeddings-v4 in the layout of its repository, and its published arithmetic over
transformers' own Qwen2.5-VL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from poolrt.runtime.inputs.media.medium import Medium

from tests.checkpoints import _json, configure

from . import qwen2_vl
from .natives import tensors
from .qwen2_vl import Floats, Reference, normalised

TASKS = ("retrieval", "text-matching", "code")
WIDTHS = [16, 32, 64, 128]
RANK, ALPHA = 4, 6
DIMS = 24
LAYERS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip
HEAD = "multi_vector_projector"
CODE = {
    "AutoConfig": "configuration_jina_embeddings_v4.JinaEmbeddingsV4Config",
    "AutoModel": "modeling_jina_embeddings_v4.JinaEmbeddingsV4Model",
}
PEFT: dict[str, Any] = {
    "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "jinaai/jina-embeddings-v4",
    "bias": "none", "corda_config": None, "eva_config": None, "exclude_modules": ".*visual.*",
    "fan_in_fan_out": False, "inference_mode": False, "init_lora_weights": "gaussian",
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {},
    "lora_alpha": ALPHA, "lora_bias": False, "lora_dropout": 0.1, "megatron_config": None,
    "megatron_core": "megatron.core", "modules_to_save": None, "peft_type": "LORA", "r": RANK,
    "rank_pattern": {}, "revision": None, "target_modules":
    "(.*(model).*(down_proj|gate_proj|up_proj|k_proj|q_proj|v_proj|o_proj).*$|"
    ".*(single_vector_projector|multi_vector_projector).*$)",
    "task_type": "FEATURE_EXTRACTION", "trainable_token_indices": None, "use_dora": False,
    "use_rslora": False,
}  # fmt: skip


def jina_v4(folder: Path, *, seed: int = 0, peft: dict[str, Any] | None = None, **config: Any) -> Path:
    """jinaai/jina-embeddings-v4: settings as transformers 4.52 wrote them, bfloat16 everywhere, and Sentence
    Transformers' files. Weights have the names of before 4.52 (`model.layers`, `visual`), adapters those
    of it.

    Args:
        folder: which may exist.
        seed: of all tensors.
        peft: other settings of the adapters.
        config: further keys of config.json.
    """
    import torch
    from safetensors.torch import save_file

    head: dict[str, tuple[int, ...]] = {f"{HEAD}.weight": (DIMS, 128), f"{HEAD}.bias": (DIMS,)}
    qwen2_vl.qwen2_vl(
        folder, newer=True, name="JinaEmbeddingsV4Model", head=head, seed=seed, dtype="bfloat16",
        auto_map=CODE, single_vector_pool_strategy="mean", multi_vector_projector_dim=DIMS,
        matryoshka_dims=WIDTHS, task_names=list(TASKS), truncate_dim=None, verbosity=1,
        pretrained_peft_model_name_or_path=None,
    )  # fmt: skip
    _nest(folder)
    configure(folder, **config)
    stored = tensors(folder)
    settings = PEFT | (peft or {})
    generator = torch.Generator().manual_seed(seed + 7)
    factors: dict[str, torch.Tensor] = {}
    for name, module in _adapted().items():
        rows, columns = stored[f"{name}.weight"].shape
        for task in TASKS:
            pair = {"A": (settings["r"], columns), "B": (rows, settings["r"])}
            for side, shape in pair.items():
                noise = 0.15 * torch.randn(shape, generator=generator)
                factors[f"base_model.model.{module}.lora_{side}.{task}.weight"] = noise.to(torch.bfloat16)
    (folder / "adapters").mkdir()
    save_file(factors, folder / "adapters" / "adapter_model.safetensors", metadata={"format": "pt"})
    _json(folder / "adapters" / "adapter_config.json", settings)
    transformer = {"idx": 0, "name": "transformer", "path": "", "type": "custom_st.Transformer"}
    _json(folder / "modules.json", [transformer | {"kwargs": ["task", "truncate_dim"]}])
    return folder


def _nest(folder: Path) -> None:
    """The text model's settings inside `text_config`, as transformers 4.52 wrote them."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text = {key: settings.pop(key) for key in (*qwen2_vl.TEXT, "vocab_size", "bos_token_id", "eos_token_id")}
    rotary = {**settings.pop("rope_scaling"), "type": "default", "rope_type": "default"}
    settings["text_config"] = {**text, "model_type": "qwen2_5_vl_text", "rope_scaling": rotary}
    settings["vision_config"] = {**settings["vision_config"], "model_type": "qwen2_5_vl"}
    _json(folder / "config.json", settings)


def _adapted() -> dict[str, str]:
    """Name of a module in the weights -> in the adapters."""
    inside = [f"layers.{layer}.{name}" for layer in range(2) for name in LAYERS]
    return {f"model.{name}": f"model.language_model.{name}" for name in inside} | {HEAD: HEAD}


class JinaV4(Reference):
    """The published model with the adapter of one task beside its layers, unmerged."""

    def __init__(self, folder: Path, task: str) -> None:
        import torch
        from safetensors.torch import load_file

        super().__init__(folder)
        settings = json.loads((folder / "adapters" / "adapter_config.json").read_text(encoding="utf-8"))
        rank = settings["r"]
        self.scale = settings["lora_alpha"] / (rank**0.5 if settings["use_rslora"] else rank)
        self.task = task
        self.factors = load_file(folder / "adapters" / "adapter_model.safetensors")
        self.own = {name: value.float() for name, value in tensors(folder).items() if name.startswith(HEAD)}
        for name, module in self.model.named_modules():
            if name.startswith("language_model.") and name.endswith(tuple(LAYERS)):
                assert isinstance(module, torch.nn.Linear)
                module.register_forward_hook(self._hook(f"model.{name}"))
        self.start, self.end = self.model.config.vision_start_token_id, self.model.config.vision_end_token_id

    def _correction(self, name: str, value: Any) -> Any:
        first, second = (
            self.factors[f"base_model.model.{name}.lora_{side}.{self.task}.weight"].float() for side in "AB"
        )
        return value @ first.T @ second.T * self.scale

    def _hook(self, name: str) -> Any:
        return lambda _, inputs, output: output + self._correction(name, inputs[0])

    def single(self, ids: Sequence[int], media: Sequence[Medium] = (), *, width: int | None = None) -> Floats:
        """One vector: the mean of all tokens, or of those from the mark in front of a picture to the one
        behind it; cut to `width` before it is normalised again."""
        hidden = self.hidden(ids, media)
        if self.start in ids:
            hidden = hidden[list(ids).index(self.start) : list(ids).index(self.end) + 1]
        return normalised(normalised(hidden.mean(0))[:width])

    def multi(self, ids: Sequence[int], media: Sequence[Medium] = ()) -> Floats:
        """A vector of each token, [tokens, DIMS]."""
        hidden = self.torch.from_numpy(np.array(self.hidden(ids, media)))
        projected = hidden @ self.own[f"{HEAD}.weight"].T + self.own[f"{HEAD}.bias"]
        return normalised((projected + self._correction(HEAD, hidden)).numpy())

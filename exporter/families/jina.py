"""Jina's flash XLM-R with rotary positions: jina-embeddings-v3 (https://arxiv.org/abs/2409.10173) and
jina-colbert-v2.

Its model_type is xlm-roberta, but XLM-R's class would have no place for most of its tensors. Each matrix of
jina-embeddings-v3 comes with five low-rank corrections, one for each task. The export adds the one that
`lora_task` of config.json names, which an override may set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from ..files import adapter_merge
from ._transformers import backbone
from .registry import Architecture, Config, Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

DEFAULT_TASK = "text-matching"  # the one that vLLM serves
ORIGINAL, FIRST, SECOND = (
    ".parametrizations.weight.original",
    ".parametrizations.weight.0.lora_A",
    ".parametrizations.weight.0.lora_B",
)


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    rotary = config.get("position_embedding_type") == "rotary" or "lora_adaptations" in config
    absolute = any(name.endswith("position_embeddings.weight") for name in shapes)
    return config.get("model_type") == "jina_embeddings_v3" or (
        not absolute and (rotary or any(".mixer." in name for name in shapes))
    )


def translate(config: Config) -> Config:
    if config.get("model_type") == "jina_embeddings_v3":
        return config
    rotary = {"rope_type": "default", "rope_theta": float(config.get("rotary_emb_base", 10000.0))}
    published = [
        "ColBERTJinaRobertaModel" if name == "HF_ColBERT" else name
        for name in config.get("architectures") or ()
    ]
    return {**config, "rope_parameters": rotary, "architectures": published}


def merged(state: dict[str, torch.Tensor], config: Config) -> dict[str, torch.Tensor]:
    """The state dict with one task's corrections added, under plain names. Raises CheckpointError for an
    unknown task."""
    if not any(name.endswith(ORIGINAL) for name in state):
        return state
    tasks = list(config.get("lora_adaptations") or ())
    task = str(config.get("lora_task") or DEFAULT_TASK)
    if task not in tasks:
        raise CheckpointError(
            f"lora_task {task!r}: this checkpoint has {', '.join(map(repr, tasks)) or 'no lora_adaptations'}"
        )
    scale = float(config.get("lora_alpha", 1.0)) / float(config["lora_rank"])
    plain_state = {name: tensor for name, tensor in state.items() if ".parametrizations." not in name}
    for name in (name for name in state if name.endswith(ORIGINAL)):
        plain = name.removesuffix(ORIGINAL)
        original = state[name]
        first, second = (state[plain + part][tasks.index(task)] for part in (FIRST, SECOND))
        # A token table is corrected by A·B and a linear layer by B·A, which the shapes show.
        if second.shape[0] != original.shape[0] or first.shape[-1] != original.shape[1]:
            first, second = second, first
        plain_state[f"{plain}.weight"] = adapter_merge.added(original, first, second, scale)
    return plain_state


def load(files: Files) -> nn.Module:
    from .modules.adapters import added

    task = str(files.config.get("lora_task") or DEFAULT_TASK)
    settings = {"model_type": "jina_embeddings_v3", "position_embedding_type": "rotary", "use_cache": False}
    # jina-embeddings-v3-hf stores the corrections in folders of their own, in PEFT's layout.
    return backbone(
        files,
        "JinaEmbeddingsV3Model",
        add_pooling_layer=False,
        rename=lambda state: added(files, merged(state, files.config), task),
        config={**files.config, **settings},
    )


ARCHITECTURE = Architecture(
    model_types=("xlm-roberta", "jina_embeddings_v3"),
    names=(
        "XLMRobertaModel",
        "ColBERTJinaRobertaModel",
        "JinaEmbeddingsV3Model",
        "JinaEmbeddingsV3ForSequenceClassification",
    ),
    inputs=("input_ids", "attention_mask"),  # one token type
    load=load,
    matches=matches,
    translate=translate,
    prefixes=("roberta.",),
    pool="mean",
    positions=lambda config: config["max_position_embeddings"],
    capped_by_tokenizer=False,
    settings=("position_embedding_type",),
    tokens=(Layer(name="classifier"),),
    # jina-colbert-v2 was trained so. Its artifact.metadata states otherwise, by a default of the library.
    attends_filler=True,
)

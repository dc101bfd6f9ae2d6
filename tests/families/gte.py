"""Tiny GTE checkpoints: Snowflake's (native) and those of Alibaba-NLP/new-impl (mGTE with and
without a head, en-v1.5)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    HIDDEN,
    SIZES,
    TABLE,
    _bert_settings,
    _hf,
    _roberta_settings,
    _unigram,
    configure,
    randomise,
    rewrite_weights,
    sentence_transformers_files,
)  # fmt: skip

FACTOR, THETA = 8.0, 20000.0
AUTO_MAP = {
    "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
    "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
    "AutoModelForSequenceClassification": "Alibaba-NLP/new-impl--modeling.NewForSequenceClassification",
}  # fmt: skip
NEW_KEYS: dict[str, Any] = {
    "model_type": "new", "auto_map": AUTO_MAP, "rope_parameters": None, "rope_theta": THETA,
    "position_embedding_type": "rope",
    "pack_qkv": True, "unpad_inputs": False, "use_memory_efficient_attention": False,
    "layer_norm_type": "layer_norm",
    "logn_attention_scale": False, "logn_attention_clip1": False,
}  # fmt: skip


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    known = _roberta_settings(folder, _unigram)
    return known | {"max_position_embeddings": TABLE, "layer_norm_eps": 1e-12, "hidden_act": "gelu"} | more


def as_new(
    folder: Path,
    *,
    prefix: str = "new.",
    scaling: dict[str, Any] | None,
    add: dict[str, Any] | None = None,
    **more: Any,
) -> Path:
    rewrite_weights(
        folder,
        lambda name: name if name.startswith("classifier.") else prefix + name.removeprefix("gte."),
        add=add,
    )
    configure(folder, **NEW_KEYS | {"rope_scaling": scaling} | more)
    return folder


def gte_snowflake(folder: Path, **more: Any) -> Path:
    """Snowflake/snowflake-arctic-embed-m-v2.0: native, theta 160000, no scaling;
    widths of 32 may be asked for."""
    _hf(folder, "GteModel", **settings(folder, **more))
    sentence_transformers_files(folder, pooling="cls", max_tokens=TABLE, prompts={"query": "query: "})
    configure(
        folder,
        matryoshka_dimensions=[32],
        rope_parameters=None,
        rope_theta=160000.0,
        position_embedding_type="rope",
    )
    return folder


def mgte_embedder(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-multilingual-base: `new.` prefix, NTK at factor 8, and a token head that an
    embedding model leaves alone."""
    import torch

    _hf(folder, "GteModel", **settings(folder, **more))
    decoy = {
        f"classifier.{key}": value
        for key, value in randomise(torch.nn.Linear(HIDDEN, 1), seed=9).state_dict().items()
    }
    sentence_transformers_files(folder, pooling="cls", max_tokens=TABLE)
    names = ["NewModel", "NewForTokenClassification"]
    return as_new(
        folder, scaling={"type": "ntk", "factor": FACTOR}, add=decoy, architectures=names, num_labels=1
    )


def mgte_reranker(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-multilingual-reranker-base."""
    _hf(folder, "GteForSequenceClassification", **settings(folder, num_labels=1, **more))
    return as_new(
        folder, scaling={"type": "ntk", "factor": FACTOR}, architectures=["NewForSequenceClassification"]
    )


def gte_en(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-base-en-v1.5: WordPiece, no prefix, no token types, NTK at factor 2."""
    known = (
        SIZES
        | _bert_settings(folder)
        | {"type_vocab_size": 0, "layer_norm_eps": 1e-12, "num_attention_heads": 4}
    )
    _hf(folder, "GteModel", **known | more)
    sentence_transformers_files(folder, pooling="cls", max_tokens=TABLE)
    return as_new(
        folder,
        prefix="",
        scaling={"type": "ntk", "factor": 2.0},
        architectures=["NewModel"],
        rope_theta=500000.0,
    )


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write for write in (gte_snowflake, mgte_embedder, mgte_reranker, gte_en)
}

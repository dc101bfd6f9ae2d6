"""Tiny ModernBERT checkpoints in the layout of real repositories
(Alibaba-NLP/gte-modernbert-base and its rerankers)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    ENTITIES,
    HIDDEN,
    SENTIMENTS,
    TABLE,
    _hf,
    _labelled,
    configure,
    sentence_transformers_files,
)

from . import tokens

WINDOW = 8  # far narrower than the texts, so that a wrong edge of the window shows


def settings(folder: Path, *, added: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    count = tokens.modernbert_bpe(folder, added=added)
    special = {
        "pad_token_id": 269,
        "bos_token_id": 267,
        "eos_token_id": 268,
        "cls_token_id": 267,
        "sep_token_id": 268,
    }
    sizes = {"hidden_size": HIDDEN, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 48}
    return (
        sizes
        | {"vocab_size": count, "max_position_embeddings": TABLE, "local_attention": WINDOW}
        | special
        | more
    )


def as_published(folder: Path) -> Path:
    """config.json with the keys of the first releases: two thetas and an interval in the place of lists."""
    configure(
        folder, layer_types=None, rope_parameters=None, global_attn_every_n_layers=3,
        global_rope_theta=160000.0,
        local_rope_theta=10000.0, position_embedding_type="absolute", layer_norm_eps=1e-5,
    )  # fmt: skip
    return folder


def modernbert_embedder(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-modernbert-base: cls, not cut below the model's limit."""
    _hf(folder, "ModernBertModel", **settings(folder, **more))
    sentence_transformers_files(folder, pooling="cls", max_tokens=TABLE)
    return as_published(folder)


def modernbert_biased(folder: Path) -> Path:
    """Every optional bias present, config in today's keys, weights in several files and half precision."""
    import torch

    module = _hf(
        folder,
        "ModernBertModel",
        seed=7,
        **settings(folder, attention_bias=True, mlp_bias=True, norm_bias=True, num_attention_heads=4),
    )
    module.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder


def modernbert_reranker(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-reranker-modernbert-base: one label from the mean."""
    known = settings(folder, num_labels=1, classifier_pooling="mean", **more)
    _hf(folder, "ModernBertForSequenceClassification", **known)
    return as_published(folder)


def modernbert_classifier(folder: Path) -> Path:
    """Three labels from the first token."""
    known = settings(
        folder, classifier_pooling="cls", classifier_bias=True, norm_bias=True, **_labelled(SENTIMENTS)
    )
    _hf(folder, "ModernBertForSequenceClassification", **known)
    return as_published(folder)


def modernbert_tokens(folder: Path) -> Path:
    """disham993/electrical-ner-ModernBERT-base: the dense head in front of five labels for every token."""
    _hf(folder, "ModernBertForTokenClassification", **settings(folder, **_labelled(ENTITIES)))
    return as_published(folder)


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        modernbert_embedder,
        modernbert_biased,
        modernbert_reranker,
        modernbert_classifier,
        modernbert_tokens,
    )
}

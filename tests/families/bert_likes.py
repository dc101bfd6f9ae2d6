"""Tiny checkpoints of BERT's relatives: ERNIE, MPNet, DeBERTa, and those that only transformers knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    ENTITIES,
    SENTIMENTS,
    SIZES,
    TABLE,
    _bert_settings,
    _byte_bpe,
    _hf,
    _labelled,
    _roberta_settings,
    configure,
    rewrite_weights,
    sentence_transformers_files,
)

from . import tokens


def ernie_task(folder: Path) -> Path:
    """ERNIE 3 as its authors' weights were converted: a task embedding, `ernie.` in front,
    LayerNorms with gamma and beta."""
    _hf(folder, "ErnieModel", **_bert_settings(folder, use_task_id=True, task_type_vocab_size=3))
    sentence_transformers_files(folder, max_tokens=TABLE)

    def legacy(name: str) -> str:
        return "ernie." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    rewrite_weights(folder, legacy)
    return folder


def ernie_plain(folder: Path) -> Path:
    """shibing624/text2vec-base-chinese-sentence: no task embedding, `bert.` in front."""
    _hf(folder, "ErnieModel", seed=2, **_bert_settings(folder))
    sentence_transformers_files(folder, max_tokens=TABLE)
    rewrite_weights(folder, lambda name: f"bert.{name}")
    configure(folder, use_task_id=None)
    return folder


def ernie_classifier(folder: Path) -> Path:
    _hf(
        folder,
        "ErnieForSequenceClassification",
        **_bert_settings(folder, use_task_id=True, **_labelled(SENTIMENTS)),
    )
    return folder


def mpnet_settings(folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    special = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "layer_norm_eps": 1e-5}
    return (
        SIZES
        | {"vocab_size": tokens.mpnet_wordpiece(folder), "max_position_embeddings": TABLE + 2}
        | special
        | more
    )


def mpnet_embedder(folder: Path) -> Path:
    """sentence-transformers/all-mpnet-base-v2."""
    _hf(folder, "MPNetModel", architectures=["MPNetForMaskedLM"], **mpnet_settings(folder))
    sentence_transformers_files(folder, max_tokens=TABLE)
    return folder


def mpnet_classifier(folder: Path) -> Path:
    _hf(folder, "MPNetForSequenceClassification", **mpnet_settings(folder, **_labelled(SENTIMENTS)))
    return folder


def deberta_settings(folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    distances = {
        "relative_attention": True,
        "position_buckets": 16,
        "max_relative_positions": -1,
        "norm_rel_ebd": "layer_norm",
    }
    distances |= {
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "pad_token_id": 0,
    }
    sizes = SIZES | {
        "vocab_size": tokens.deberta_unigram(folder),
        "max_position_embeddings": TABLE,
        "type_vocab_size": 0,
    }
    return sizes | {"layer_norm_eps": 1e-7} | distances | more


def deberta_embedder(folder: Path) -> Path:
    _hf(folder, "DebertaV2Model", **deberta_settings(folder))
    sentence_transformers_files(folder, max_tokens=TABLE)
    return folder


def deberta_reranker(folder: Path) -> Path:
    """mixedbread-ai/mxbai-rerank-base-v1: one label; token types of v2 are in use here."""
    _hf(
        folder,
        "DebertaV2ForSequenceClassification",
        **deberta_settings(folder, num_labels=1, type_vocab_size=2, conv_kernel_size=3),
    )
    return folder


def deberta_tokens(folder: Path) -> Path:
    _hf(folder, "DebertaV2ForTokenClassification", **deberta_settings(folder, **_labelled(ENTITIES)))
    return folder


DISTIL: dict[str, Any] = {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 48}


def distilbert_embedder(folder: Path) -> Path:
    """sentence-transformers/msmarco-distilbert: no token types, sizes under other names."""
    known = _bert_settings(folder)
    _hf(
        folder,
        "DistilBertModel",
        vocab_size=known["vocab_size"],
        max_position_embeddings=TABLE,
        pad_token_id=0,
        **DISTIL,
    )
    sentence_transformers_files(folder, max_tokens=TABLE)
    return folder


def distilbert_classifier(folder: Path) -> Path:
    """distilbert-base-uncased-finetuned-sst-2-english."""
    known = _bert_settings(folder)
    more = {
        "vocab_size": known["vocab_size"],
        "max_position_embeddings": TABLE,
        "pad_token_id": 0,
        **_labelled(SENTIMENTS),
    }
    _hf(folder, "DistilBertForSequenceClassification", **DISTIL, **more)
    return folder


def electra_reranker(folder: Path) -> Path:
    """cross-encoder/ms-marco-electra-base: token types, embeddings narrower than the layers."""
    _hf(folder, "ElectraForSequenceClassification", **_bert_settings(folder, num_labels=1, embedding_size=24))
    return folder


def albert_classifier(folder: Path) -> Path:
    known = _bert_settings(folder, embedding_size=24, **_labelled(SENTIMENTS))
    _hf(folder, "AlbertForSequenceClassification", **known)
    return folder


def camembert_reranker(folder: Path) -> Path:
    """antoinelouis/crossencoder-camembert-base-mmarcoFR: RoBERTa by another name."""
    _hf(folder, "CamembertForSequenceClassification", **_roberta_settings(folder, _byte_bpe, num_labels=1))
    return folder


def megatron_classifier(folder: Path) -> Path:
    """A relative with BERT's own head."""
    _hf(folder, "MegatronBertForSequenceClassification", **_bert_settings(folder, **_labelled(SENTIMENTS)))
    return folder


def electra_tokens(folder: Path) -> Path:
    _hf(
        folder,
        "ElectraForTokenClassification",
        **_bert_settings(folder, embedding_size=64, **_labelled(ENTITIES)),
    )
    return folder


def gpt_neox_embedder(folder: Path) -> Path:
    """A decoder that no other file reads: fused query, key and value, part of each head turned."""
    folder.mkdir(parents=True, exist_ok=True)
    count = _byte_bpe(folder)
    sizes: dict[str, Any] = {key: value for key, value in SIZES.items() if key != "hidden_dropout_prob"} | {
        "max_position_embeddings": TABLE
    }
    _hf(folder, "GPTNeoXModel", vocab_size=count, rotary_pct=0.5, **sizes)
    return folder


def gpt2_classifier(folder: Path) -> Path:
    """Sizes under GPT-2's names, transposed weights, `score` behind the last token."""
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": TABLE, "n_inner": 48, "pad_token_id": 1}
    _hf(
        folder,
        "GPT2ForSequenceClassification",
        vocab_size=_byte_bpe(folder),
        **sizes,
        **_labelled(SENTIMENTS),
    )
    return folder


def modernbert_masked(folder: Path) -> Path:
    """answerdotai/ModernBERT-base: saved with its masked-language-model head, `model.` in front."""
    from . import modernbert

    _hf(folder, "ModernBertForMaskedLM", **modernbert.settings(folder))
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        ernie_task,
        ernie_plain,
        ernie_classifier,
        mpnet_embedder,
        mpnet_classifier,
        deberta_embedder,
        deberta_reranker,
        deberta_tokens,
        distilbert_embedder,
        distilbert_classifier,
        electra_reranker,
        electra_tokens,
        albert_classifier,
        megatron_classifier,
        gpt_neox_embedder,
        gpt2_classifier,
        modernbert_masked,
        camembert_reranker,
    )
}

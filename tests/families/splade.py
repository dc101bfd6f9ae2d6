"""Tiny SPLADE checkpoints: a masked language model and Sentence Transformers' SpladePooling, as
naver/splade-v3 has them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import TABLE, _bert_settings, _hf, _json, configure

from . import modernbert

OLD = (
    "sentence_transformers.sparse_encoder.models.MLMTransformer",
    "sentence_transformers.sparse_encoder.models.SpladePooling",
)


def sparse_files(folder: Path, *, strategy: str = "max", activation: str = "relu") -> Path:
    modules = [
        {"idx": index, "name": str(index), "path": f"{index}_SpladePooling" if index else "", "type": kind}
        for index, kind in enumerate(OLD)
    ]
    _json(folder / "modules.json", modules)
    config = {
        "pooling_strategy": strategy,
        "activation_function": activation,
        "word_embedding_dimension": None,
    }
    _json(folder / "1_SpladePooling/config.json", config)
    _json(folder / "sentence_bert_config.json", {"max_seq_length": TABLE, "do_lower_case": False})
    versions = {"sentence_transformers": "5.0.0", "transformers": "4.50.3", "pytorch": "2.6.0"}
    known = {"model_type": "SparseEncoder", "__version__": versions, "prompts": {"query": "", "document": ""}}
    _json(
        folder / "config_sentence_transformers.json",
        known | {"default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    return folder


def splade_bert(folder: Path) -> Path:
    """naver/splade-v3: the decoder is the token table."""
    _hf(folder, "BertForMaskedLM", **_bert_settings(folder))
    return sparse_files(folder)


def splade_untied(folder: Path) -> Path:
    """A decoder of its own, sum pooling, a different activation in the head."""
    _hf(
        folder,
        "BertForMaskedLM",
        seed=3,
        **_bert_settings(folder, tie_word_embeddings=False, hidden_act="relu", layer_norm_eps=1e-5),
    )
    return sparse_files(folder, strategy="sum")


def splade_decoder(folder: Path) -> Path:
    """As splade_bert with a decoder of its own, which vLLM asks for."""
    _hf(folder, "BertForMaskedLM", seed=8, **_bert_settings(folder, tie_word_embeddings=False))
    return sparse_files(folder)


def splade_twice(folder: Path) -> Path:
    """opensearch-project/opensearch-neural-sparse-encoding-doc-v3: the logarithm is taken twice."""
    _hf(folder, "BertForMaskedLM", seed=4, **_bert_settings(folder))
    return sparse_files(folder, activation="log1p_relu")


def splade_modernbert(folder: Path) -> Path:
    _hf(folder, "ModernBertForMaskedLM", **modernbert.settings(folder))
    configure(folder, layer_types=None, global_attn_every_n_layers=3)
    return sparse_files(folder)


def splade_distilbert(folder: Path) -> Path:
    """naver/splade-v3-distilbert."""
    known = _bert_settings(folder)
    sizes: dict[str, Any] = {
        "dim": 64,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 48,
        "max_position_embeddings": TABLE,
    }
    _hf(folder, "DistilBertForMaskedLM", vocab_size=known["vocab_size"], pad_token_id=0, **sizes)
    return sparse_files(folder)


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        splade_bert,
        splade_untied,
        splade_decoder,
        splade_twice,
        splade_modernbert,
        splade_distilbert,
    )
}

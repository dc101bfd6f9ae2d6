"""Any other text model that transformers can build, by its own class. It is tried last, when no other file
reads a checkpoint.

Encoders pool the first token and decoders the last, unless files say otherwise. Published heads differ
between families. Those listed here are described by their layers, which also gives scores for tokens. The
others are run by transformers' own class (`_published_class.py`).
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from . import _decoders, bert, roberta
from ._transformers import backbone
from .registry import Architecture, Classifier, Config, Layer

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

LINEAR = Layer(name="classifier", names=("score",), bias=None)
LAST = Classifier(pool="last", layers=(LINEAR,), tokens=(LINEAR,), assumed=True)
DENSE = "classifier.dense"
HEADS: dict[str, tuple[Layer, ...]] = {
    "distilbert": (Layer(name="pre_classifier", activation="relu"), LINEAR),
    "albert": (Layer(name="pooler", activation="tanh"), LINEAR),
    "electra": (Layer(name=DENSE, activation="gelu"), Layer(name="classifier.out_proj")),
    "roformer": (Layer(name=DENSE, activation="@hidden_act"), Layer(name="classifier.out_proj")),
    "deberta": (Layer(name="pooler.dense", activation="@pooler_hidden_act"), LINEAR),
}
DECODER_HEADS: dict[str, tuple[Layer, ...]] = {
    "xlnet": (Layer(name="sequence_summary.summary", activation="tanh"), Layer(name="logits_proj")),
}
CHUNKED = (
    "its recurrence runs in chunks whose number depends on the length, "
    "which a graph of any length cannot hold"
)
# Families that a batch or a graph cannot compute -> the reason.
REFUSED: dict[str, str] = {
    "yoso": "its attention lets what fills up a batch reach every text",
    "fnet": "its Fourier transform mixes what fills up a batch into every text",
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"), CHUNKED),
}
# Families whose last hidden states have another width than the inner ones -> its key in config.json.
WIDTHS = {"opt": "word_embed_proj_dim"}
# Keys of config.json for the number of positions, the first that is set.
LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "seq_length",
    "max_seq_len",
    "max_sequence_length",
    "model_max_length",
    "n_ctx",
)
# Vocabulary heads (SPLADE) that differ from BERT's and RoBERTa's.
VOCABULARIES: dict[str, tuple[Layer, ...]] = {
    "distilbert": (
        Layer(name="vocab_transform", activation="@activation"),
        Layer(name="vocab_layer_norm", kind="layer_norm", eps=1e-12),
        Layer(name="vocab_projector", names=("embeddings.word_embeddings",)),
    ),
}
# Families with BERT's head: a pooler inside the backbone, then the classifier.
BERT = ("megatron-bert", "rembert", "roc_bert", "squeezebert")
# Families with RoBERTa's heads.
ROBERTA = ("camembert", "xlm-roberta-xl", "data2vec-text", "roberta-prelayernorm", "xmod")


@dataclass(frozen=True, slots=True)
class Known:
    """A model_type of transformers."""

    name: str
    """Name of the bare model's class."""
    decoder: bool


@functools.cache
def known(model_type: str) -> Known | None:
    """transformers' entry for `model_type`; None: it has none, or one that neither encodes nor decodes
    text."""
    from transformers.models.auto import modeling_auto as auto

    name = auto.MODEL_MAPPING_NAMES.get(model_type)
    if not isinstance(name, str) or model_type in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return None
    encoder = model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decoder = model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    classifier = any(
        model_type in table
        for table in (
            auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
            auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
        )
    )
    return Known(name, decoder and not encoder) if encoder or decoder or classifier else None


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return known(str(config.get("model_type", ""))) is not None


def _class(config: Config) -> Any:
    import transformers

    model = known(str(config["model_type"]))
    assert model is not None, "matches() has accepted this config"
    return getattr(transformers, model.name)


def translate(config: Config) -> Config:
    """Adds transformers' common keys (`hidden_size` where the family has `dim` or `n_embd`) with its
    defaults."""
    settings = {key: value for key, value in config.items() if key != "auto_map"}
    read = _class(config).config_class.from_dict(settings)
    keys = ("hidden_size", "vocab_size", "max_position_embeddings", "pad_token_id", "type_vocab_size")
    added = {key: getattr(read, key, None) for key in keys if key not in config}
    return {**config, **{key: value for key, value in added.items() if value is not None and value != -1}}


def adapt(family: Architecture, config: Config) -> Architecture:
    kind, model_type = _class(config), str(config["model_type"])
    if (why := REFUSED.get(model_type)) is not None:
        raise CheckpointError(f"model_type {model_type!r} is not supported: {why}")
    model = known(model_type)
    assert model is not None
    inputs, stem = family.inputs, model.name.removesuffix("Model")
    if (
        int(config.get("type_vocab_size") or 0) > 1
        and "token_type_ids" in inspect.signature(kind.forward).parameters
    ):
        inputs = (*inputs, "token_type_ids")
    suffixes = ("ForSequenceClassification", "ForTokenClassification", "ForMaskedLM", "ForCausalLM")
    changed: dict[str, Any] = {
        "names": (model.name, *(f"{stem}{suffix}" for suffix in suffixes)),
        "inputs": inputs,
        "prefixes": tuple(dict.fromkeys((f"{kind.base_model_prefix}.", "model.", "transformer."))),
    }
    if model.decoder:
        changed |= {"pool": "last", "sequence": LAST, "capped_by_tokenizer": False}
        if model_type in DECODER_HEADS:
            changed["sequence"] = Classifier(
                pool="last", layers=DECODER_HEADS[model_type], tokens=DECODER_HEADS[model_type]
            )
    elif model_type in ROBERTA:
        changed |= {"sequence": roberta.ARCHITECTURE.sequence, "vocabulary": roberta.VOCABULARY}
    elif model_type in BERT:
        changed |= {"sequence": bert.ARCHITECTURE.sequence}
    elif model_type in HEADS:
        changed |= {
            "sequence": Classifier(pool="cls", layers=HEADS[model_type], tokens=HEADS[model_type][-1:])
        }
    if (width := config.get(WIDTHS.get(model_type, ""))) is not None:
        changed["width"] = lambda config: int(width)
    if model_type in VOCABULARIES:
        changed |= {"vocabulary": VOCABULARIES[model_type]}
    if not model.decoder and _starts_after_padding(kind):
        changed |= {"positions": roberta.ARCHITECTURE.positions}
    return replace(family, **changed)


def positions(config: Config) -> int | None:
    """The number of positions in config.json, multiplied by its rotary scaling; None: it states none."""
    stated = next((value for key in LIMITS if isinstance(value := config.get(key), int) and value > 0), None)
    return None if stated is None else _decoders.positions({**config, "max_position_embeddings": stated})


def _starts_after_padding(kind: Any) -> bool:
    """Whether positions are counted from pad_token_id + 1 as in RoBERTa, where a table of 514 rows holds 512
    tokens."""
    module = sys.modules[kind.__module__]
    name = "create_position_ids_from_input_ids"
    return hasattr(module, name) or any(
        hasattr(value, name) for value in vars(module).values() if inspect.isclass(value)
    )


def load(files: Files) -> nn.Module:
    kind = _class(files.config)
    arguments: dict[str, Any] = (
        {"add_pooling_layer": False}
        if "add_pooling_layer" in inspect.signature(kind.__init__).parameters
        else {}
    )
    model = known(str(files.config["model_type"]))
    cached = "use_cache" in files.config or (model is not None and model.decoder)
    settings = {**files.config, **({"use_cache": False} if cached else {})}
    return backbone(
        files,
        kind.__name__,
        config=settings,
        attention="sdpa" if kind._supports_sdpa else "eager",
        **arguments,
    )


ARCHITECTURE = Architecture(
    model_types=(),
    names=("AutoModel",),
    inputs=("input_ids", "attention_mask"),
    load=load,
    matches=matches,
    translate=translate,
    adapt=adapt,
    pool="cls",
    positions=positions,
)

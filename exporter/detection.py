"""Decides what kind of model a checkpoint is, from its files alone. The first rule that fits wins."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import CheckpointError
from .base.guess import Guess
from .families.registry import Architecture, closest
from .files import module_chain
from .files.sentence_files import SentenceFiles
from .files.weights import Weights

Kind = Literal[
    "embed", "splade", "colbert", "bge-m3", "classify", "modular", "token_classify", "reward", "listwise"
]
Runner = Literal["auto", "pooling", "generate"]
Convert = Literal["auto", "none", "embed", "classify", "reward"]

# Suffix of a published class name -> kind, as vLLM maps them when no file states the kind.
SUFFIXES: dict[str, Kind] = {
    "ForSequenceClassification": "classify",
    "ForTokenClassification": "token_classify",
    "ClassificationModel": "classify",
    "ForMaskedLM": "embed",
    "ForCausalLM": "embed",
    "LMHeadModel": "embed",
    "ForTextEncoding": "embed",
    "EmbeddingModel": "embed",
    "ForRewardModeling": "embed",
    "ForConditionalGeneration": "embed",
    "ForPreTraining": "embed",
    "Model": "embed",
}
CLASSIFICATION = re.compile(r"For\w*Classification$|ClassificationModel$")
"""vLLM's documentation: `*For*Classification` and `*ClassificationModel` convert to a classifier."""
# Classes that predict words. Their training alone does not make a model that embeds.
PREDICTS_WORDS = ("ForCausalLM", "ForMaskedLM", "LMHeadModel", "ForConditionalGeneration", "ForPreTraining")
BGE_M3_FILES = ("sparse_linear.pt", "colbert_linear.pt")
LATE_KINDS = ("ColBERT", "MultiVectorEncoder")


@dataclass(frozen=True, slots=True)
class Detected:
    """The kind of a checkpoint."""

    architecture: str
    """In vLLM's spelling."""
    kind: Kind
    guesses: tuple[Guess, ...]


def detect(
    folder: Path,
    config: Mapping[str, Any],
    family: Architecture,
    weights: Weights,
    sentence: SentenceFiles | None,
    convert: Convert,
) -> Detected:
    """The kind of the checkpoint in `folder`; `config` is the translated one.

    Raises CheckpointError for a head that poolrt does not know.
    """
    published = next(iter(config.get("architectures") or ()), None)
    name = str(published or family.names[0])
    why = (
        "config.json, architectures"
        if published
        else f"model_type {config.get('model_type')!r}; config.json names no class"
    )
    kind: Kind | None
    special = _special(folder, config, family, weights, sentence, name)
    if special is not None:
        name, kind, why = special
    elif convert in ("embed", "classify", "reward"):
        kind = "classify" if convert == "classify" else "embed"
    else:
        bare: Kind | None = "embed" if name == family.names[0] else None
        suffixed: list[Kind] = [kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)]
        if not suffixed and is_classification(name):
            suffixed = ["classify"]
        kind = suffixed[0] if suffixed else bare
        if kind is None:
            raise CheckpointError(
                f"{folder.name}: {name} has a head that poolrt does not know (closest known: "
                f"{', '.join(closest(name))}); `--convert embed` uses its backbone alone, "
                "`--convert classify` puts the checkpoint's `score` or `classifier` tensors behind it"
            )
    guesses = [Guess("architecture", name, why, '--hf-overrides \'{"architectures": ["..."]}\'')]
    if not name.startswith(tuple(family.names)) and config.get("model_type") not in family.model_types:
        guesses.append(Guess("backbone", family.names[0], "the closest that reads these weights"))
    reason = (
        f"asked for by --convert {convert}"
        if convert not in ("auto", "none") and special is None
        else "from the architecture's name and files"
    )
    guesses.append(Guess("kind", WORDS[kind], reason, "--convert embed|classify"))
    return Detected(name, kind, tuple(guesses))


WORDS: dict[Kind, str] = {
    "embed": "embedding model",
    "splade": "sparse embedding (SPLADE)",
    "colbert": "late interaction (ColBERT)",
    "bge-m3": "dense, sparse and multi-vector (bge-m3)",
    "classify": "sequence classifier or cross-encoder",
    "modular": "cross-encoder of modules",
    "token_classify": "token classifier",
    "reward": "reward model, one value or more for every token",
    "listwise": "listwise reranker: a query and all its documents as one text",
}


def is_classification(name: str) -> bool:
    return CLASSIFICATION.search(name) is not None


def _special(
    folder: Path,
    config: Mapping[str, Any],
    family: Architecture,
    weights: Weights,
    sentence: SentenceFiles | None,
    name: str,
) -> tuple[str, Kind, str] | None:
    """(architecture, kind, reason) of a model that files other than its class name identify; None: they do
    not."""
    if all((folder / file).is_file() for file in BGE_M3_FILES) or name == "BgeM3EmbeddingModel":
        return "BgeM3EmbeddingModel", "bge-m3", f"the folder has {' and '.join(BGE_M3_FILES)}"
    hidden = config.get("hidden_size")
    late = name if "ColBERT" in name else _late_name(config)
    if name == "HF_ColBERT" or name.startswith("ColBERT"):
        return late, "colbert", "config.json, architectures"
    if (folder / "artifact.metadata").is_file():
        return late, "colbert", "the folder has artifact.metadata"
    if family.listwise is not None:
        return name, "listwise", "config.json, architectures"
    if family.late_interaction:
        return name, "colbert", "config.json, architectures"
    if name in family.rewards:
        return name, "reward", "config.json, architectures"
    if config.get("classifier_from_token"):
        return name, "classify", "classifier_from_token"
    projection = None if family.projection else weights.shapes.get("linear.weight")
    if (
        projection is not None
        and len(projection) == 2
        and projection[1] == hidden
        and any(tensor.startswith(family.prefixes) for tensor in weights)
    ):
        return late, "colbert", "the weights hold a top-level linear.weight beside the backbone"
    if sentence is not None:
        settings = sentence.settings
        lengths = {"query_length", "document_length"} & settings.keys()
        if sentence.kind in LATE_KINDS or (settings.get("similarity_fn_name") == "MaxSim" and lengths):
            return late, "colbert", "Sentence Transformers' files describe a multi-vector model"
        if "SpladePooling" in sentence.modules:
            return _splade_name(family), "splade", "modules.json has a SpladePooling module"
        if sentence.answers is not None:
            return name, "classify", "modules.json has a LogitScore module"
        if module_chain.scores(sentence) is not None:
            return name, "modular", "modules.json makes scores of an encoder's hidden states"
        if sentence.kind == "SparseEncoder":
            if "SparseAutoEncoder" in sentence.modules:
                return name, "embed", "modules.json has a SparseAutoEncoder module"
            raise CheckpointError(
                f"{folder.name}: a SparseEncoder of {' → '.join(sentence.modules)}; expected a "
                "SpladePooling or SparseAutoEncoder module"
            )
    if name.endswith("SpladeSparseEmbeddingModel"):
        return name, "splade", "config.json, architectures"
    return None


def _splade_name(family: Architecture) -> str:
    return f"{family.names[0].removesuffix('Model')}SpladeSparseEmbeddingModel"


def _late_name(config: Mapping[str, Any]) -> str:
    return {"modernbert": "ColBERTModernBertModel", "lfm2": "ColBERTLfm2Model"}.get(
        str(config.get("model_type")), "HF_ColBERT"
    )

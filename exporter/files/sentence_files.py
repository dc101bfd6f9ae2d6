"""The files that Sentence Transformers, before version 6 and since, puts beside a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...runtime.artifact.manifest import Pool
from ...runtime.errors import CheckpointError
from ..base.json_file import json_file
from . import routers

# Last part of `pooling_mode_...` (old) or the value of `pooling_mode` (new) -> ours.
POOLS: dict[str, Pool] = {
    "cls_token": "cls",                      "cls": "cls",
    "mean_tokens": "mean",                   "mean": "mean",
    "max_tokens": "max",                     "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len", "mean_sqrt_len": "mean_sqrt_len",
    "weightedmean_tokens": "weightedmean",   "weightedmean": "weightedmean",
    "lasttoken": "last",
}  # fmt: skip
# Order in which the library concatenates several of them.
ORDER: tuple[Pool, ...] = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "last")
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
TOKENS, POOLED, SCORES, LOGITS = "token_embeddings", "sentence_embedding", "scores", "causal_logits"
"""Names of the features that modules read and write."""
TRANSFORMERS = ("Transformer", "MLMTransformer")
GENERATES = ("text-generation", "image-text-to-text", "any-to-any")
"""Tasks of the library whose model predicts words."""
TRUE = "true_token_id"
"""The setting of a LogitScore module that it cannot be without."""
FILES = {"CNN": "cnn_config.json"}
"""Module -> the file of its settings, where it is not config.json."""
# Modules that poolrt computes -> the feature that each reads unless its settings name another, and the one
# that it writes (None: the one it reads).
MODULES: dict[str, tuple[str, str | None]] = {
    "Transformer": ("", TOKENS),           "MLMTransformer": ("", TOKENS),
    "Pooling": (TOKENS, POOLED),           "SpladePooling": (TOKENS, POOLED),
    "Dense": (POOLED, None),               "Normalize": (POOLED, None),
    "LayerNorm": (POOLED, POOLED),         "Dropout": (POOLED, POOLED),
    "WordWeights": (TOKENS, TOKENS),       "WeightedLayerPooling": (TOKENS, TOKENS),
    "CNN": (TOKENS, TOKENS),               "HierarchicalTokenPooling": (TOKENS, TOKENS),
    "SparseAutoEncoder": (POOLED, POOLED), "MultiVectorMask": ("", ""),
    "LogitScore": (LOGITS, SCORES),
}  # fmt: skip
# Modules of the library that poolrt does not compute -> the reason.
REFUSED = {
    "LSTM": "it needs sentence_lengths, which only a WordEmbeddings module makes",
    "BoW": "it has words in the place of a transformer",
    "WordEmbeddings": "it has words in the place of a transformer",
    "CLIPModel": "it reads pictures",
    "LambdaTokenPooling": "it runs Python code",
    "StaticEmbedding": "it has a table of words in the place of a transformer",
    "SparseStaticEmbedding": (
        "without a transformer for documents beside it, it has nothing that poolrt exports"
    ),
    "Router": "it stands behind another module",
    "Asym": "it stands behind another module",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Module:
    """One entry of modules.json."""

    kind: str
    """Last part of its type."""
    folder: str
    """Folder inside the checkpoint; empty: the checkpoint itself."""
    reads: str
    """Name of a feature (TOKENS, POOLED, ...)."""
    writes: str
    """Name of a feature."""
    settings: Mapping[str, Any]
    """Content of its own file, config.json for most."""

    def number(self, key: str, default: int | None = None) -> int:
        """A count in its settings. Raises CheckpointError for any other value."""
        value = self.settings.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{self}: {key} is {value!r}, expected a count")
        return value

    def __str__(self) -> str:
        return f"{self.kind} in {self.folder}" if self.folder else self.kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Splade:
    """The SpladePooling module of a sparse encoder."""

    strategy: Literal["max", "sum"]
    activation: Literal["relu", "log1p_relu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Ids of the tokens whose logits behind the prompt a LogitScore module compares."""

    true: int
    false: int | None
    """None: the logit of `true` is the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFiles:
    generation: int
    """2 for versions before 6; 6 for later ones."""
    kind: str
    """`model_type` of config_sentence_transformers.json; `ColBERT` also for folders of PyLate's modules."""
    chain: tuple[Module, ...]
    """All modules, in order."""
    max_tokens: int | None
    lowercase: bool
    prompts: dict[str, str]
    default_prompt: str | None
    settings: dict[str, Any]
    """config_sentence_transformers.json, unchanged."""
    answers: Answers | None
    text: dict[str, Any]
    """The Transformer module's own settings (sentence_bert_config.json)."""
    mask: dict[str, Any] | None
    """Settings of the MultiVectorMask module; None: there is none."""
    static: routers.Static | None = None
    """A Router's table for queries, beside which `chain` is the documents' route; None: both use `chain`."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Last part of each module's type, in order."""
        return tuple(module.kind for module in self.chain)

    @property
    def weight_folders(self) -> tuple[str, ...]:
        """Folders of the modules behind the transformer, inside the checkpoint."""
        static = () if self.static is None else (self.static.folder,)
        return (
            *(module.folder for module in self.chain if module.folder and module.kind not in TRANSFORMERS),
            *static,
        )

    @property
    def by_messages(self) -> bool:
        """Whether the library applies the chat template to texts."""
        return "message" in (self.text.get("modality_config") or {})


def read(folder: Path) -> SentenceFiles | None:
    """The files in `folder`; None where it has no modules.json.

    Raises CheckpointError for a module that poolrt does not know.
    """
    if not (folder / "modules.json").is_file():
        return None
    entries = json_file(folder / "modules.json", list)
    try:
        entries, static = routers.flattened(folder, entries)
        modules = [(str(entry["type"]), str(entry.get("path", ""))) for entry in entries]
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(
            f"{folder / 'modules.json'}: expected a list of objects with `type` and `path`"
        ) from None
    outside = [path for _, path in modules if path and (Path(path).is_absolute() or ".." in Path(path).parts)]
    if outside:
        raise CheckpointError(f"{folder / 'modules.json'}: paths leave the folder: {', '.join(outside)}")
    names = tuple(kind.rsplit(".", 1)[-1] for kind, _ in modules)
    strange = [
        f"{kind} ({REFUSED[name]})" if name in REFUSED else kind
        for (kind, _), name in zip(modules, names, strict=True)
        if name not in MODULES
    ]
    if strange:
        raise CheckpointError(
            f"{folder / 'modules.json'}: modules that poolrt does not know: {', '.join(strange)}; "
            f"known are {', '.join(sorted(MODULES))}"
        )
    paths = {name: path for name, (_, path) in zip(names, modules, strict=True)}
    settings = _optional(folder / "config_sentence_transformers.json")
    home = folder / transformer(folder)
    text = next((_optional(home / name) for name in TRANSFORMER_FILES if (home / name).is_file()), {})
    generation = 6 if any(".modules." in kind for kind, _ in modules) else 2
    max_tokens = text.get("max_seq_length")
    pylate = any(kind.startswith("pylate.") for kind, _ in modules)
    kind = "ColBERT" if pylate else str(settings.get("model_type") or "")
    return SentenceFiles(
        generation=generation,
        kind=kind,
        chain=tuple(
            _module(folder, name, path, kind, text) for name, (_, path) in zip(names, modules, strict=True)
        ),
        max_tokens=max_tokens if isinstance(max_tokens, int) and not isinstance(max_tokens, bool) else None,
        lowercase=bool(text.get("do_lower_case", False)),
        prompts={str(name): str(prompt or "") for name, prompt in (settings.get("prompts") or {}).items()},
        default_prompt=settings.get("default_prompt_name"),
        settings=settings,
        answers=_answers(_of_answers(folder, paths["LogitScore"])) if "LogitScore" in paths else None,
        text=text,
        mask=_optional(folder / paths["MultiVectorMask"] / "config.json")
        if "MultiVectorMask" in paths
        else None,
        static=static,
    )


def transformer(folder: Path) -> str:
    """The subfolder of the Transformer module; "" where that is `folder` itself. Raises CheckpointError."""
    if not (folder / "modules.json").is_file():
        return ""
    entries = [entry for entry in json_file(folder / "modules.json", list) if isinstance(entry, dict)]
    for entry in routers.flattened(folder, entries)[0]:
        is_transformer = isinstance(entry, dict) and str(entry.get("type", "")).endswith("Transformer")
        if is_transformer and isinstance(path := entry.get("path", ""), str):
            inside = path and not Path(path).is_absolute() and ".." not in Path(path).parts
            return path if inside and (folder / path / "config.json").is_file() else ""
    return ""


def _optional(path: Path) -> dict[str, Any]:
    return json_file(path, dict) if path.is_file() else {}


def pools(module: Module) -> tuple[Pool, ...]:
    """The poolings that a Pooling module concatenates, in order. Raises CheckpointError for unknown ones."""
    mode = module.settings.get("pooling_mode")
    if mode is not None:
        names = [mode] if isinstance(mode, str) else list(mode)
    else:
        flags = {
            key.removeprefix("pooling_mode_"): value
            for key, value in module.settings.items()
            if key.startswith("pooling_mode_")
        }
        enabled = [name for name, value in flags.items() if value is True]
        names = sorted(enabled, key=lambda name: ORDER.index(POOLS[name]) if name in POOLS else len(ORDER))
        names = names or ["mean"]  # the library's default
    unknown = [name for name in names if name not in POOLS]
    if unknown:
        raise CheckpointError(
            f"{module}: unknown pooling {', '.join(map(repr, unknown))}; known are {', '.join(POOLS)}"
        )
    return tuple(POOLS[name] for name in names)


def splade(module: Module) -> Splade:
    """The settings of a SpladePooling module. Raises CheckpointError for unknown ones."""
    strategy = module.settings.get("pooling_strategy", "max")
    activation = module.settings.get("activation_function", "relu")
    if strategy not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise CheckpointError(
            f"{module}: pooling {strategy!r} of {activation!r}; known are max and sum of relu and log1p_relu"
        )
    return Splade(strategy=strategy, activation=activation)


def _of_answers(folder: Path, path: str) -> Path:
    """The folder of a LogitScore module: the one that modules.json names, or else the only one with such
    settings (Qwen3-VL-Reranker-8B is published with a name that no folder has)."""
    named = folder / path
    if TRUE in _optional(named / "config.json"):
        return named
    others = [file.parent for file in sorted(folder.glob("*/config.json")) if TRUE in _optional(file)]
    return others[0] if len(others) == 1 else named


def _answers(folder: Path) -> Answers:
    config = json_file(folder / "config.json", dict)
    true, false = config.get(TRUE), config.get("false_token_id")
    if any(
        isinstance(token, bool) or not isinstance(token, int) or token < 0
        for token in (true, 0 if false is None else false)
    ):
        raise CheckpointError(
            f"{folder / 'config.json'}: true_token_id {true!r} and false_token_id {false!r}; expected "
            "token ids, the second may be null"
        )
    return Answers(true=true, false=false)  # pyright: ignore[reportArgumentType]


def _module(folder: Path, name: str, path: str, kind: str, text: Mapping[str, Any]) -> Module:
    if name in TRANSFORMERS:
        return Module(
            kind=name,
            folder=path,
            reads="",
            writes=str(text.get("module_output_name") or _written(name, text)),
            settings=text,
        )
    settings = _optional(folder / path / FILES.get(name, "config.json"))
    if name in ("Dense", "Pooling") and not settings:
        json_file(folder / path / "config.json", dict)
    reads, writes = MODULES[name]
    if name in ("Dense", "Normalize", "LogitScore"):
        # Older folders name no feature for the projections of multi-vector models, which run on every token.
        default = TOKENS if name == "Dense" and kind in ("ColBERT", "MultiVectorEncoder") else reads
        reads = str(settings.get("module_input_name") or default)
        writes = str(settings.get("module_output_name") or reads) if writes is None else writes
    return Module(kind=name, folder=path, reads=reads, writes=writes or reads, settings=settings)


def task(name: str, text: Mapping[str, Any]) -> str:
    """The library's task of a transformer module: `feature-extraction`, `fill-mask`, ..."""
    return str(
        text.get("transformer_task") or ("fill-mask" if name == "MLMTransformer" else "feature-extraction")
    )


def _written(name: str, text: Mapping[str, Any]) -> str:
    """The feature that a transformer module writes unless its settings name one."""
    if (kind := task(name, text)) == "sequence-classification":
        return SCORES
    return LOGITS if kind in GENERATES else TOKENS

"""The files Sentence Transformers puts beside a checkpoint, of both generations (before version 6, and since)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Pool
from .json_file import json_file

# Last part of `pooling_mode_...` (old) or the value of `pooling_mode` (new) -> ours.
POOLS: dict[str, Pool] = {
    "cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean", "max_tokens": "max", "max": "max",
    "mean_sqrt_len_tokens": "mean_sqrt_len", "mean_sqrt_len": "mean_sqrt_len",
    "weightedmean_tokens": "weightedmean", "weightedmean": "weightedmean", "lasttoken": "last",
}  # fmt: skip
# Order in which the library concatenates several of them.
ORDER: tuple[Pool, ...] = ("cls", "max", "mean", "mean_sqrt_len", "weightedmean", "last")
TRANSFORMER_FILES = (
    "sentence_bert_config.json", "sentence_roberta_config.json", "sentence_distilbert_config.json", "sentence_camembert_config.json",
    "sentence_albert_config.json", "sentence_xlm-roberta_config.json", "sentence_xlnet_config.json",
)  # fmt: skip
IGNORED = ("Transformer", "Dropout", "MultiVectorMask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    folder: str
    """Inside the checkpoint."""
    activation: str
    """Dotted torch class."""
    bias: bool
    residual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Splade:
    """The SpladePooling module of a sparse encoder."""

    strategy: Literal["max", "sum"]
    activation: Literal["relu", "log1p_relu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """The LogitScore module of a cross-encoder that is a language model: tokens whose logits behind the prompt are compared."""

    true: int
    false: int | None
    """None: the logit of `true` is the score."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SentenceFiles:
    generation: int
    """2: before version 6; 6: since."""
    kind: str
    """`model_type` of config_sentence_transformers.json; `ColBERT` also for folders of PyLate's modules."""
    pools: tuple[Pool, ...]
    """Concatenated in this order; empty: the folder has no Pooling module."""
    include_prompt: bool
    dense: tuple[Dense, ...]
    normalize: bool
    max_tokens: int | None
    lowercase: bool
    prompts: dict[str, str]
    default_prompt: str | None
    settings: dict[str, Any]
    """config_sentence_transformers.json as it stands."""
    splade: Splade | None
    answers: Answers | None
    text: dict[str, Any]
    """The Transformer module's own settings (sentence_bert_config.json)."""
    mask: dict[str, Any] | None
    """Settings of the MultiVectorMask module; None: there is none."""
    modules: tuple[str, ...]
    """Last part of each module's type, in order."""


def read(folder: Path) -> SentenceFiles | None:
    """None where there is no modules.json. Raises CheckpointError for a module that poolrt does not know."""
    if not (folder / "modules.json").is_file():
        return None
    entries = json_file(folder / "modules.json", list)
    try:
        modules = [(str(entry["type"]), str(entry.get("path", ""))) for entry in entries]
    except (TypeError, KeyError, AttributeError):
        raise CheckpointError(f"{folder / 'modules.json'}: expected a list of objects with `type` and `path`") from None
    outside = [path for _, path in modules if path and (Path(path).is_absolute() or ".." in Path(path).parts)]
    if outside:
        raise CheckpointError(f"{folder / 'modules.json'}: paths leave the folder: {', '.join(outside)}")
    names = tuple(kind.rsplit(".", 1)[-1] for kind, _ in modules)
    known = {*IGNORED, "Pooling", "Dense", "Normalize", "SpladePooling", "MLMTransformer", "LogitScore"}
    strange = [kind for (kind, _), name in zip(modules, names, strict=True) if name not in known]
    if strange:
        raise CheckpointError(
            f"{folder / 'modules.json'}: modules that poolrt does not know: {', '.join(strange)}; known are {', '.join(sorted(known))}"
        )
    paths = {name: path for name, (_, path) in zip(names, modules, strict=True)}
    pools, include_prompt = _pooling(folder / paths["Pooling"]) if "Pooling" in paths else ((), True)
    settings = _optional(folder / "config_sentence_transformers.json")
    home = folder / transformer(folder)
    text = next((_optional(home / name) for name in TRANSFORMER_FILES if (home / name).is_file()), {})
    generation = 6 if any(".modules." in kind for kind, _ in modules) else 2
    max_tokens = text.get("max_seq_length")
    return SentenceFiles(
        generation=generation,
        kind="ColBERT" if any(kind.startswith("pylate.") for kind, _ in modules) else str(settings.get("model_type", "")),
        pools=pools,
        include_prompt=include_prompt,
        dense=tuple(_dense(folder, path) for name, (_, path) in zip(names, modules, strict=True) if name == "Dense"),
        normalize="Normalize" in names,
        max_tokens=max_tokens if isinstance(max_tokens, int) and not isinstance(max_tokens, bool) else None,
        lowercase=bool(text.get("do_lower_case", False)),
        prompts={str(name): str(prompt) for name, prompt in (settings.get("prompts") or {}).items()},
        default_prompt=settings.get("default_prompt_name"),
        settings=settings,
        splade=_splade(folder / paths["SpladePooling"]) if "SpladePooling" in paths else None,
        answers=_answers(folder / paths["LogitScore"]) if "LogitScore" in paths else None,
        text=text,
        mask=_optional(folder / paths["MultiVectorMask"] / "config.json") if "MultiVectorMask" in paths else None,
        modules=names,
    )


def transformer(folder: Path) -> str:
    """The subfolder of the Transformer module, "" where that is the folder itself. Raises CheckpointError."""
    if not (folder / "modules.json").is_file():
        return ""
    for entry in json_file(folder / "modules.json", list):
        known = isinstance(entry, dict) and str(entry.get("type", "")).endswith("Transformer")
        if known and isinstance(path := entry.get("path", ""), str):
            inside = path and not Path(path).is_absolute() and ".." not in Path(path).parts
            return path if inside and (folder / path / "config.json").is_file() else ""
    return ""


def _optional(path: Path) -> dict[str, Any]:
    return json_file(path, dict) if path.is_file() else {}


def _pooling(folder: Path) -> tuple[tuple[Pool, ...], bool]:
    path = folder / "config.json"
    config = json_file(path, dict)
    asked = config.get("pooling_mode")
    if asked is not None:
        names = [asked] if isinstance(asked, str) else list(asked)
    else:
        found = [key.removeprefix("pooling_mode_") for key, value in config.items() if key.startswith("pooling_mode_") and value is True]
        names = sorted(found, key=lambda name: ORDER.index(POOLS[name]) if name in POOLS else len(ORDER))
        names = names or ["mean"]  # the library's default
    unknown = [name for name in names if name not in POOLS]
    if unknown:
        raise CheckpointError(f"{path}: unknown pooling {', '.join(map(repr, unknown))}; known are {', '.join(POOLS)}")
    return tuple(POOLS[name] for name in names), bool(config.get("include_prompt", True))


def _splade(folder: Path) -> Splade:
    config = _optional(folder / "config.json")
    strategy, activation = config.get("pooling_strategy", "max"), config.get("activation_function", "relu")
    if strategy not in ("max", "sum") or activation not in ("relu", "log1p_relu"):
        raise CheckpointError(
            f"{folder / 'config.json'}: pooling {strategy!r} of {activation!r}; known are max and sum of relu and log1p_relu"
        )
    return Splade(strategy=strategy, activation=activation)


def _answers(folder: Path) -> Answers:
    config = json_file(folder / "config.json", dict)
    true, false = config.get("true_token_id"), config.get("false_token_id")
    if any(isinstance(token, bool) or not isinstance(token, int) or token < 0 for token in (true, 0 if false is None else false)):
        raise CheckpointError(
            f"{folder / 'config.json'}: true_token_id {true!r} and false_token_id {false!r}; expected token ids, the second may be null"
        )
    return Answers(true=true, false=false)  # pyright: ignore[reportArgumentType]


def _dense(folder: Path, path: str) -> Dense:
    config = json_file(folder / path / "config.json", dict)
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")  # the library's default is tanh
    return Dense(
        folder=path,
        activation="torch.nn.modules.linear.Identity" if activation is None else str(activation),
        bias=bool(config.get("bias", True)),
        residual=bool(config.get("use_residual", False)),
    )

"""A LoRA adapter as PEFT saves it: its settings, and what each of its tensors is for.

No tensor is loaded in this file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.artifact.manifest import MergedAdapter as Described
from ...runtime.errors import CheckpointError
from ..base.json_file import json_file
from . import sentence_files, source, weights

SETTINGS = "adapter_config.json"
# Settings that do not change the merged weights, or are read below. Any other one is refused unless empty.
KNOWN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha", "lora_bias", "lora_dropout",
    "lora_ga_config", "megatron_core", "merge_weights", "modules_to_save", "peft_type", "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "trainable_token_indices", "use_dora", "use_rslora",
})  # fmt: skip
# Initialisations that leave the checkpoint's weights unchanged. PiSSA and its kin subtract the adapter's
# initial product from them.
HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
COUNT = "a count above 0"
NUMBERS = {"r": COUNT, "lora_alpha": "a number above 0"}
PART = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<table>embedding_)?(?P<side>[AB])|(?P<magnitude>magnitude_vector))(?:\.default)?(?:\.(?P<last>weight|bias))?"
)
# jina-embeddings-v4 keeps an adapter for each of several tasks in one file.
OF_TASK = re.compile(r"(?P<module>.+\.lora_[AB])(?:\.default)?\.(?P<task>[^.]+)(?P<last>\.(?:weight|bias))")
TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
# The prefix of PEFT, behind that of torch's parallel wrappers (`module.`).
OUTER = re.compile(r"^(?:module\.)?(?:base_model\.model\.)?")
# The prefix where the whole SentenceTransformer or CrossEncoder was adapted, or its first module.
WRAPPED = re.compile(r"^(?:0\.)?(?:auto_)?model\.")
# The level that PEFT adds to the names of a wrapped module's own tensors.
DEEPER = re.compile(r"\.(?:base_layer|token_adapter|modules_to_save(?:\.default)?)(?=\.)")
# The untrained copy of a module that is saved as a whole. bias="all" stores it; no forward pass uses it.
TWIN = re.compile(r"(?:^|\.)original_module\.")


@dataclass(slots=True)
class Factors:
    """Names of one adapted module's tensors inside the adapter's file."""

    table: bool = False
    """Whether the module is an embedding, whose factors belong to the transposed weight."""
    first: str | None = None
    """A [rank, in]"""
    second: str | None = None
    """B [out, rank]"""
    bias: str | None = None
    """The bias of B (lora_bias), [out]."""
    magnitude: str | None = None
    """DoRA's lengths of rows, [out]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    """An opened adapter; its tensors are still in their file."""

    name: str
    """Hub id, or the folder's own name."""
    folder: Path
    revision: str | None
    settings: Mapping[str, Any]
    weights: weights.Weights
    factors: Mapping[str, Factors] = field(default_factory=dict)
    """Module, as the adapted model names it -> the factors of the product that is added to it."""
    whole: Mapping[str, str] = field(default_factory=dict)
    """Tensor, as the adapted model names it -> stored name, of biases and modules_to_save. They replace the
    checkpoint's."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Embedding table, as the adapted model names it -> stored name of the rows that replace its own."""
    sentence: sentence_files.SentenceFiles | None = None
    """Pooling and prompts of the adapted model, where Sentence Transformers saved it. The checkpoint's own
    files do not know them."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that the export reads of the adapter."""
        folders = self.sentence.weight_folders if self.sentence else ()
        heads = [self.folder / folder / name for folder in folders for name in weights.SINGLES]
        return (self.folder / SETTINGS, *self.weights.files, *(path for path in heads if path.is_file()))

    def rank(self, module: str) -> int:
        return int(self._setting("rank_pattern", module, self.settings["r"]))

    def alpha(self, module: str) -> float:
        return float(self._setting("alpha_pattern", module, self.settings["lora_alpha"]))

    def scale(self, module: str) -> float:
        """The factor of B·A: alpha / rank, or alpha / √rank with use_rslora."""
        alpha, rank = self.alpha(module), self.rank(module)
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _setting(self, key: str, module: str, default: Any) -> Any:
        """PEFT's rule: the first pattern that matches the end of the module's name, from a dot on."""
        by_pattern: Mapping[str, Any] = self.settings.get(key) or {}
        return next(
            (value for pattern, value in by_pattern.items() if re.match(rf"(.*\.)?({pattern})$", module)),
            default,
        )

    def saves(self, name: str) -> bool:
        """Whether the tensor belongs to a module that was trained as a whole."""
        saved = set(self.settings.get("modules_to_save") or ())
        if self.settings.get("task_type") in ("SEQ_CLS", "TOKEN_CLS"):
            saved |= {"classifier", "score"}
        return bool(saved & set(name.split("."))) or any(f".{module}." in f".{name}" for module in saved)

    def token_ids(self, module: str) -> tuple[int, ...]:
        """The rows of a table that `tokens` replaces."""
        indices = self.settings.get("trainable_token_indices")
        if isinstance(indices, Mapping):
            indices = next((ids for name, ids in indices.items() if f".{module}".endswith(f".{name}")), None)
        return tuple(indices or ())

    def described(self, digests: Mapping[str, str]) -> Described:
        """The manifest's record; `digests`: file name -> sha256."""
        largest = max((self.rank(module) for module in self.factors), default=0)
        return Described(name=self.name, revision=self.revision, rank=largest, files=dict(digests))


def read(location: str | Path, *, task: str | None = None, tasks: Collection[str] = ()) -> LoraAdapter:
    """Opens the adapter in a local folder or under a hub id.

    Args:
        location: folder or hub id.
        task: of `tasks`, the one whose adapter is meant.
        tasks: of which the file holds an adapter each; empty: it holds one adapter.

    Raises CheckpointError where there is no adapter, or one that cannot be merged into weights.
    """
    place = source.find_adapter(str(location))
    if not (place.folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{location}: not a LoRA adapter: no {SETTINGS}; "
            "give the folder that PEFT's save_pretrained wrote"
        )
    settings = json_file(place.folder / SETTINGS, dict)
    problems = _problems(settings)
    if problems:
        raise CheckpointError(
            f"{place.name}: this adapter cannot be merged into weights: {'; '.join(problems)}"
        )
    path = next((place.folder / name for name in source.ADAPTERS if (place.folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(
            f"{place.name}: no weights of the adapter; expected {' or '.join(source.ADAPTERS)}"
        )
    opened = weights.open_files([path])
    factors: dict[str, Factors] = {}
    whole: dict[str, str] = {}
    tokens: dict[str, str] = {}
    for stored in opened:
        name = _of_task(OUTER.sub("", stored), task, tasks)
        if name is None or TWIN.search(name):
            continue
        if (table := TOKENS.fullmatch(name)) is not None:
            tokens[table["module"]] = stored
            continue
        if (part := PART.fullmatch(name)) is None:
            whole[DEEPER.sub("", name)] = stored
            continue
        adapted = factors.setdefault(part["module"], Factors())
        if part["magnitude"]:
            adapted.magnitude = stored
        elif part["last"] == "bias":
            adapted.bias = stored
        else:
            adapted.table = adapted.table or bool(part["table"])
            setattr(adapted, "first" if part["side"] == "A" else "second", stored)
    return LoraAdapter(
        name=place.name,
        folder=place.folder,
        revision=place.revision,
        settings=settings,
        weights=opened,
        factors=factors,
        whole=whole,
        tokens=tokens,
        sentence=sentence_files.read(place.folder),
    )


def _of_task(name: str, task: str | None, tasks: Collection[str]) -> str | None:
    """The name without the task in it; None: the tensor is another task's."""
    part = OF_TASK.fullmatch(name)
    if part is None or part["task"] not in tasks:
        return name
    return part["module"] + part["last"] if part["task"] == task else None


def _is_number(value: Any, kind: str) -> bool:
    is_number = isinstance(value, int if kind == COUNT else int | float) and not isinstance(value, bool)
    return is_number and math.isfinite(value) and value > 0


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _problems(settings: Mapping[str, Any]) -> list[str]:
    """Why an adapter cannot be merged, by its settings; empty: it can."""
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        return [f"peft_type {kind}, expected LORA"]
    problems = [
        f"{key} is {settings.get(key)!r}, expected {kind}"
        for key, kind in NUMBERS.items()
        if not _is_number(settings.get(key), kind)
    ]
    for key, kind in (("rank_pattern", NUMBERS["r"]), ("alpha_pattern", NUMBERS["lora_alpha"])):
        by_pattern = settings.get(key) or {}
        if not isinstance(by_pattern, dict) or not all(
            _is_pattern(pattern) and _is_number(value, kind) for pattern, value in by_pattern.items()
        ):
            problems.append(f"{key} is {by_pattern!r}, expected {kind} by name or regular expression")
    tokens = settings.get("trainable_token_indices") or []
    lists = list(tokens.values()) if isinstance(tokens, dict) else [tokens]
    if not all(
        isinstance(ids, list) and all(isinstance(token, int) and token >= 0 for token in ids) for ids in lists
    ):
        problems.append(
            f"trainable_token_indices is {tokens!r}, expected token ids, or lists of them by module"
        )
    saved = settings.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        problems.append(f"modules_to_save is {saved!r}, expected names")
    problems += [
        f"{key} is not something poolrt merges"
        for key, value in sorted(settings.items())
        if value and key not in KNOWN
    ]
    start = settings.get("init_lora_weights")
    if start not in HARMLESS_STARTS:
        problems.append(
            f"init_lora_weights {start!r} changed the checkpoint's own weights; save it with "
            "path_initial_model_for_weight_conversion"
        )
    if settings.get("lora_bias") and settings.get("use_dora"):
        problems.append("lora_bias together with use_dora")
    return problems

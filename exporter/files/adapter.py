"""A LoRA adapter as PEFT saves it: its settings, and what each of its tensors is for.
No tensor is loaded here."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...runtime.artifact.manifest import MergedAdapter as Described
from ...runtime.errors import CheckpointError
from ..base.json_file import json_file
from . import sentence_files, source, weights

SETTINGS = "adapter_config.json"
# What does not change the merged weights, or is read below; any other setting that is not empty is refused.
KNOWN = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "eva_config",
    "exclude_modules", "fan_in_fan_out",
    "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config",
    "lora_alpha", "lora_bias",
    "lora_dropout", "lora_ga_config", "megatron_core", "merge_weights", "modules_to_save", "peft_type",
    "peft_version",
    "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config", "target_modules", "task_type",
    "trainable_token_indices",
    "use_dora", "use_rslora", "ensure_weight_tying",
})  # fmt: skip
# Ways to start training that leave the checkpoint's weights alone; PiSSA and its kin take the
# adapter's start out of them.
HARMLESS_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
COUNT = "a count above 0"
NUMBERS = {"r": COUNT, "lora_alpha": "a number above 0"}
PART = re.compile(
    r"(?P<module>.+)\.lora_(?:(?P<table>embedding_)?(?P<side>[AB])|(?P<magnitude>magnitude_vector))(?:\.default)?(?:\.(?P<last>weight|bias))?"
)
TOKENS = re.compile(r"(?P<module>.+)\.token_adapter\.trainable_tokens_delta(?:\.default)?")
# PEFT's own; `module.` is torch's parallel wrappers'.
OUTER = re.compile(r"^(?:module\.)?(?:base_model\.model\.)?")
# What stands before the transformers model where a SentenceTransformer or CrossEncoder was adapted as a
# whole, or its first module.
WRAPPED = re.compile(r"^(?:0\.)?(?:auto_)?model\.")
# Where PEFT has wrapped a module, its own tensors stand one level deeper.
DEEPER = re.compile(r"\.(?:base_layer|token_adapter|modules_to_save(?:\.default)?)(?=\.)")
# The copy that a module saved as a whole was made from: in the file with bias="all", in no forward pass.
TWIN = re.compile(r"(?:^|\.)original_module\.")


@dataclass(slots=True)
class Factors:
    """Names inside the adapter's file, for one adapted module."""

    table: bool = False
    """Of an embedding, whose stored matrices are those of the turned weight."""
    first: str | None = None
    second: str | None = None
    bias: str | None = None
    magnitude: str | None = None
    """DoRA."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraAdapter:
    name: str
    """Hub id, or the folder's own name."""
    folder: Path
    revision: str | None
    settings: Mapping[str, Any]
    weights: weights.Weights
    factors: Mapping[str, Factors] = field(default_factory=dict)
    """Module, as the adapted model names it -> what is added to it."""
    whole: Mapping[str, str] = field(default_factory=dict)
    """Tensor, as the adapted model names it -> stored name: biases and modules_to_save, taken as they are."""
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Table, as the adapted model names it -> stored name of the rows that take the
    place of some of its own."""

    sentence: sentence_files.SentenceFiles | None = None
    """Where Sentence Transformers saved the adapted model: its pooling and prompts, which the
    checkpoint's own files do not know."""

    @property
    def files(self) -> tuple[Path, ...]:
        folders = self.sentence.weight_folders if self.sentence else ()
        heads = [self.folder / folder / name for folder in folders for name in weights.SINGLES]
        return (self.folder / SETTINGS, *self.weights.files, *(path for path in heads if path.is_file()))

    def rank(self, module: str) -> int:
        return int(self._of("rank_pattern", module, self.settings["r"]))

    def scale(self, module: str) -> float:
        alpha, rank = float(self._of("alpha_pattern", module, self.settings["lora_alpha"])), self.rank(module)
        return alpha / (math.sqrt(rank) if self.settings.get("use_rslora") else rank)

    def _of(self, patterns: str, module: str, default: Any) -> Any:
        """PEFT's rule: the first pattern that matches the end of the module's name, from a dot on."""
        found: Mapping[str, Any] = self.settings.get(patterns) or {}
        return next(
            (value for pattern, value in found.items() if re.match(rf"(.*\.)?({pattern})$", module)), default
        )

    def saves(self, name: str) -> bool:
        """Whether the tensor belongs to a module that was trained as a whole."""
        saved = set(self.settings.get("modules_to_save") or ())
        if self.settings.get("task_type") in ("SEQ_CLS", "TOKEN_CLS"):
            saved |= {"classifier", "score"}
        return bool(saved & set(name.split("."))) or any(f".{module}." in f".{name}" for module in saved)

    def token_ids(self, module: str) -> tuple[int, ...]:
        """The rows of a table that `tokens` has others for."""
        asked = self.settings.get("trainable_token_indices")
        if isinstance(asked, Mapping):
            asked = next((ids for name, ids in asked.items() if f".{module}".endswith(f".{name}")), None)
        return tuple(asked or ())

    def described(self, digests: Mapping[str, str]) -> Described:
        """The manifest's record; `digests`: file name -> sha256."""
        largest = max((self.rank(module) for module in self.factors), default=0)
        return Described(name=self.name, revision=self.revision, rank=largest, files=dict(digests))


def read(asked: str | Path) -> LoraAdapter:
    """Opens a local folder or hub id. Raises CheckpointError: not an adapter, or one that is not a
    plain change of weights."""
    place = source.find_adapter(str(asked))
    if not (place.folder / SETTINGS).is_file():
        raise CheckpointError(
            f"{asked}: not a LoRA adapter: no {SETTINGS}; give the folder that PEFT's save_pretrained wrote"
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
        name = OUTER.sub("", stored)
        if TWIN.search(name):
            continue
        if (table := TOKENS.fullmatch(name)) is not None:
            tokens[table["module"]] = stored
            continue
        if (part := PART.fullmatch(name)) is None:
            whole[DEEPER.sub("", name)] = stored
            continue
        known = factors.setdefault(part["module"], Factors())
        if part["magnitude"]:
            known.magnitude = stored
        elif part["last"] == "bias":
            known.bias = stored
        else:
            known.table = known.table or bool(part["table"])
            setattr(known, "first" if part["side"] == "A" else "second", stored)
    return LoraAdapter(
        name=place.name, folder=place.folder, revision=place.revision, settings=settings, weights=opened,
        factors=factors, whole=whole,
        tokens=tokens, sentence=sentence_files.read(place.folder),
    )  # fmt: skip


def _is_number(value: Any, kind: str) -> bool:
    known = isinstance(value, int if kind == COUNT else int | float) and not isinstance(value, bool)
    return known and math.isfinite(value) and value > 0


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


def _problems(settings: Mapping[str, Any]) -> list[str]:
    kind = settings.get("peft_type", "LORA")
    if kind != "LORA":
        return [f"peft_type {kind}, expected LORA"]
    problems = [
        f"{key} is {settings.get(key)!r}, expected {kind}"
        for key, kind in NUMBERS.items()
        if not _is_number(settings.get(key), kind)
    ]
    for patterns, kind in (("rank_pattern", NUMBERS["r"]), ("alpha_pattern", NUMBERS["lora_alpha"])):
        found = settings.get(patterns) or {}
        if not isinstance(found, dict) or not all(
            _is_pattern(key) and _is_number(value, kind) for key, value in found.items()
        ):
            problems.append(f"{patterns} is {found!r}, expected {kind} by name or regular expression")
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

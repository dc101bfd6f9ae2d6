"""A published checkpoint, read without running or trusting anything in it.

`read` opens headers and JSON, decides what the model is, and keeps every guess with its reason.
No tensor is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.artifact import other_formats
from ..runtime.artifact.manifest import Source
from ..runtime.errors import CheckpointError
from ..runtime.json_objects import merged
from . import detection, unread
from .base.guess import Guess
from .base.json_file import json_file
from .base.refusals import in_one_sentence, refuses, shortened
from .detection import Convert, Kind, Runner
from .families.registry import Architecture
from .families.registry import find as find_architecture
from .files import adapter as adapters
from .files import adapter_merge, plausible, sentence_files, source, tokenizer, weights
from .files import pooler_config as poolers
from .files import recipe as recipes
from .files.checkpoint_files import Files

POOLINGS = ("pooling_type", "seq_pooling_type")
ADAPTED_CLASSES = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
"""task_type of an adapter -> suffix of the class that it was trained with."""
LABELS = ("num_labels", "id2label", "label2id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Files):
    """The files, and what was decided about them."""

    inner: Path
    """Where config.json, weights and tokenizer are: `folder`, or the subfolder that modules.json
    names (`0_Transformer`)."""
    revision: str | None
    overrides: Mapping[str, Any]
    """What was asked for, as the manifest records it."""
    architecture: str
    """In vLLM's spelling."""
    kind: Kind
    family: Architecture
    sentence: sentence_files.SentenceFiles | None
    pooler: poolers.PoolerConfig
    recipe: recipes.Recipe | None
    guesses: tuple[Guess, ...]
    adapter: adapters.LoraAdapter | None = None
    """Merged into `weights` already."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The guesses, for people."""
        return tuple(str(guess) for guess in self.guesses)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Every file of the checkpoint whose tensors the export may read, those of heads included."""
        heads = [self.folder / name for name in detection.BGE_M3_FILES] if self.kind == "bge-m3" else []
        folders = self.sentence.weight_folders if self.sentence else ()
        heads += [self.beside / folder / name for folder in folders for name in weights.SINGLES]
        own = () if self.adapter is None else self.adapter.files
        return tuple(path for path in (*self.weights.files, *heads) if path not in own and path.is_file())

    @property
    def beside(self) -> Path:
        """Where the files of Sentence Transformers are."""
        return self.folder if self.adapter is None or self.adapter.sentence is None else self.adapter.folder

    def described(self, digest: Mapping[str, str], adapter: Mapping[str, str]) -> Source:
        """The manifest's record of where the weights came from; `digest`: path inside the checkpoint ->
        sha256, `adapter` likewise."""
        return Source(
            checkpoint=self.source, revision=self.revision, weights=dict(digest),
            overrides=dict(self.overrides),
            adapter=None if self.adapter is None else self.adapter.described(adapter),
        )  # fmt: skip


@refuses("its files make no model that poolrt can read")
def read(
    asked: str | Path,
    *,
    revision: str | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
    runner: Runner = "auto",
    convert: Convert = "auto",
    pooler_config: Mapping[str, object] | None = None,
    recipe: recipes.Recipe | str | None = "auto",
    adapter: str | Path | None = None,
) -> Checkpoint:
    """Opens a local folder or hub id. Raises CheckpointError, and UnknownArchitecture for a
    backbone no file of ours reads.

    `recipe`: "auto" looks one up by name, None goes without. `adapter`: folder or hub id of
    a LoRA adapter to merge.
    """
    if runner == "generate":
        raise CheckpointError(
            "runner 'generate': poolrt serves pooling models only; leave --runner at auto or pooling"
        )
    place = source.find(str(asked), revision)
    found = _recipe(place.name, recipe)
    asked_for = {"hf_overrides": dict(hf_overrides or {}), "pooler_config": dict(pooler_config or {})}
    asked_for = {key: value for key, value in asked_for.items() if value}
    if convert not in ("auto", "none"):
        asked_for["convert"] = convert
    guesses: list[Guess] = []
    if found is not None:
        guesses.append(Guess("recipe", found.name, f"the name matches {found.match[0]}", "--no-recipe"))
    inner = place.folder / sentence_files.transformer(place.folder)
    if not (inner / "config.json").is_file():
        # A chain without a transformer is refused by what it has in its place
        sentence_files.read(place.folder)
    config = _config(inner)
    _refuse_part(place.folder)
    if "auto_map" in config:
        guesses.append(
            Guess(
                "remote code",
                "not run",
                ("config.json has an auto_map; poolrt reads the weights with its own classes"),
            )
        )
    config = _named(
        inner, merged(merged(config, recipe_overrides(found, hf_overrides or {})), hf_overrides or {})
    )
    opened = weights.open_folder(inner)
    family = find_architecture(place.name, config, opened.shapes)
    with in_one_sentence(f"{place.name}: transformers does not understand config.json"):
        if family.translate is not None:
            config = dict(family.translate(config))
        if family.adapt is not None:
            family = family.adapt(family, config)
    said = {**(found.hf_overrides if found else {}), **(hf_overrides or {})}
    meant = (
        found.convert if convert == "auto" and found is not None and found.convert is not None else convert
    )
    unread.refuse_remote(place.name, config, family, overrides=said, convert=meant)
    unread.check(place.name, config, family)
    found_adapter = None if adapter is None else adapters.read(adapter)
    if found_adapter is not None:
        opened = adapter_merge.merged(
            place.name,
            opened,
            found_adapter,
            family.prefixes,
            turned=config.get("model_type") in adapter_merge.TURNED,
        )
        config = _adapted_config(config, found_adapter, opened, family, hf_overrides or {}, convert=convert)
        guesses.append(_adapter_guess(found_adapter))
    sentence = None if found_adapter is None else found_adapter.sentence
    if found_adapter is not None and sentence is not None:
        guesses.append(
            Guess("modules", f"those of {found_adapter.name}", "the adapter's folder has a modules.json")
        )
    else:
        sentence = sentence_files.read(place.folder)
    part = next(
        (name for name in sentence_files.TRANSFORMER_FILES if sentence is None and (inner / name).is_file()),
        None,
    )
    if part is not None:
        why = (
            f"{part} stands here without modules.json, which says how Sentence Transformers pools: is this "
            "only the 0_Transformer part?"
        )
        guesses.append(Guess("modules", "none", why, "the folder above this one"))
    pooler = _pooler(found, pooler_config)
    if convert == "auto" and found is not None and found.convert is not None:
        convert = found.convert
    detected = detection.detect(place.folder, config, family, opened, sentence, convert)
    text = tokenizer.read(inner, lowercase=sentence is not None and sentence.lowercase, overrides=config)
    guesses += text.guesses
    return Checkpoint(
        source=place.name,
        folder=place.folder,
        config=config,
        weights=opened,
        prefixes=family.prefixes,
        text=text,
        classifies=detected.kind == "classify",
        inner=inner,
        revision=place.revision,
        overrides=asked_for,
        architecture=detected.architecture,
        kind=detected.kind,
        family=family,
        sentence=sentence,
        pooler=pooler,
        recipe=found,
        guesses=(*guesses, *detected.guesses),
        adapter=found_adapter,
    )


def recipe_overrides(found: recipes.Recipe | None, asked: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's changes to config.json. Its list of widths gives way to a user who
    says which widths there are."""
    known = dict(found.hf_overrides) if found else {}
    if "is_matryoshka" in asked and "matryoshka_dimensions" not in asked:
        known.pop("matryoshka_dimensions", None)
    return known


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if path.is_file():
        return _decoded(json_file(path, dict))
    if (folder / adapters.SETTINGS).is_file():
        trained = json_file(folder / adapters.SETTINGS, dict).get("base_model_name_or_path") or "CHECKPOINT"
        raise CheckpointError(
            f"{folder}: a LoRA adapter, not a checkpoint; give what it was trained on: poolrt export "
            f"{trained} --lora {folder}"
        )
    present = sorted(entry.name for entry in folder.iterdir())[:5] if folder.is_dir() else []
    found = other_formats.of_folder(folder) or f"it holds {', '.join(present) or 'nothing'}"
    raise CheckpointError(f"{folder}: not a checkpoint: no config.json ({found})")


def _named(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """config.json, overrides included, with the few keys that decide what is read in the shape they are read
    in. Raises CheckpointError."""
    path, names, labels = folder / "config.json", config.get("architectures"), config.get("id2label")
    if not config.get("model_type") and not names:
        raise CheckpointError(
            f"{path}: neither model_type nor architectures; not a transformers checkpoint, "
            'or one that needs --hf-overrides \'{"model_type": "..."}\''
        )
    if config.get("model_type") is not None and not isinstance(config["model_type"], str):
        raise CheckpointError(
            f"{path}: model_type is {shortened(config['model_type'])}, expected a name such as 'bert'"
        )
    plausible.check_counts(path, config)
    names = [names] if isinstance(names, str) else names
    if names is not None and (
        not isinstance(names, list) or not all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(f"{path}: architectures is {shortened(names)}, expected a list of class names")
    if isinstance(labels, list):  # in the order of the rows
        labels = {str(index): label for index, label in enumerate(labels)}
    if labels is not None and not (
        isinstance(labels, dict) and all(str(index).isdecimal() for index in labels)
    ):
        raise CheckpointError(
            f"{path}: id2label is {shortened(labels)}, expected row -> name, or a list of names"
        )
    changed = {"architectures": names, "id2label": labels}
    return {**config, **{key: value for key, value in changed.items() if key in config}}


def _refuse_part(folder: Path) -> None:
    """The Transformer part of a Sentence Transformers model, whose pooling is written down beside it."""
    above = folder.resolve().parent
    if (folder / "modules.json").is_file() or not (above / "modules.json").is_file():
        return
    if above / sentence_files.transformer(above) == folder.resolve():
        raise CheckpointError(
            f"{folder}: only the Transformer module of the Sentence Transformers model in the folder "
            "above it, whose modules.json says "
            f"how its tokens become vectors; give {above}"
        )


def _decoded(value: Any) -> Any:
    """transformers writes infinity as `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        return (
            float(value["__float__"])
            if set(value) == {"__float__"}
            else {key: _decoded(inner) for key, inner in value.items()}
        )
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value


def _adapted_config(
    config: Mapping[str, Any],
    adapter: adapters.LoraAdapter,
    opened: adapter_merge.Merged,
    family: Architecture,
    overrides: Mapping[str, Any],
    *,
    convert: str,
) -> dict[str, Any]:
    """config.json for the adapted model: an adapter of a classifier says so in task_type,
    and brings its own labels."""
    adapted = dict(config)
    suffix = ADAPTED_CLASSES.get(str(adapter.settings.get("task_type")))
    name = next((name for name in family.names if suffix and name.endswith(suffix)), None)
    if name is not None and "architectures" not in overrides and convert == "auto":
        adapted["architectures"] = [name]
    layers = (
        family.tokens
        if suffix == ADAPTED_CLASSES["TOKEN_CLS"]
        else family.sequence.layers
        if family.sequence
        else ()
    )
    weight = layers and opened.find(f"{layers[-1].name}.weight", family.prefixes)
    if weight and weight in opened.brought and not set(LABELS) & set(overrides):
        labels = config.get("num_labels", len(config.get("id2label") or ()))
        if labels and labels != opened.shapes[weight][0]:
            adapted = {key: value for key, value in adapted.items() if key not in LABELS}
    return adapted


def _adapter_guess(adapter: adapters.LoraAdapter) -> Guess:
    base = adapter.settings.get("base_model_name_or_path")
    rest = f", {len(adapter.whole)} whole tensors" if adapter.whole else ""
    rest += ", rows of " + ", ".join(adapter.tokens) if adapter.tokens else ""
    return Guess(
        "adapter",
        f"{adapter.name}, {len(adapter.factors)} modules{rest}",
        f"trained on {base}" if base else "--lora",
    )


def _recipe(name: str, asked: recipes.Recipe | str | None) -> recipes.Recipe | None:
    return recipes.find(name) if isinstance(asked, str) else asked


def _pooler(found: recipes.Recipe | None, asked: Mapping[str, object] | None) -> poolers.PoolerConfig:
    known, given = dict(found.pooler_config) if found else {}, dict(asked or {})
    if given.get("pooling_type") or given.get("seq_pooling_type"):
        # Who names the pooling gets embed's default with it, not what a recipe makes of the author's files
        # (vLLM's documentation asks for the mean of ssmits/Qwen2-7B-Instruct-embed-base this way).
        known = {name: value for name, value in known.items() if name not in POOLINGS}
        if known.pop("use_activation", True) is False:
            given.setdefault("use_activation", True)
    return poolers.read({**known, **given})

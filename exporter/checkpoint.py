"""A published checkpoint, read without running or trusting anything in it.

`read` opens headers and JSON, decides what the model is, and keeps every guess with its reason. It loads no
tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.artifact.manifest import Source
from ..runtime.artifact.records import RecordError, from_plain
from ..runtime.errors import CheckpointError
from ..runtime.json_objects import merged
from ..runtime.vllm.pooler_config import PoolerConfig
from . import detection, unread
from .base.guess import Guess
from .base.refusals import in_one_sentence, refuses
from .detection import Convert, Kind, Runner
from .families.registry import Architecture
from .families.registry import find as find_architecture
from .files import adapter as adapters
from .files import adapter_merge, config_json, sentence_files, source, tokenizer, weights
from .files import recipe as recipes
from .files.checkpoint_files import Files

POOLINGS = ("pooling_type", "seq_pooling_type")
ADAPTED_CLASSES = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
"""task_type of an adapter -> suffix of the name of the class that it was trained with."""
LABELS = ("num_labels", "id2label", "label2id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint(Files):
    """The files, and what was decided about them."""

    revision: str | None
    subfolder: str | None
    """Where `folder` lies inside the repository; None: it is the repository."""
    overrides: Mapping[str, Any]
    """The user's options that change what is read, as the manifest records them."""
    architecture: str
    """In vLLM's spelling."""
    kind: Kind
    family: Architecture
    sentence: sentence_files.SentenceFiles | None
    pooler: PoolerConfig
    recipe: recipes.Recipe | None
    guesses: tuple[Guess, ...]
    adapter: adapters.LoraAdapter | None = None
    """The user's, merged into `weights` already."""
    built_in: adapters.LoraAdapter | None = None
    """The checkpoint's own, merged into `weights` already."""

    @property
    def lines(self) -> tuple[str, ...]:
        """The guesses as lines of text."""
        return tuple(str(guess) for guess in self.guesses)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """Every file of the checkpoint whose tensors the export may read, those of heads included."""
        heads = [self.folder / name for name in detection.BGE_M3_FILES] if self.kind == "bge-m3" else []
        folders = self.sentence.weight_folders if self.sentence else ()
        heads += [self.beside / folder / name for folder in folders for name in weights.SINGLES]
        own = () if self.adapter is None else self.adapter.files
        settings = () if self.built_in is None else self.built_in.files[:1]
        files = (*self.weights.files, *settings, *heads)
        return tuple(path for path in files if path not in own and path.is_file())

    @property
    def beside(self) -> Path:
        """The folder of Sentence Transformers' files."""
        return self.folder if self.adapter is None or self.adapter.sentence is None else self.adapter.folder

    def described(self, digest: Mapping[str, str], adapter: Mapping[str, str]) -> Source:
        """The manifest's record of the weights' origin.

        `digest`: path inside the checkpoint -> sha256; `adapter`: path inside the adapter's folder -> sha256.
        """
        return Source(
            checkpoint=self.source,
            revision=self.revision,
            subfolder=self.subfolder,
            weights=dict(digest),
            overrides=dict(self.overrides),
            adapter=None if self.adapter is None else self.adapter.described(adapter),
        )


@refuses("its files make no model that poolrt can read")
def read(
    location: str | Path,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
    runner: Runner = "auto",
    convert: Convert = "auto",
    pooler_config: Mapping[str, object] | None = None,
    recipe: recipes.Recipe | str | None = "auto",
    adapter: str | Path | None = None,
) -> Checkpoint:
    """Opens the checkpoint in a local folder or under a hub id.

    `subfolder`: the folder of it that holds the checkpoint, for repositories that keep several.
    `recipe`: "auto" looks one up by name, None uses none. `adapter`: folder or hub id of a LoRA adapter to
    merge.

    Raises CheckpointError, and UnknownArchitecture for a backbone that no family reads.
    """
    if runner == "generate":
        raise CheckpointError(
            "runner 'generate': poolrt serves pooling models only; leave --runner at auto or pooling"
        )
    overrides = dict(hf_overrides or {})
    requested = {"hf_overrides": overrides, "pooler_config": dict(pooler_config or {})}
    requested = {key: value for key, value in requested.items() if value}
    if convert not in ("auto", "none"):
        requested["convert"] = convert
    place = source.find(str(location), revision, subfolder)
    if isinstance(recipe, str):
        recipe = recipes.find(place.name)
    guesses: list[Guess] = []
    if recipe is not None:
        guesses.append(Guess("recipe", recipe.name, f"the name matches {recipe.match[0]}", "--no-recipe"))
    conversion = convert
    if convert == "auto" and recipe is not None and recipe.convert is not None:
        conversion = recipe.convert
    inner = place.folder / sentence_files.transformer(place.folder)
    if not (inner / config_json.FILE).is_file():
        # A chain without a transformer is refused with the name of its first module.
        sentence_files.read(place.folder)
    config = config_json.read(inner, str(location))
    _refuse_part(place.folder)
    if "auto_map" in config:
        why = "config.json has an auto_map; poolrt reads the weights with its own classes"
        guesses.append(Guess("remote code", "not run", why))
    config = merged(merged(config, recipe_overrides(recipe, overrides)), overrides)
    config = config_json.checked(inner, config)
    opened = weights.open_folder(inner)
    family = find_architecture(place.name, config, opened.shapes)
    with in_one_sentence(f"{place.name}: transformers does not understand config.json"):
        if family.translate is not None:
            config = dict(family.translate(config))
        if family.adapt is not None:
            family = family.adapt(family, config)
    if family.guesses is not None:
        guesses += family.guesses(place.name, config)
    stated = {**(recipe.hf_overrides if recipe else {}), **overrides}
    unread.refuse_remote(place.name, config, family, overrides=stated, convert=conversion)
    unread.check(place.name, config, family)
    built_in = None if family.built_in is None else family.built_in(inner, config)
    if built_in is not None:
        opened = adapter_merge.merged(place.name, opened, built_in, family.prefixes, spelled=family.spelled)
    lora = None if adapter is None else adapters.read(adapter)
    if lora is not None and built_in is not None:
        raise CheckpointError(
            f"{place.name}: its own adapter ({built_in.folder.name}) is a part of the model, and poolrt "
            f"merges no second one into it; merge {lora.name} into the checkpoint's weights first"
        )
    if lora is not None:
        turned = config.get("model_type") in adapter_merge.TURNED
        opened = adapter_merge.merged(
            place.name, opened, lora, family.prefixes, turned=turned, spelled=family.spelled
        )
        config = _adapted_config(config, lora, opened, family, overrides, convert=convert)
        guesses.append(_adapter_guess(lora))
    sentence = _sentence_files(place.folder, inner, lora, guesses)
    pooler = _pooler(recipe, pooler_config)
    detected = detection.detect(place.folder, config, family, opened, sentence, conversion)
    text = tokenizer.read(
        inner,
        lowercase=sentence is not None and sentence.lowercase,
        canonical=family.canonical_text,
        overrides=config,
    )
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
        subfolder=place.subfolder,
        overrides=requested,
        architecture=detected.architecture,
        kind=detected.kind,
        family=family,
        sentence=sentence,
        pooler=pooler,
        recipe=recipe,
        guesses=(*guesses, *text.guesses, *detected.guesses),
        adapter=lora,
        built_in=built_in,
    )


def recipe_overrides(recipe: recipes.Recipe | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's changes of config.json. Its list of widths is left out where the user's `overrides` state
    whether the model has several."""
    changes = dict(recipe.hf_overrides) if recipe else {}
    if "is_matryoshka" in overrides and "matryoshka_dimensions" not in overrides:
        changes.pop("matryoshka_dimensions", None)
    return changes


def _refuse_part(folder: Path) -> None:
    """Raises CheckpointError for a Transformer module alone, whose pooling is stated in the folder above."""
    above = folder.resolve().parent
    if (folder / "modules.json").is_file() or not (above / "modules.json").is_file():
        return
    if above / sentence_files.transformer(above) == folder.resolve():
        raise CheckpointError(
            f"{folder}: only the Transformer module of the Sentence Transformers model in the folder above "
            f"it, whose modules.json says how its tokens become vectors; give {above}"
        )


def _sentence_files(
    folder: Path, inner: Path, adapter: adapters.LoraAdapter | None, guesses: list[Guess]
) -> sentence_files.SentenceFiles | None:
    """Sentence Transformers' files: the adapter's, else the checkpoint's."""
    if adapter is not None and adapter.sentence is not None:
        why = "the adapter's folder has a modules.json"
        guesses.append(Guess("modules", f"those of {adapter.name}", why))
        return adapter.sentence
    sentence = sentence_files.read(folder)
    if sentence is None:
        part = next((name for name in sentence_files.TRANSFORMER_FILES if (inner / name).is_file()), None)
        if part is not None:
            why = (
                f"{part} stands here without modules.json, which says how Sentence Transformers pools: is "
                "this only the 0_Transformer part?"
            )
            guesses.append(Guess("modules", "none", why, "the folder above this one"))
    return sentence


def _adapted_config(
    config: Mapping[str, Any],
    adapter: adapters.LoraAdapter,
    opened: adapter_merge.Merged,
    family: Architecture,
    overrides: Mapping[str, Any],
    *,
    convert: str,
) -> dict[str, Any]:
    """config.json for the adapted model. The adapter's task_type names a classifier's class, and labels are
    dropped where the adapter has another number of them."""
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


def _pooler(recipe: recipes.Recipe | None, options: Mapping[str, object] | None) -> PoolerConfig:
    """A recipe's --pooler-config with the user's `options` over it."""
    defaults, options = dict(recipe.pooler_config) if recipe else {}, dict(options or {})
    if options.get("pooling_type") or options.get("seq_pooling_type"):
        # A user who names the pooling gets embed's default activation with it, not the recipe's (vLLM's
        # documentation asks for the mean of ssmits/Qwen2-7B-Instruct-embed-base this way).
        defaults = {name: value for name, value in defaults.items() if name not in POOLINGS}
        if defaults.pop("use_activation", True) is False:
            options.setdefault("use_activation", True)
    return read_pooler({**defaults, **options})


def read_pooler(options: Mapping[str, object] | PoolerConfig | None) -> PoolerConfig:
    """`--pooler-config` as a record. Raises CheckpointError."""
    if isinstance(options, PoolerConfig):
        return options
    if options and "normalize" in options:
        raise CheckpointError("pooler config: `normalize` was renamed; use `use_activation`")
    try:
        return from_plain(PoolerConfig, dict(options or {}))
    except RecordError as error:
        raise CheckpointError(f"pooler config: {error}") from None

"""From command-line arguments to models: artifacts are opened, checkpoints exported first."""

from __future__ import annotations

import argparse
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.artifact import checkpoints, overrides, reading
from ...runtime.artifact.checkpoints import CONVERSIONS, exported, is_artifact, options_of
from ...runtime.artifact.manifest import FILE
from ...runtime.errors import InputError
from ...runtime.json_objects import gathered
from ...runtime.loader import load
from ...runtime.model import Model
from ..models.adapters import AdapterExporter, Base, module_of
from ..models.registry import Registry, Served
from ..settings import Settings

log = logging.getLogger("poolrt.serve")


@dataclass(frozen=True, slots=True)
class Models:
    """What one server is started with."""

    registry: Registry
    adapters: AdapterExporter | None = None
    """Makes models of LoRA adapters; None: LoRA is off."""


def models_of(asked: argparse.Namespace, settings: Settings) -> Models:
    """Every artifact of the command line under its names; exports checkpoints, which takes
    minutes, and opens nothing yet."""
    own = [name for name in asked.served_model_name if "=" not in name]
    others = dict(name.split("=", 1)[::-1] for name in asked.served_model_name if "=" in name)
    unknown = [path for path in others if path not in asked.artifacts]
    if unknown:
        raise InputError(f"--served-model-name: {', '.join(unknown)} is none of the artifacts given")
    processors = plugins_of(asked)
    served: list[Served] = []
    folders: list[Path] = []
    for index, argument in enumerate(asked.artifacts):
        folder = artifact_of(argument, asked)
        folders.append(folder)
        names = [others[argument]] if argument in others else []
        if index == 0:
            names += own
        own_name = default_name(argument, folder)
        if not names:
            names = [own_name]
        opening = functools.partial(opened, folder, asked, settings, processors.get(argument), name=names[0])
        served.append(Served(names=tuple(names), open=opening, aliases=(own_name,)))
    adapters = None
    if asked.lora_modules or asked.enable_lora:
        adapters = adapters_of(asked, settings, served, folders)
        served += [adapters.served(module_of(module)) for module in asked.lora_modules]
    names = [name for one in served for name in dict.fromkeys(one.names)]
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        raise InputError(
            f"two models would be called {', '.join(twice)}, and only the first could be asked for; "
            "tell them apart with "
            "--served-model-name NAME=ARTIFACT, and adapters with --lora-modules NAME=PATH"
        )
    return Models(Registry(served, check_names=settings.check_model_name), adapters)


def adapters_of(
    asked: argparse.Namespace, settings: Settings, served: Sequence[Served], folders: Sequence[Path]
) -> AdapterExporter:
    """What makes models of LoRA adapters of the served ones."""
    if not asked.enable_lora:
        raise InputError("--lora-modules needs --enable-lora", field="lora-modules")
    limit = max((most for most in (asked.max_loras, asked.max_cpu_loras) if most is not None), default=None)
    if limit is not None and len(asked.lora_modules) > limit:
        raise InputError(
            f"--lora-modules names {len(asked.lora_modules)} adapters, --max-loras allows {limit}; "
            "raise it (each takes a model's memory)"
        )
    return AdapterExporter(
        [
            base_of(argument, asked, one, folder)
            for argument, one, folder in zip(asked.artifacts, served, folders, strict=True)
        ],
        export=functools.partial(exported, cache=asked.cache),
        open=lambda folder: opened(folder, asked, settings),
        limit=limit,
        most_rank=asked.max_lora_rank,
    )


def base_of(argument: str, asked: argparse.Namespace, served: Served, folder: Path) -> Base:
    """Where the checkpoint of a served model is: on the command line, or on the hub
    where its artifact says so."""
    if folder != Path(argument):
        return Base(served=served, folder=folder, source=argument, options=export_options(asked))
    manifest = reading.read(folder, check="quick").manifest
    source = manifest.source
    options = options_of(
        {"precision": manifest.graph("text").precision, "revision": source.revision}
        | {name: source.overrides.get(name) for name in ("convert", "hf_overrides", "pooler_config")}
    )
    # A folder's name is not its place; a hub id is.
    return Base(
        served=served,
        folder=folder,
        source=source.checkpoint if "/" in source.checkpoint else None,
        options=options,
    )


def plugins_of(asked: argparse.Namespace) -> dict[str, str]:
    """Artifact -> the IO processor given for it."""
    pairs = [
        (artifact or asked.artifacts[0], name)
        for name, _, artifact in (one.partition("=") for one in asked.io_processor_plugin)
    ]
    if unknown := [artifact for artifact, _ in pairs if artifact not in asked.artifacts]:
        raise InputError(f"--io-processor-plugin: {', '.join(unknown)} is none of the artifacts given")
    if len(found := dict(pairs)) < len(pairs):
        raise InputError("--io-processor-plugin: an artifact has one plugin; give others as NAME=ARTIFACT")
    return found


def opened(
    folder: Path, asked: argparse.Namespace, settings: Settings, plugin: str | None = None, *,
    name: str | None = None
) -> Model:  # fmt: skip
    model = load(
        folder,
        asked.engine,
        threads=asked.threads,
        max_batch_tokens=asked.max_num_batched_tokens,
        max_queued_tokens=settings.max_queued_tokens,
        max_tokens=asked.max_model_len,
        scheduling_policy=settings.scheduling_policy,
        io_processor_plugin=plugin,
        hf_overrides=gathered(asked.hf_overrides)
        if str(folder) in map(str, map(Path, asked.artifacts))
        else None,
        name=name,
        check=asked.check,
    )
    # Made now, also where only the checkpoint names it: a missing one is told at the start
    if model.plugin is not None:
        log.info("%s: IO processor %s", model.name, model.plugin.name)
    return model


def default_name(argument: str, folder: Path) -> str:
    """A checkpoint is served as it was asked for, as vLLM does; an artifact under its own name."""
    if folder != Path(argument):
        return argument
    try:
        return json.loads((folder / FILE).read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        return folder.name  # opening it tells what is wrong


def artifact_of(argument: str, asked: argparse.Namespace) -> Path:
    if is_artifact(argument):
        refuse_other_exports(Path(argument), asked)
    return checkpoints.artifact_of(argument, export_options(asked), cache=asked.cache)


def refuse_other_exports(folder: Path, asked: argparse.Namespace) -> None:
    """Raises InputError for flags that a finished artifact would have to be exported with."""
    manifest = reading.read(folder, check="quick").manifest
    hf_overrides, pooler_config = gathered(asked.hf_overrides), gathered(asked.pooler_config)
    flags = list(
        overrides.undone(manifest, hf_overrides, asked.convert or CONVERSIONS[asked.task], pooler_config)
    )
    flags += [f"--runner {asked.runner}"] if asked.runner not in (None, "auto", "pooling") else []
    flags += (
        [f"--revision {asked.revision}"] if asked.revision not in (None, manifest.source.revision) else []
    )
    if flags:
        raise InputError(
            f"{folder.name} is a finished artifact, exported without {', '.join(flags)}: export it "
            "with that, or give the checkpoint"
        )
    overrides.widened(manifest, hf_overrides)


def export_options(asked: argparse.Namespace) -> list[str]:
    values = {name: getattr(asked, name) for name in ("runner", "revision", "precision", "target")}
    values["convert"] = asked.convert or CONVERSIONS[asked.task]
    return options_of(
        values | {name: gathered(getattr(asked, name)) for name in ("hf_overrides", "pooler_config")}
    )

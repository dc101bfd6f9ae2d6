"""From command-line options to models: has checkpoints exported, opens artifacts."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.artifact import checkpoints, reading
from ...runtime.artifact.checkpoints import exported, options_of
from ...runtime.artifact.manifest import FILE
from ...runtime.errors import InputError
from ...runtime.loader import load
from ...runtime.model import Model
from ...runtime.store import stored
from ..models.adapters import AdapterExporter, Base, named_adapter
from ..models.artifact_loading import Open, change_unopened
from ..models.changes import Change
from ..models.registry import Registry, Served
from ..models.watching import WatchedFolder
from ..settings import Settings
from .argument_places import add_watched, resolved
from .exporting import artifact_of, export_options
from .options import Options

log = logging.getLogger("poolrt.serve")


@dataclass(frozen=True, slots=True)
class Models:
    """The models that a server is started with."""

    registry: Registry
    adapters: AdapterExporter | None = None
    """Makes models of LoRA adapters; None: LoRA is off."""
    artifacts: Open | None = None
    """Opens artifacts that come while the server runs; None: none may come."""
    watched: WatchedFolder | None = None
    """The folder whose artifacts are followed."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The artifacts of a command line, pulled and exported. Another process opens them as they are."""

    options: Options
    """With folders in the place of stored names and addresses, and with the artifacts of a watched folder."""
    folders: tuple[Path, ...]
    """The artifact of each argument."""
    aliases: dict[str, tuple[str, ...]]
    """Argument -> further names that requests may use."""
    names: dict[str, str]
    """Argument -> the name that it was given."""
    watched: WatchedFolder | None = None


def prepare(options: Options, settings: Settings, *, run: checkpoints.Run = checkpoints.call) -> Prepared:
    """Pulls addresses and exports checkpoints, which takes minutes. Raises InputError and what an export
    raises.

    Args:
        run: runs the program of an export.
    """
    options, aliases = resolved(options)
    names = dict(name.split("=", 1)[::-1] for name in options.served_model_name if "=" in name)
    if unknown := [path for path in names if path not in options.artifacts]:
        raise InputError(f"--served-model-name: {', '.join(unknown)} is none of the artifacts given")
    watched = None if settings.watch_folder is None else add_watched(options, names, settings.watch_folder)
    plugins_of(options)  # reports what is wrong before the export
    folders = tuple(artifact_of(argument, options, run) for argument in options.artifacts)
    return Prepared(options, folders, aliases, names, watched)


def models_of(options: Options, settings: Settings, *, run: checkpoints.Run = checkpoints.call) -> Models:
    """Every artifact of the command line under its names, and those of a watched folder; see `prepare`. Opens
    no model yet."""
    return models_from(prepare(options, settings, run=run), settings, run=run)


def models_from(
    prepared: Prepared,
    settings: Settings,
    changes: Sequence[Change] = (),
    *,
    run: checkpoints.Run = checkpoints.call,
) -> Models:
    """The models of artifacts under their names, not yet opened. Raises InputError, ArtifactError.

    Args:
        changes: that the other processes of this server have made since it was started.
        run: runs the export of an adapter.
    """
    options, folders = prepared.options, prepared.folders
    own = [name for name in options.served_model_name if "=" not in name]
    processors = plugins_of(options)
    served: list[Served] = []
    for index, (argument, folder) in enumerate(zip(options.artifacts, folders, strict=True)):
        names = [prepared.names[argument]] if argument in prepared.names else []
        if index == 0:
            names += own
        own_names = names_of(argument, folder)
        if not names:
            names = [own_names[0]]
        opening = functools.partial(
            opened, folder, options, settings, processors.get(argument), name=names[0]
        )
        aliases = dict.fromkeys((*own_names, *prepared.aliases.get(argument, ())))
        served.append(Served(names=tuple(names), open=opening, aliases=tuple(aliases)))
    adapters = None
    if options.lora_modules or options.enable_lora:
        adapters = adapters_of(options, settings, served, folders, run)
        served += [adapters.served(named_adapter(module)) for module in options.lora_modules]
    names = [name for model in served for name in dict.fromkeys(model.names)]
    twice = list(dict.fromkeys(name for name in names if names.count(name) > 1))
    if twice:
        raise InputError(
            f"two models would be called {', '.join(twice)}, and only the first could be asked for; tell "
            "them apart with --served-model-name NAME=ARTIFACT, and adapters with --lora-modules NAME=PATH"
        )
    watched = prepared.watched
    if watched is not None:
        watched.names = {
            folder.name: model.name
            for model, folder in zip(served, folders, strict=False)
            if folder.resolve().parent == watched.folder
        }
    registry = Registry(served, check_names=settings.check_model_name)
    artifacts = None
    if settings.watch_folder is not None or settings.artifact_loading:
        plugins = {
            model.name: processors[argument]
            for model, argument in zip(served, options.artifacts, strict=False)
            if argument in processors
        }
        artifacts = functools.partial(opened_later, options=options, settings=settings, plugins=plugins)
        change_unopened(registry, changes, artifacts, adapters)
    return Models(registry, adapters, artifacts, watched)


def adapters_of(
    options: Options,
    settings: Settings,
    served: Sequence[Served],
    folders: Sequence[Path],
    run: checkpoints.Run = checkpoints.call,
) -> AdapterExporter:
    """What makes models of LoRA adapters for the served models. Raises InputError."""
    if not options.enable_lora:
        raise InputError("--lora-modules needs --enable-lora", field="lora-modules")
    limit = max(
        (most for most in (options.max_loras, options.max_cpu_loras) if most is not None), default=None
    )
    if limit is not None and len(options.lora_modules) > limit:
        raise InputError(
            f"--lora-modules names {len(options.lora_modules)} adapters, --max-loras allows {limit}; "
            "raise it (each takes a model's memory)"
        )
    return AdapterExporter(
        [
            base_of(argument, options, base, folder)
            for argument, base, folder in zip(options.artifacts, served, folders, strict=True)
        ],
        export=functools.partial(exported, cache=options.cache, run=run),
        open=lambda folder: opened(folder, options, settings),
        limit=limit,
        most_rank=options.max_lora_rank,
    )


def base_of(argument: str, options: Options, served: Served, folder: Path) -> Base:
    """A served model and where its checkpoint is: the argument itself, or the hub id in its artifact."""
    if folder != Path(argument):
        return Base(served=served, folder=folder, source=argument, options=export_options(options))
    manifest = reading.read(folder, check="quick").manifest
    source = manifest.source
    flags = options_of(
        {
            "precision": manifest.graph("text").stored,
            "revision": source.revision,
            "subfolder": source.subfolder,
        }
        | {name: source.overrides.get(name) for name in ("convert", "hf_overrides", "pooler_config")}
    )
    # A hub id locates a checkpoint, the name of a folder does not.
    return Base(
        served=served,
        folder=folder,
        source=source.checkpoint if "/" in source.checkpoint else None,
        options=flags,
    )


def plugins_of(options: Options) -> dict[str, str]:
    """Artifact -> its IO processor. Raises InputError."""
    pairs = [
        (artifact or options.artifacts[0], name)
        for name, _, artifact in (value.partition("=") for value in options.io_processor_plugin)
    ]
    if unknown := [artifact for artifact, _ in pairs if artifact not in options.artifacts]:
        raise InputError(f"--io-processor-plugin: {', '.join(unknown)} is none of the artifacts given")
    if len(plugins := dict(pairs)) < len(pairs):
        raise InputError("--io-processor-plugin: an artifact has one plugin; give others as NAME=ARTIFACT")
    return plugins


def opened(
    folder: Path,
    options: Options,
    settings: Settings,
    plugin: str | None = None,
    *,
    name: str | None = None,
) -> Model:
    """The model of an artifact, opened with the options of the command line."""
    model = load(
        folder,
        engine_of(folder, options),
        threads=options.threads,
        max_batch_tokens=options.max_num_batched_tokens,
        max_queued_tokens=settings.max_queued_tokens,
        max_tokens=options.max_model_len,
        scheduling_policy=settings.scheduling_policy,
        io_processor_plugin=plugin,
        hf_overrides=options.hf_overrides if str(folder) in map(str, map(Path, options.artifacts)) else None,
        name=name,
        check=options.check,
        limit_mm_per_prompt=settings.media.limits,
        mm_processor_kwargs=processor_kwargs(folder, settings),
        mm_processor_cache_gb=settings.media.cache_bytes / 1024**3,
        response_cache_mb=options.response_cache_mb,
        enable_prefix_caching=options.enable_prefix_caching,
        prefix_cache_mb=options.prefix_cache_mb,
    )
    # The first access makes the plugin, also one that only the checkpoint names. So a missing one is reported
    # at the start.
    if model.plugin is not None:
        log.info("%s: IO processor %s", model.name, model.plugin.name)
    return model


def opened_later(
    folder: Path, name: str, *, options: Options, settings: Settings, plugins: dict[str, str]
) -> Model:
    """The model of an artifact that came while the server runs, opened as if the command line named it."""
    options = dataclasses.replace(options, artifacts=[str(folder)])
    return opened(folder, options, settings, plugins.get(name), name=name)


def engine_of(folder: Path, options: Options) -> str:
    """The name of the engine. For a finished artifact --precision is what its engine computes in: one
    precision, or with `auto` whichever is fastest, int8 included."""
    finished = any(Path(argument) == folder for argument in options.artifacts)
    if options.engine != "auto" or options.precision is None or not finished:
        return options.engine
    return f"auto:{'any' if options.precision == 'auto' else options.precision}"


def processor_kwargs(folder: Path, settings: Settings) -> dict[str, object] | None:
    """--mm-processor-kwargs for a model that reads pictures; it means nothing to the others."""
    kwargs = settings.media.processor_kwargs
    if not kwargs or reading.read(folder, check="quick").manifest.images is None:
        return None
    return kwargs


def names_of(argument: str, folder: Path) -> tuple[str, str]:
    """The name without --served-model-name (for a checkpoint the argument, as in vLLM, of a stored artifact
    the store's, else the artifact's own), and the artifact's own."""
    try:
        own = json.loads((folder / FILE).read_bytes())["name"]
    except (OSError, ValueError, KeyError, TypeError):
        own = folder.name  # opening it reports what is wrong
    if folder != Path(argument):
        return argument, own
    return folder.name if stored.holds(folder) else own, own

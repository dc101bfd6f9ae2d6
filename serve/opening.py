"""From command-line arguments to models: artifacts are opened, checkpoints exported first."""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..runtime import artifact
from ..runtime.errors import ArtifactError, CheckpointError, InputError
from ..runtime.manifest import FILE
from ..runtime.model import Model, load
from .adapters import Adapters, Base, module_of
from .cli import gathered
from .flags import CONVERSIONS
from .registry import Registry, Served
from .settings import Settings

log = logging.getLogger("poolrt.serve")

BOOTSTRAP = """
import sys, types
home = sys.argv.pop(1)
sys.modules.setdefault("poolrt", types.ModuleType("poolrt")).__path__ = [home]
from poolrt.runtime.cli import main
sys.exit(main(sys.argv[1:]))
"""


def registry_of(asked: argparse.Namespace, settings: Settings) -> Registry:
    """Every artifact of the command line under its names; exports checkpoints, which takes minutes, and opens nothing yet."""
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
            f"two models would be called {', '.join(twice)}, and only the first could be asked for; tell them apart with "
            "--served-model-name NAME=ARTIFACT, and adapters with --lora-modules NAME=PATH"
        )
    return Registry(served, check_names=settings.check_model_name, adapters=adapters)


def adapters_of(asked: argparse.Namespace, settings: Settings, served: Sequence[Served], folders: Sequence[Path]) -> Adapters:
    """What makes models of LoRA adapters of the served ones."""
    if not asked.enable_lora:
        raise InputError("--lora-modules needs --enable-lora", field="lora-modules")
    limit = max((most for most in (asked.max_loras, asked.max_cpu_loras) if most is not None), default=None)
    if limit is not None and len(asked.lora_modules) > limit:
        raise InputError(
            f"--lora-modules names {len(asked.lora_modules)} adapters, --max-loras allows {limit}; raise it (each takes a model's memory)"
        )
    return Adapters(
        [base_of(argument, asked, one, folder) for argument, one, folder in zip(asked.artifacts, served, folders, strict=True)],
        export=functools.partial(exported, cache=asked.cache),
        open=lambda folder: opened(folder, asked, settings),
        limit=limit,
        most_rank=asked.max_lora_rank,
    )


def base_of(argument: str, asked: argparse.Namespace, served: Served, folder: Path) -> Base:
    """Where the checkpoint of a served model is: on the command line, or on the hub where its artifact says so."""
    if folder != Path(argument):
        return Base(served=served, folder=folder, source=argument, options=export_options(asked))
    manifest = artifact.read(folder, check="quick").manifest
    source = manifest.source
    options = options_of(
        {"precision": manifest.graphs[0].precision, "revision": source.revision}
        | {name: source.overrides.get(name) for name in ("convert", "hf_overrides", "pooler_config")}
    )
    # A folder's name is not its place; a hub id is.
    return Base(served=served, folder=folder, source=source.checkpoint if "/" in source.checkpoint else None, options=options)


def plugins_of(asked: argparse.Namespace) -> dict[str, str]:
    """Artifact -> the IO processor given for it."""
    pairs = [(artifact or asked.artifacts[0], name) for name, _, artifact in (one.partition("=") for one in asked.io_processor_plugin)]
    if unknown := [artifact for artifact, _ in pairs if artifact not in asked.artifacts]:
        raise InputError(f"--io-processor-plugin: {', '.join(unknown)} is none of the artifacts given")
    if len(found := dict(pairs)) < len(pairs):
        raise InputError("--io-processor-plugin: an artifact has one plugin; give others as NAME=ARTIFACT")
    return found


def opened(
    folder: Path, asked: argparse.Namespace, settings: Settings, plugin: str | None = None, *, name: str | None = None
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
        name=name,
        check=asked.check,
    )
    if model.plugin is not None:  # made now, also where only the checkpoint names it: a missing one is told at the start
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
    path = Path(argument)
    if (path / FILE).is_file():
        neutral = {"runner": ("auto", "pooling"), "convert": ("auto",)}
        given = {name: getattr(asked, name) for name in ("hf_overrides", "convert", "pooler_config", "runner", "revision")}
        overrides = [name for name, value in given.items() if value and value not in neutral.get(name, ())]
        if overrides:
            flags = ", ".join("--" + name.replace("_", "-") for name in overrides)
            raise InputError(f"{path.name} is a finished artifact: {flags} are for exporting; give the checkpoint instead")
        return path
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "modules.json").is_file():
        raise ArtifactError(f"{argument}: neither an artifact ({FILE} is missing) nor a checkpoint (config.json is missing)")
    if not path.exists() and (argument.startswith((".", "/", "~")) or argument.count("/") > 1):
        raise ArtifactError(f"{argument}: no such folder")
    return exported(argument, export_options(asked), cache=asked.cache)


Run = Callable[[Sequence[str]], tuple[int, str]]
"""Runs a program to its end; answers its exit code, and what to tell if that is not 0."""


def call(program: Sequence[str]) -> tuple[int, str]:
    return subprocess.run(program, check=False).returncode, "see above"


def exported(source: str, options: Sequence[str], *, cache: Path | None, run: Run = call) -> Path:
    """The artifact of a checkpoint, from the cache when the same was asked for before. Torch lives in the other process only."""
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "poolrt" / "artifacts"
    adapter = options[options.index("--lora") + 1] if "--lora" in options else None
    states = [identity(source), *([] if adapter is None else [identity(adapter)])]
    key = hashlib.sha256(json.dumps([*states, list(options)]).encode()).hexdigest()[:12]
    name = f"{Path(source).name}-{key}"
    folder = cache / name
    if (folder / FILE).is_file():
        log.info("%s: exported before", source)
        return folder
    what = "is a checkpoint" if adapter is None else f"with the adapter {adapter}"
    log.info("%s %s: exporting it once, to serve it from then on", source, what)
    # A fresh interpreter: the exporter's libraries never enter the server's process. It imports the same poolrt, installed or not.
    program = [sys.executable, "-c", BOOTSTRAP, str(Path(__file__).parent.parent)]
    code, told = run([*program, "export", source, "--name", name, "--out", str(cache), *options])
    if code != 0 or not (folder / FILE).is_file():
        error = CheckpointError(f"{source}: exporting it failed (exit code {code}): {told}")
        error.exit_code = code or error.exit_code
        raise error
    return folder


def export_options(asked: argparse.Namespace) -> list[str]:
    values = {name: getattr(asked, name) for name in ("runner", "revision", "precision", "target")}
    values["convert"] = asked.convert or CONVERSIONS[asked.task]
    return options_of(values | {name: gathered(getattr(asked, name)) for name in ("hf_overrides", "pooler_config")})


def options_of(values: Mapping[str, Any]) -> list[str]:
    """Arguments of `poolrt export`; None and {} are left out."""
    options: list[str] = []
    for name, value in values.items():
        if value is not None and value != {}:
            options += [f"--{name.replace('_', '-')}", value if isinstance(value, str) else json.dumps(value, sort_keys=True)]
    return options


def identity(source: str) -> list[object]:
    """What tells one state of a checkpoint folder from another: names, sizes and times of its files."""
    path = Path(source)
    if not path.is_dir():
        return [source]
    files = sorted(one for one in path.rglob("*") if one.is_file())
    return [str(path.resolve()), *([str(one.relative_to(path)), one.stat().st_size, one.stat().st_mtime_ns] for one in files)]

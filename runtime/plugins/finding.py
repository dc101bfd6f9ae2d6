"""From a plugin's name to the plugin: entry points of installed packages, and those that come with poolrt."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
from collections.abc import Callable
from typing import Any

from ..artifact.manifest import Manifest
from ..errors import InputError
from ..inputs.preparation import Preparation
from .model_facts import Config, Renderer
from .plugin import Plugin

GROUPS = ("poolrt.io_processor_plugins", "vllm.io_processor_plugins")
"""An entry point is, as in vLLM, a function that returns a class or its dotted name. It may be the class
too."""

BUILT_IN = {
    "bge_m3_sparse_plugin": "bge_m3:BgeM3Processor",
    "colbert_query_plugin": "colbert:ColbertProcessor",
}
"""Registered name of vLLM's reference plugin -> ours."""


def opened(name: str, manifest: Manifest, preparation: Preparation) -> Plugin:
    """Returns the plugin of that name, opened for this artifact. Raises InputError for one that is not
    installed, cannot be imported or refuses the model."""
    processor_class = _class(name)
    config, renderer = Config.of(manifest, name), Renderer(preparation)
    try:
        processor = (
            processor_class(config, renderer) if _takes_two(processor_class) else processor_class(config)
        )
    except InputError:
        raise
    except Exception as error:  # other people's code
        raise InputError(
            f"{_argument(name)}: it refused to start ({_short(error)}); it may be made for another model"
        ) from error
    return Plugin(name, processor, config.model_config.embedding_size)


def _class(name: str) -> Callable[..., Any]:
    own, foreign = (
        {point.name: point for point in importlib.metadata.entry_points(group=group)} for group in GROUPS
    )
    point = own.get(name)
    if point is None and name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        return getattr(importlib.import_module(f".{module}", __package__), attribute)
    point = point or foreign.get(name)
    if point is None:
        known = ", ".join(sorted({*own, *BUILT_IN, *foreign}))
        raise InputError(
            f"{_argument(name)}: there is no such plugin, those installed are {known}; install the package "
            "that has it, in the environment of poolrt",
            field="io_processor_plugin",
        )
    try:
        loaded = point.load()
        if not inspect.isclass(loaded):
            loaded = loaded()
        processor_class = pkgutil.resolve_name(loaded) if isinstance(loaded, str) else loaded
    except Exception as error:  # other people's code
        raise InputError(
            f"{_argument(name)}: {point.value} cannot be imported ({_short(error)}); install what it needs, "
            "which is vLLM itself for plugins that import it",
            field="io_processor_plugin",
        ) from error
    if not callable(processor_class):
        raise InputError(
            f"{_argument(name)}: {point.value} answered {type(processor_class).__name__}, expected a class "
            "or its dotted name; mend the package that registers it",
            field="io_processor_plugin",
        )
    return processor_class


def _argument(name: str) -> str:
    return f"io_processor_plugin {name!r}"


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _takes_two(processor_class: Callable[..., Any]) -> bool:
    """Whether the class takes a renderer too: older plugins of vLLM take the configuration only."""
    try:
        inspect.signature(processor_class).bind(None, None)
    except TypeError:
        return False
    return True

"""Sentence Transformers' Router (router_config.json): the modules for queries, and those for documents."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...runtime.errors import CheckpointError
from ..base.json_file import json_file

NAMES = ("Router", "Asym")
STATIC = "SparseStaticEmbedding"
TRANSFORMERS = ("Transformer", "MLMTransformer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    """A table of weights by token, which makes the vectors of queries without a model."""

    folder: str
    """Folder of the SparseStaticEmbedding module, inside the checkpoint."""
    default: Literal["query", "document"] | None
    """The side of a text whose task is not stated; None: the library refuses such a text."""


def flattened(
    folder: Path, entries: Sequence[Mapping[str, Any]]
) -> tuple[Sequence[Mapping[str, Any]], Static | None]:
    """The entries of modules.json in which the documents' route replaces a Router, and the table for queries.

    Returns None as the table where queries take the same route. Raises CheckpointError for a Router whose two
    routes poolrt does not compute.
    """
    if not entries or _name(entries[0]) not in NAMES:
        return list(entries), None
    place = str(entries[0].get("path", ""))
    settings = _settings(folder / place)
    types, parameters = settings["types"], settings.get("parameters") or {}
    sides = {side: _route(folder, settings, side) for side in ("query", "document")}
    query, document = (
        [{"type": str(types[key]), "path": _joined(place, key)} for key in settings["structure"][route]]
        for route in sides.values()
    )
    if query == document:
        return [*document, *entries[1:]], None
    words, names = [_name(entry) for entry in query], [_name(entry) for entry in document]
    if words != [STATIC] or names[0] not in TRANSFORMERS or names[-1] != "SpladePooling" or len(entries) > 1:
        behind = f", both then through {' → '.join(map(_name, entries[1:]))}" if len(entries) > 1 else ""
        raise CheckpointError(
            f"{folder.name}: a Router sends queries through {' → '.join(words)} and documents through "
            f"{' → '.join(names)}{behind}; poolrt computes one route for both, or queries of a {STATIC} "
            "beside documents of a transformer and a SpladePooling; save each route as a model of its own"
        )
    default: object = parameters.get("default_route")
    if default is None and parameters.get("allow_empty_key", True):
        default = next(iter(settings["structure"]))
    side = "query" if default == sides["query"] else "document" if default == sides["document"] else None
    return document, Static(folder=str(query[0]["path"]), default=side)


def _settings(home: Path) -> Mapping[str, Any]:
    """A Router's settings. Raises CheckpointError for files that the library could not have written."""
    path = home / "router_config.json"
    # Versions before 5 write config.json.
    settings = json_file(path if path.is_file() else home / "config.json", dict)
    types, structure = settings.get("types"), settings.get("structure")
    if not isinstance(types, dict) or not isinstance(structure, dict) or not structure:
        raise CheckpointError(f"{path}: expected `types` (module → class) and `structure` (route → modules)")
    for route, keys in structure.items():
        if not isinstance(keys, list) or not keys or any(key not in types for key in keys):
            raise CheckpointError(f"{path}: route {route!r} is {keys!r}; expected names of `types`")
    outside = [key for key in types if Path(key).is_absolute() or ".." in Path(key).parts]
    if outside:
        raise CheckpointError(f"{path}: paths leave the folder: {', '.join(outside)}")
    return settings


def _route(folder: Path, settings: Mapping[str, Any], side: str) -> str:
    """The route of a text on one side, by the library's order of precedence."""
    structure, parameters = settings["structure"], settings.get("parameters") or {}
    mapped = {_key(key): str(route) for key, route in (parameters.get("route_mappings") or {}).items()}
    for key in ((side, "text"), (side, None), (None, "text"), (None, None)):
        if (route := mapped.get(key)) in structure:
            return str(route)
    route = next((name for name in (side, "text") if name in structure), None)
    if route is None:
        raise CheckpointError(
            f"{folder.name}: the Router has no route for a {side} of text, it has {', '.join(structure)}"
        )
    return route


def _key(text: str) -> tuple[Any, Any] | None:
    """The pair that the file spells as `('query', None)`; None for other texts, which the library skips."""
    try:
        pair = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return pair if isinstance(pair, tuple) and len(pair) == 2 else None


def _joined(place: str, key: str) -> str:
    return "/".join(part for part in (place, key) if part)


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("type", "")).rsplit(".", 1)[-1]

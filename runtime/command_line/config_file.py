"""`--config FILE`: values of flags by their names, in YAML, JSON or TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import extras
from ..errors import InputError
from .flags import Argument, Flag, Value
from .spelling import dashed, meant, names


def read(path: Path, values: Iterable[Value]) -> dict[str, Any]:
    """What a file sets, by the keys of the values. Raises InputError for a file that cannot be read,
    and for a name that the command does not have."""
    values = list(values)
    table = names(values)
    positionals = {
        alias: value
        for value in values
        if isinstance(value.declaration, Argument)
        for alias in value.declaration.config
    }
    settings: dict[str, Any] = {}
    for written, content in content_of(path).items():
        name = dashed(str(written))
        if name in positionals:
            settings[positionals[name].key] = content
            continue
        value, negative = table.get(name, (None, False))
        if value is None:
            message = f"--config {path.name}: {written} is no flag{meant(name, table, dashes='')}"
            raise InputError(message, field="config")
        if content is not None:
            settings[value.key] = not content if negative and isinstance(content, bool) else content
    return settings


def content_of(path: Path) -> Mapping[str, Any]:
    """Raises InputError for a file that cannot be read, or holds no names and values."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        message = f"--config {path.name}: not readable ({type(error).__name__})"
        raise InputError(message, field="config") from None
    try:
        if path.suffix == ".toml":
            content: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            content = json.loads(text)
        else:
            content = _yaml(text)
    except ValueError as error:
        raise InputError(f"--config {path.name}: {error}", field="config") from None
    if not isinstance(content, dict):
        message = f"--config {path.name}: expected `name: value` lines, found {type(content).__name__}"
        raise InputError(message, field="config")
    return content


def texts_of(value: Value, content: Any, where: str) -> list[str] | bool:
    """The content of a file as texts of the command line, or as a switch. Raises InputError."""
    if value.kind == "switch":
        if not isinstance(content, bool):
            raise InputError(f"{where} is {content!r}, expected true or false", field=value.name)
        return content
    if value.kind == "several":
        entries = content if isinstance(content, list) else [content]
        return [entry if isinstance(entry, str) else json.dumps(entry, default=str) for entry in entries]
    ignored = isinstance(value.declaration, Flag) and value.declaration.ignored
    if isinstance(content, bool) and not ignored:
        raise InputError(
            f"{where} is {json.dumps(content)}, expected a value; quote a text", field=value.name
        )
    return [json.dumps(content, default=str) if isinstance(content, dict | list) else str(content)]


def _yaml(text: str) -> Any:
    """Reads a YAML text with PyYAML, as vLLM does. Raises ValueError with the line that is not YAML."""
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise extras.missing(error, "serve") or error from None
    try:
        return yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        place = f"line {error.problem_mark.line + 1}: " if error.problem_mark is not None else ""
        raise ValueError(f"{place}not YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"not YAML: {' '.join(str(error).split())[:200] or 'nested too deeply'}") from None

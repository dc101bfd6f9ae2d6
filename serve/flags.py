"""The spellings of flags that `vllm serve` takes: dashes or underscores, `--no-` forms, JSON objects with
dotted keys, values from a file.

`normalised` turns all of these into one plain spelling. `IGNORED` are vLLM's flags that have no meaning for
artifacts. They are accepted with a note, so that a command line ports by changing the program's name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import extras
from ..runtime.errors import InputError
from ..runtime.json_objects import inlined

JSON_FLAGS = (
    "hf-overrides",
    "pooler-config",
    "default-chat-template-kwargs",
    "limit-mm-per-prompt",
    "mm-processor-kwargs",
    "media-io-kwargs",
)
"""`--hf-overrides.num_labels 1` means `--hf-overrides '{"num_labels": 1}'`."""

IGNORED: dict[str, int] = {
    # flag -> values it takes
    "tokenizer-mode": 1, "trust-remote-code": 0, "dtype": 1, "seed": 1, "code-revision": 1, "load-format": 1,
    "download-dir": 1, "enforce-eager": 0, "renderer-num-workers": 1, "model-impl": 1, "config-format": 1,
    "enable-offline-docs": 0, "log-error-stack": 0, "api-server-count": 1, "enable-flash-late-interaction": 0,
    "no-enable-flash-late-interaction": 0, "mm-processor-cache-type": 1, "mm-encoder-tp-mode": 1,
    "skip-mm-profiling": 0, "no-skip-mm-profiling": 0, "max-num-seqs": 1, "enable-chunked-prefill": 0,
    "no-enable-chunked-prefill": 0,
    "gpu-memory-utilization": 1, "tensor-parallel-size": 1, "pipeline-parallel-size": 1,
    "data-parallel-size": 1, "lora-dtype": 1, "fully-sharded-loras": 0, "swap-space": 1, "kv-cache-dtype": 1,
    "block-size": 1, "max-num-partial-prefills": 1, "disable-log-requests": 0, "compilation-config": 1,
    "optimization-level": 1, "disable-frontend-multiprocessing": 0, "collect-detailed-traces": 1,
}  # fmt: skip

RENAMED = {"override-pooler-config": "pooler-config"}
"""Older vLLM's names of flags."""

END_OF_VALUES = "end-of-values"
"""A flag without effect that ends a list from a file: an artifact behind it is not read as a value."""

REPEATED = frozenset({"middleware"})
"""Flags that are repeated for each value of a list."""


def normalised(arguments: Sequence[str]) -> list[str]:
    """The arguments in the one spelling that the parser knows.

    Flag names have dashes for underscores, and each dotted JSON flag is one JSON value in its place. The
    flags of `--config FILE` stand in front, so that flags of the command line win. Raises InputError.
    """
    plain: list[str] = []
    rest = iter(inlined(arguments, json_flag))
    for argument in rest:
        if argument == "--":
            return [*plain, argument, *rest]
        if not argument.startswith("--"):
            plain.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        head, dot, path = name.partition(".")
        head = spelled(head)
        if head != "config":
            plain.append(f"--{head}{dot}{path}{equals}{value}")
            continue
        file = value if equals else next(rest, None)
        if file is None:
            raise InputError(f"{argument} needs a value", field=argument)
        plain = [*from_file(Path(file)), *plain]
    return plain


def json_flag(name: str) -> str | None:
    """A flag of JSON_FLAGS as the parser knows it; None for other flags."""
    flag = spelled(name[2:])
    return f"--{flag}" if flag in JSON_FLAGS else None


def spelled(name: str) -> str:
    """Returns a flag's name as the parser knows it."""
    dashed = name.replace("_", "-")
    return RENAMED.get(dashed, dashed)


def from_file(path: Path) -> list[str]:
    """Returns the flags that a configuration file (YAML, JSON or TOML) sets. Raises InputError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        text = f"--config {path.name}: not readable ({type(error).__name__})"
        raise InputError(text, field="config") from None
    try:
        if path.suffix == ".toml":
            content: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            content = json.loads(text)
        else:
            content = from_yaml(text)
    except ValueError as error:
        raise InputError(f"--config {path.name}: {error}", field="config") from None
    if not isinstance(content, dict):
        text = f"--config {path.name}: expected `name: value` lines, found {type(content).__name__}"
        raise InputError(text, field="config")
    flags: list[str] = []
    for name, value in content.items():
        flag = f"--{spelled(str(name))}"
        if name in ("model", "artifacts"):
            flags += [value] if isinstance(value, str) else [str(artifact) for artifact in value]
        elif value is True:
            flags.append(flag)
        elif value is False:
            flags.append(f"--no-{flag[2:]}")
        elif isinstance(value, list):
            if flag[2:] in REPEATED:
                flags += [argument for entry in value for argument in (flag, str(entry))]
                continue
            flags += [
                flag,
                *(entry if isinstance(entry, str) else json.dumps(entry, default=str) for entry in value),
                f"--{END_OF_VALUES}",
            ]
        elif isinstance(value, dict):
            flags += [flag, json.dumps(value, default=str)]
        elif value is not None:
            flags += [flag, str(value)]
    return flags


def from_yaml(text: str) -> Any:
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

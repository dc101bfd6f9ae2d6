"""Flags as `vllm serve` takes them: dashes or underscores, `--no-` forms, JSON objects spelled with dotted
keys, values from a file.

`normalised` turns all of these into one plain spelling; `IGNORED` are vLLM's flags that have no meaning for
artifacts: they are accepted with a note, so that a command line ports by changing the program's name.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..runtime import extras
from ..runtime.errors import InputError
from ..runtime.json_objects import dotted

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
    "download-dir": 1,
    "enforce-eager": 0, "renderer-num-workers": 1, "model-impl": 1, "config-format": 1,
    "enable-offline-docs": 0, "log-error-stack": 0,
    "api-server-count": 1,
    "enable-flash-late-interaction": 0, "no-enable-flash-late-interaction": 0, "limit-mm-per-prompt": 1,
    "mm-processor-kwargs": 1,
    "media-io-kwargs": 1, "allowed-local-media-path": 1, "allowed-media-domains": 1,
    "mm-processor-cache-gb": 1,
    "interleave-mm-strings": 0, "max-num-seqs": 1, "enable-chunked-prefill": 0,
    "no-enable-chunked-prefill": 0,
    "enable-prefix-caching": 0, "no-enable-prefix-caching": 0, "gpu-memory-utilization": 1,
    "tensor-parallel-size": 1,
    "pipeline-parallel-size": 1, "data-parallel-size": 1, "lora-dtype": 1, "fully-sharded-loras": 0,
    "swap-space": 1, "kv-cache-dtype": 1, "block-size": 1, "max-num-partial-prefills": 1,
    "disable-log-requests": 0,
    "compilation-config": 1, "optimization-level": 1, "disable-frontend-multiprocessing": 0,
}  # fmt: skip

RENAMED = {"override-pooler-config": "pooler-config"}
"""Older vLLM's names of flags."""

END_OF_VALUES = "end-of-values"
"""A flag without effect behind the values of a list in a file: an artifact that follows is none of them."""

REPEATED = frozenset({"middleware"})
"""Flags that are given once for each value."""


def normalised(arguments: Sequence[str]) -> list[str]:
    """Dashes for underscores in flag names, dotted JSON flags gathered into one JSON value each, `--config
    FILE` replaced by what the file says (flags given on the command line win, as they come later)."""
    plain: list[str] = []
    given = list(arguments)
    while given:
        argument = given.pop(0)
        if argument == "--":
            return [*plain, argument, *given]
        if not argument.startswith("--"):
            plain.append(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        head, dot, path = name.partition(".")
        head = spelled(head)
        if head == "config":
            path_of_file = value if equals else _next(given, argument)
            plain = [*from_file(Path(path_of_file)), *plain]
        elif dot and head in JSON_FLAGS:
            value = value if equals else _next(given, argument)
            plain += [f"--{head}", json.dumps(dotted(path, value))]
        else:
            plain.append(f"--{head}{dot}{path}{equals}{value}")
    return plain


def spelled(name: str) -> str:
    """A flag's name as the parser knows it."""
    dashed = name.replace("_", "-")
    return RENAMED.get(dashed, dashed)


def _next(given: list[str], argument: str) -> str:
    if not given:
        raise InputError(f"{argument} needs a value", field=argument)
    return given.pop(0)


def from_file(path: Path) -> list[str]:
    """The flags a configuration file stands for: YAML, JSON or TOML."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            (f"--config {path.name}: not readable ({type(error).__name__})"), field="config"
        ) from None
    try:
        if path.suffix == ".toml":
            found: Any = tomllib.loads(text)
        elif path.suffix == ".json":
            found = json.loads(text)
        else:
            found = from_yaml(text)
    except ValueError as error:
        raise InputError(f"--config {path.name}: {error}", field="config") from None
    if not isinstance(found, dict):
        raise InputError(
            (f"--config {path.name}: expected `name: value` lines, found {type(found).__name__}"),
            field="config",
        )
    made: list[str] = []
    for name, value in found.items():
        flag = f"--{spelled(str(name))}"
        if name in ("model", "artifacts"):
            made += [value] if isinstance(value, str) else [str(one) for one in value]
        elif value is True:
            made.append(flag)
        elif value is False:
            made.append(f"--no-{flag[2:]}")
        elif isinstance(value, list):
            if flag[2:] in REPEATED:
                made += [part for one in value for part in (flag, str(one))]
                continue
            made += [
                flag,
                *(one if isinstance(one, str) else json.dumps(one, default=str) for one in value),
                f"--{END_OF_VALUES}",
            ]
        elif isinstance(value, dict):
            made += [flag, json.dumps(value, default=str)]
        elif value is not None:
            made += [flag, str(value)]
    return made


def from_yaml(text: str) -> Any:
    """What PyYAML, and so vLLM, reads. Raises ValueError that says where it cannot."""
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

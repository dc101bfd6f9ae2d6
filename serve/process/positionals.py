"""Artifacts that argparse took for values of a flag: `--api-key k1 ARTIFACT` is one key and one artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("api-key", "served-model-name", "lora-modules", "io-processor-plugin", "allowed-media-domains")


def give_back(options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Moves values of `FLAGS` to `options.artifacts`.

    It moves values that cannot belong to their flag. Where there is no artifact then, it moves the last
    values of the last flag on the command line.
    """
    _move(
        options,
        "lora-modules",
        [value for value in options.lora_modules if "=" not in value and not value.startswith("{")],
    )
    _move(options, "api-key", [value for value in options.api_key[1:] if _is_model(value)])
    _move(
        options,
        "allowed-media-domains",
        [value for value in options.allowed_media_domains if "/" in value or _is_model(value)],
    )
    if options.artifacts:
        return
    for name in sorted(FLAGS, key=lambda name: _place(arguments, name), reverse=True):
        values = list(getattr(options, name.replace("-", "_"), ()))
        if _place(arguments, name) >= 0 and len(values) > 1:
            _move(options, name, [value for value in values[1:] if _is_model(value)] or values[-1:])
            return


def _move(options: argparse.Namespace, name: str, values: Sequence[str]) -> None:
    if values:
        kept = list(getattr(options, name.replace("-", "_")))
        for value in values:
            del kept[len(kept) - 1 - kept[::-1].index(value)]
        setattr(options, name.replace("-", "_"), kept)
        options.artifacts = [*options.artifacts, *values]


def _is_model(value: str) -> bool:
    """Whether it is the folder of an artifact or a checkpoint."""
    return any((Path(value) / file).is_file() for file in ("manifest.json", "config.json", "modules.json"))


def _place(arguments: Sequence[str], name: str) -> int:
    return max((place for place, argument in enumerate(arguments) if argument == f"--{name}"), default=-1)

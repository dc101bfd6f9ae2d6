"""Artifacts that a flag of several values swallowed: `--api-key k1 ARTIFACT` is one key and one artifact."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

FLAGS = ("api-key", "served-model-name", "lora-modules", "io-processor-plugin")


def give_back(asked: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Moves values of such flags to `artifacts`: what cannot be one of the flag's, and where no artifact is
    left, the last values of the flag that stands last."""
    _move(
        asked,
        "lora-modules",
        [value for value in asked.lora_modules if "=" not in value and not value.startswith("{")],
    )
    _move(asked, "api-key", [value for value in asked.api_key[1:] if _is_model(value)])
    if asked.artifacts:
        return
    for name in sorted(FLAGS, key=lambda name: _place(arguments, name), reverse=True):
        values = list(getattr(asked, name.replace("-", "_"), ()))
        if _place(arguments, name) >= 0 and len(values) > 1:
            _move(asked, name, [value for value in values[1:] if _is_model(value)] or values[-1:])
            return


def _move(asked: argparse.Namespace, name: str, values: Sequence[str]) -> None:
    if values:
        kept = list(getattr(asked, name.replace("-", "_")))
        for value in values:
            del kept[len(kept) - 1 - kept[::-1].index(value)]
        setattr(asked, name.replace("-", "_"), kept)
        asked.artifacts = [*asked.artifacts, *values]


def _is_model(value: str) -> bool:
    """Whether it is the folder of an artifact or a checkpoint."""
    return any((Path(value) / file).is_file() for file in ("manifest.json", "config.json", "modules.json"))


def _place(arguments: Sequence[str], name: str) -> int:
    return max((place for place, argument in enumerate(arguments) if argument == f"--{name}"), default=-1)

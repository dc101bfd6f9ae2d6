"""Artifacts that were read as values of a flag: `--api-key k1 ARTIFACT` is one key and one artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FLAGS = ("api-key", "served-model-name", "lora-modules", "io-processor-plugin", "allowed-media-domains")


def give_back(values: dict[str, Any], places: Mapping[str, int]) -> None:
    """Moves values of `FLAGS` that the command line has to `values["artifacts"]`.

    It moves values that cannot belong to their flag. Where there is no artifact then, it moves the last
    values of the last flag on the command line.

    Args:
        places: flag -> where it stands on the command line, for those that stand there.
    """
    for name, is_other in (
        ("lora-modules", lambda value: "=" not in value and not value.startswith("{")),
        ("api-key", _is_model),
        ("allowed-media-domains", lambda value: "/" in value or _is_model(value)),
    ):
        if name in places:
            first = 1 if name == "api-key" else 0
            _move(values, name, [value for value in _of(values, name)[first:] if is_other(value)])
    if values["artifacts"]:
        return
    for name in sorted(FLAGS, key=lambda name: places.get(name, -1), reverse=True):
        own = _of(values, name)
        if name in places and len(own) > 1:
            _move(values, name, [value for value in own[1:] if _is_model(value)] or own[-1:])
            return


def _of(values: Mapping[str, Any], name: str) -> list[str]:
    return list(values[name.replace("-", "_")] or ())


def _move(values: dict[str, Any], name: str, moved: Sequence[str]) -> None:
    if moved:
        kept = _of(values, name)
        for value in moved:
            del kept[len(kept) - 1 - kept[::-1].index(value)]
        values[name.replace("-", "_")] = kept
        values["artifacts"] = [*values["artifacts"], *moved]


def _is_model(value: str) -> bool:
    """Whether it is the folder of an artifact or a checkpoint."""
    return any((Path(value) / file).is_file() for file in ("manifest.json", "config.json", "modules.json"))

"""A checkpoint's config.json, read and checked for the shape of the few keys that decide what is exported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...runtime.artifact import other_formats
from ...runtime.errors import CheckpointError
from ..base.json_file import json_file
from ..base.refusals import shortened
from . import adapter, plausible, source

FILE = "config.json"


def read(folder: Path, location: str = "") -> dict[str, Any]:
    """The file in `folder`. Raises CheckpointError that says what the folder holds instead.

    `location`: as the user named the checkpoint; empty: as a folder.
    """
    path = folder / FILE
    if path.is_file():
        return _decoded(json_file(path, dict))
    if (folder / adapter.SETTINGS).is_file():
        trained = json_file(folder / adapter.SETTINGS, dict).get("base_model_name_or_path") or "CHECKPOINT"
        raise CheckpointError(
            f"{folder}: a LoRA adapter, not a checkpoint; give what it was trained on: poolrt export "
            f"{trained} --lora {folder}"
        )
    if inner := source.checkpoints_in(folder):
        raise CheckpointError(
            f"{location or folder}: no config.json, but checkpoints in folders of their own; give "
            f"--subfolder {' or '.join(inner[: source.NAMED])}"
        )
    present = sorted(entry.name for entry in folder.iterdir())[:5] if folder.is_dir() else []
    content = other_formats.of_folder(folder) or f"it holds {', '.join(present) or 'nothing'}"
    raise CheckpointError(f"{folder}: not a checkpoint: no config.json ({content})")


def _decoded(value: Any) -> Any:
    """`value` with the infinities that transformers writes as `{"__float__": "Infinity"}`."""
    if isinstance(value, dict):
        return (
            float(value["__float__"])
            if set(value) == {"__float__"}
            else {key: _decoded(inner) for key, inner in value.items()}
        )
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value


def checked(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, overrides included, with `architectures` as a list and `id2label` as row -> name.

    Raises CheckpointError for a key of another shape, and for a count that no model has.
    """
    path, names, labels = folder / FILE, config.get("architectures"), config.get("id2label")
    if not config.get("model_type") and not names:
        raise CheckpointError(
            f"{path}: neither model_type nor architectures; not a transformers checkpoint, "
            'or one that needs --hf-overrides \'{"model_type": "..."}\''
        )
    if config.get("model_type") is not None and not isinstance(config["model_type"], str):
        raise CheckpointError(
            f"{path}: model_type is {shortened(config['model_type'])}, expected a name such as 'bert'"
        )
    plausible.check_counts(path, config)
    names = [names] if isinstance(names, str) else names
    if names is not None and (
        not isinstance(names, list) or not all(isinstance(name, str) for name in names)
    ):
        raise CheckpointError(f"{path}: architectures is {shortened(names)}, expected a list of class names")
    if isinstance(labels, list):  # in the order of the rows
        labels = {str(index): label for index, label in enumerate(labels)}
    if labels is not None and not (
        isinstance(labels, dict) and all(str(index).isdecimal() for index in labels)
    ):
        raise CheckpointError(
            f"{path}: id2label is {shortened(labels)}, expected row -> name, or a list of names"
        )
    changed = {"architectures": names, "id2label": labels}
    return {**config, **{key: value for key, value in changed.items() if key in config}}

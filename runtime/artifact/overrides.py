"""Overrides of a finished artifact: those that its export has followed already, and those that change no
graph (Matryoshka widths).

Everything else was decided at export. `undone` reports it, with the option that exports the artifact so.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InputError
from .manifest import Manifest

WIDTHS = ("is_matryoshka", "matryoshka_dimensions")
CONVERTED: dict[str, tuple[str, ...]] = {
    "embed": ("embed", "token_embed"), "reward": ("embed", "token_embed", "token_classify"),
    "classify": ("classify", "token_classify"),
}  # fmt: skip
"""convert -> tasks; a model that was converted so has one of them as its first."""


def undone(
    manifest: Manifest, hf_overrides: Mapping[str, Any], convert: str | None, pooler_config: Mapping[str, Any]
) -> Iterator[str]:
    """The options of `poolrt export` that the artifact would need for these overrides."""
    done = manifest.source.overrides
    if convert not in (None, "auto", "none", done.get("convert")) and manifest.tasks[0] not in CONVERTED.get(
        str(convert), ()
    ):
        yield f"--convert {convert}"
    if new := {key: value for key, value in hf_overrides.items() if not _has(manifest, key, value)}:
        yield f"--hf-overrides {shlex.quote(json.dumps(new, default=str))}"
    if new := {key: value for key, value in pooler_config.items() if not _pools(manifest, key, value)}:
        yield f"--pooler-config {shlex.quote(json.dumps(new, default=str))}"


def widened(manifest: Manifest, hf_overrides: Mapping[str, Any]) -> Manifest:
    """The manifest with the Matryoshka widths of `hf_overrides`. Raises InputError for widths that the model
    does not have."""
    if not set(WIDTHS) & set(hf_overrides):
        return manifest
    widths, whole = hf_overrides.get("matryoshka_dimensions"), hf_overrides.get("is_matryoshka", False)
    if not isinstance(whole, bool):
        raise InputError(
            f"hf_overrides: is_matryoshka is {whole!r}, expected true or false", field="hf_overrides"
        )
    heads = {
        task: head
        for task, head in manifest.heads.items()
        if task in ("embed", "token_embed") and not head.sparse
    }
    if not heads:
        raise InputError(
            "hf_overrides: this model answers no dense vectors, so none that could be shortened",
            field="hf_overrides",
        )
    dim = heads.get("embed", next(iter(heads.values()))).dim
    if widths is None:
        ladder: dict[str, Any] = {"matryoshka": (), "any_dimension": whole}
    elif isinstance(widths, list | tuple) and widths and all(_is_width(width, dim) for width in widths):
        ladder = {"matryoshka": tuple(sorted(widths)), "any_dimension": False}
    else:
        raise InputError(
            f"hf_overrides: matryoshka_dimensions is {widths!r}, expected widths from 1 to the model's {dim}",
            field="hf_overrides",
        )
    return replace(
        manifest, heads={**manifest.heads, **{task: replace(head, **ladder) for task, head in heads.items()}}
    )


def _is_width(width: Any, dim: int) -> bool:
    return isinstance(width, int) and not isinstance(width, bool) and 1 <= width <= dim


def _has(manifest: Manifest, key: str, value: Any) -> bool:
    """Whether the artifact follows an override already, or can without another graph."""
    exported = manifest.source.overrides.get("hf_overrides")
    if key in WIDTHS or (isinstance(exported, Mapping) and key in exported and exported[key] == value):
        return True
    if key == "architectures" and list(value or ()) == [manifest.architecture]:
        return True
    return key in manifest.config and manifest.config[key] == value


def _pools(manifest: Manifest, key: str, value: Any) -> bool:
    """Whether the artifact already has this setting of a pooler_config."""
    exported = manifest.source.overrides.get("pooler_config")
    if isinstance(exported, Mapping) and key in exported and exported[key] == value:
        return True
    head = manifest.heads[manifest.tasks[0]]
    if key in ("pooling_type", "seq_pooling_type", "tok_pooling_type"):
        return str(value).upper() == {"tokens": "ALL"}.get(head.pool, head.pool.upper())
    if key == "task":
        return value in manifest.tasks
    if key == "use_activation":
        return value is (head.activation != "identity")
    return key == "dimensions" and value == head.dimensions

"""Ops-ColQwen3 (OpenSearch-AI/Ops-Colqwen3-4B): late interaction of pages, with a projection whose first
`dims` values are normalised."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...runtime.artifact.manifest import Role
from ..files.recipe import template
from ._qwen3_vl import PROJECTION, family
from .registry import Architecture, Config

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files


def adapt(family: Architecture, config: Config) -> Architecture:
    """The projection's first `dims` rows; all of them where config.json states as many or none."""
    dims = config.get("dims")
    if not isinstance(dims, int) or isinstance(dims, bool) or not 0 < dims < int(config["hidden_size"]):
        return family
    return replace(family, projection=(replace(PROJECTION, rows=tuple((row,) for row in range(dims))),))


def roles(_: Files) -> dict[str, Role]:
    return {side: Role(template=template(f"colqwen3_ops_{side}.jinja")) for side in ("query", "document")}


ARCHITECTURE = family(
    model_types=("ops_colqwen3",),
    names=("OpsColQwen3Model", "OpsColQwen3"),
    projection=(PROJECTION,),
    late_interaction=True,
    adapt=adapt,
    roles=roles,
)

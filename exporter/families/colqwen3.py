"""ColQwen3 by Tomoro (TomoroAI/tomoro-colqwen3-embed-4b): late interaction of pages, with a projection of
Qwen3-VL's hidden states that has a bias."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.artifact.manifest import Role
from ..files.recipe import template
from ._qwen3_vl import PROJECTION, family, with_setting

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files

FILE = "colqwen3_tomoro.jinja"


def roles(files: Files) -> dict[str, Role]:
    """Query and document alike: the processor decides by whether there is a picture."""
    written = with_setting(files, template(FILE), "query_prefix", stored="query_prefix", default="")
    role = Role(template=written)
    return {"query": role, "document": role}


ARCHITECTURE = family(
    model_types=("colqwen3",),
    names=("ColQwen3", "ColQwen3Model"),
    projection=(PROJECTION,),
    late_interaction=True,
    roles=roles,
)

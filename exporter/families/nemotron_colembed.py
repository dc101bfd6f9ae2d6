"""Nemotron ColEmbed VL v2 (nvidia/nemotron-colembed-vl-4b-v2): late interaction of pages, with attention both
ways and hidden states from before the last norm.

Its authors take `hidden_states[-1]` of transformers 4.57, which comes before that norm. There is no
projection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.artifact.manifest import Role
from ..files.pictures import processor
from ..files.recipe import template
from ._qwen3_vl import family, with_setting

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files


def roles(files: Files) -> dict[str, Role]:
    """A prompt for each side, each cut at the processor's limit. Of a page, what is cut is its text."""
    settings = processor.processor(files.source, files.inner)
    written = {
        side: with_setting(
            files,
            template(f"nemotron_colembed_{side}.jinja"),
            "prefix",
            stored=f"{name}_prefix",
            default=f"{name}:",
        )
        for side, name in (("query", "query"), ("document", "passage"))
    }
    return {
        "query": Role(template=written["query"], max_tokens=settings.number("q_max_length", 512)),
        "document": Role(template=written["document"], max_tokens=settings.number("p_max_length", 4096)),
    }


ARCHITECTURE = family(
    model_types=("qwen3_vl_nemotron_embed",),
    names=("Qwen3VLNemotronEmbedModel",),
    causal=False,
    normed=False,
    videos=False,
    late_interaction=True,
    roles=roles,
)

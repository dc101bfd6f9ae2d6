"""voyageai/voyage-4-nano: Qwen3 with attention both ways, and a linear layer on every token before the mean.

The layer has no bias, so the graph applies it to the mean instead, which gives the same vector for less work.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._decoders import family, load
from .registry import Config, Layer

NAME = "VoyageQwen3BidirectionalEmbedModel"


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return NAME in (config.get("architectures") or ()) or bool(
        config.get("use_bidirectional_attention") and "linear.weight" in shapes
    )


ARCHITECTURE = family(
    model_types=("qwen3",),
    stem="VoyageQwen3Bidirectional",
    names=(NAME,),
    load=lambda files: load(files, "Qwen3Model", is_causal=False),
    matches=matches,
    pool="mean",
    settings=("use_bidirectional_attention",),
    projection=(Layer(name="linear", bias=False),),
)

"""voyageai/voyage-4-nano: Qwen3 that attends both ways, and a linear layer on every
token in front of the mean.

The layer has no bias, so the mean of its outputs is its output for the mean; the graph
takes the cheaper order.
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

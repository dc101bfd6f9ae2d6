"""Llama that attends both ways: nvidia/llama-nemotron-embed-1b-v2 and -rerank-1b-v2.

config.json's `pooling` decides; the reranker divides its logit by `temperature`, as its authors'
code does and vLLM does not.
"""

from __future__ import annotations

from dataclasses import replace

from ...runtime.artifact.manifest import Pool
from ...runtime.errors import CheckpointError
from ._decoders import SCORE, family, load
from .registry import Architecture, Classifier, Config

POOLS: dict[str, Pool] = {"avg": "mean", "cls": "cls", "last": "last"}


def adapt(architecture: Architecture, config: Config) -> Architecture:
    asked = config.get("pooling")
    if asked not in POOLS:
        raise CheckpointError(
            f"config.json: pooling {asked!r} of a bidirectional Llama; expected one of {', '.join(POOLS)}"
        )
    pool = POOLS[asked]
    return replace(
        architecture,
        pool=pool,
        sequence=Classifier(pool=pool, layers=SCORE, tokens=SCORE, sigma_key="temperature"),
    )


ARCHITECTURE = family(
    model_types=("llama_bidirec",),
    stem="LlamaBidirectional",
    load=lambda files: load(files, "LlamaModel", model_type="llama", is_causal=False),
    adapt=adapt,
)

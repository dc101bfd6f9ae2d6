"""Llama with attention both ways: nvidia/llama-nemotron-embed-1b-v2 and -rerank-1b-v2.

config.json's `pooling` decides the pooling. The reranker's logit is divided by `temperature`, as by its
authors' code; vLLM does not divide it.
"""

from __future__ import annotations

from dataclasses import replace

from ...runtime.artifact.manifest import Pool
from ...runtime.errors import CheckpointError
from . import _decoders
from ._decoders import SCORE, load
from .registry import Architecture, Classifier, Config

POOLS: dict[str, Pool] = {"avg": "mean", "cls": "cls", "last": "last"}


def pooled(family: Architecture, config: Config) -> Architecture:
    """The family with the pooling that config.json states."""
    pooling = config.get("pooling")
    if pooling not in POOLS:
        raise CheckpointError(
            f"config.json: pooling {pooling!r} of a bidirectional Llama; expected one of {', '.join(POOLS)}"
        )
    pool = POOLS[pooling]
    return replace(
        family,
        pool=pool,
        sequence=Classifier(pool=pool, layers=SCORE, tokens=SCORE, sigma_key="temperature"),
    )


ARCHITECTURE = _decoders.family(
    model_types=("llama_bidirec",),
    stem="LlamaBidirectional",
    load=lambda files: load(files, "LlamaModel", model_type="llama", is_causal=False),
    adapt=pooled,
)

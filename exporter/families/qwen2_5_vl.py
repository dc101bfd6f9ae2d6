"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923) as vLLM converts it: --convert embed, whose last token is the
embedding, and --convert classify.

The merged models of jina-embeddings-v4 take the mean: of all tokens of a text, and of a picture's own tokens
(`single_vector_pool_strategy`). Its original repository is read by jina_v4.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError
from ._decoders import SCORE, SEQUENCE
from ._qwen2_vl import family
from ._qwen3_vl import END, START
from .registry import Architecture, Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

STRATEGY = "single_vector_pool_strategy"


def adapt(family: Architecture, config: Config) -> Architecture:
    strategy = config.get(STRATEGY)
    if strategy is None:
        return family
    if strategy != "mean":
        raise CheckpointError(f"config.json: {STRATEGY} {strategy!r} of jina-embeddings-v4; expected 'mean'")
    return replace(family, pool="mean", pooled=of_picture)


def of_picture(files: Files) -> nn.Module:
    """`Architecture.pooled`: the tokens of a text, or those of its picture alone.

    Raises CheckpointError where the tokenizer does not have the marks around a picture.
    """
    from .modules.markers import OfPicture

    start, end = (files.text.id(mark) for mark in (START, END))
    if start is None or end is None:
        raise CheckpointError(f"{files.source}: {START} and {END} must be tokens of the tokenizer")
    return OfPicture(start, end)


ARCHITECTURE = family(
    body="qwen2_5_vl",
    names=("Qwen2_5_VLModel", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLForSequenceClassification"),
    adapt=adapt,
    sequence=SEQUENCE,
    tokens=SCORE,
)

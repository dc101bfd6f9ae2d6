"""jina-reranker-v3 (https://arxiv.org/abs/2509.25085): Qwen3 reads a query and all its documents as one text.

A marker token follows each document, and another one the query. Two layers turn the states of these tokens
into vectors. A document's score is the cosine of its vector and the query's. These facts are from vLLM 0.32's
jina.py; no repository was opened.
"""

from __future__ import annotations

from collections.abc import Mapping

from ._decoders import family, load
from .registry import Config, Layer, Listwise

NAME = "JinaForRanking"


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return NAME in (config.get("architectures") or ())


ARCHITECTURE = family(
    model_types=("qwen3",),
    stem="JinaRanking",
    names=(NAME,),
    load=lambda files: load(files, "Qwen3Model", model_type="qwen3"),
    matches=matches,
    projection=(
        Layer(name="projector.0", bias=False, activation="relu"),
        Layer(name="projector.2", bias=False),
    ),
    listwise=Listwise(
        document_token="<|embed_token|>", query_token="<|rerank_token|>", template="jina_reranker_v3.jinja"
    ),
)

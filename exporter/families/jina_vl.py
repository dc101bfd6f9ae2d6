"""jinaai/jina-reranker-m0: Qwen2-VL over a document, a query and a token of its own, and two layers that
score the state of that token.

Its logit is lowered by 2.65 in front of the sigmoid, as by its authors' code and by vLLM. Where both sides
have pictures, those of the document stand first, as its authors have it. vLLM swaps them.

Its authors' code (compute_score, in the repository) cuts the text of a document to 9728 tokens:
10240 of a pair less 512 of a query, which it does not cut to them. What is longer than 10239 tokens all the
same loses its end, where the query stands; poolrt reads such a pair whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..files.recipe import template
from ._qwen2_vl import family, translate
from .registry import Classifier, Config, Layer

NAMES = ("JinaVLForSequenceClassification", "JinaVLForRanking")
"""vLLM's spelling, and its authors'."""
SCORE_TOKEN = 100
DOCUMENT_TOKENS = 10240 - 512
SCORES = (Layer(name="score.0", activation="relu"), Layer(name="score.2"))


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return bool(set(NAMES) & set(config.get("architectures") or ()))


def renamed(config: Config) -> dict[str, Any]:
    """The settings, with the class in vLLM's spelling."""
    return {**translate(config), "architectures": [NAMES[0]]}


ARCHITECTURE = family(
    body="qwen2_vl",
    videos=False,
    names=NAMES,
    matches=matches,
    translate=renamed,
    sequence=Classifier(pool="last", layers=SCORES, tokens=SCORES, mean=2.65),
    score_template=lambda files: template("jina_reranker_m0.jinja"),
    pair_end=SCORE_TOKEN,
    pair_document_tokens=DOCUMENT_TOKENS,
)

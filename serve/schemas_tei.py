"""Request bodies of text-embeddings-inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .body import body
from .kinds import About, Bounds


@dataclass(frozen=True, kw_only=True)
class TeiCut:
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] = "Right"


@dataclass(frozen=True, kw_only=True)
class TeiEmbed(TeiCut):
    inputs: str | list[int] | list[str] | list[list[int]]
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None


@dataclass(frozen=True, kw_only=True)
class TeiRerank(TeiCut):
    query: str
    texts: list[str]
    raw_scores: bool = False
    return_text: bool = False


@dataclass(frozen=True, kw_only=True)
class HubParameters:
    """What the Hugging Face Hub's clients send beside `inputs`."""

    top_k: Annotated[int | None, Bounds(least=1), About("labels to answer; null: all")] = None
    function_to_apply: Annotated[Literal["sigmoid", "softmax", "none"] | None, About("null: the model's own")] = None


@dataclass(frozen=True, kw_only=True)
class TeiPredict(TeiCut):
    inputs: str | list[str] | list[list[str]]
    raw_scores: bool = False
    parameters: Annotated[HubParameters | None, About("sent by the Hub's clients, who then expect a list for each text")] = None


@dataclass(frozen=True, kw_only=True)
class TeiSentences:
    source_sentence: str
    sentences: list[str]


@dataclass(frozen=True, kw_only=True)
class TeiParameters(TeiCut):
    prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeiSimilarity:
    inputs: TeiSentences
    model: str | None = None
    parameters: TeiParameters | None = None


@dataclass(frozen=True, kw_only=True)
class TeiTokenize:
    inputs: str | list[str]
    model: str | None = None
    add_special_tokens: bool = True
    prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeiDecode:
    ids: list[int] | list[list[int]]
    model: str | None = None
    skip_special_tokens: bool = True


EMBED = body(([], TeiEmbed))
RERANK = body(([], TeiRerank))
PREDICT = body(([], TeiPredict))
SIMILARITY = body(([], TeiSimilarity))
TOKENIZE = body(([], TeiTokenize))
DECODE = body(([], TeiDecode))

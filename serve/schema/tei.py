"""Request bodies of text-embeddings-inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from .body import body
from .validation import Many, Record


@dataclass(frozen=True, kw_only=True)
class TeiCut(Record):
    model: str | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right", "Left", "Right"] = "Right"


@dataclass(frozen=True, kw_only=True)
class TeiEmbed(TeiCut):
    inputs: str | Many[int] | Many[str] | Many[Many[int]]
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None


@dataclass(frozen=True, kw_only=True)
class TeiRerank(TeiCut):
    query: str
    texts: Many[str]
    raw_scores: bool = False
    return_text: bool = False


@dataclass(frozen=True, kw_only=True)
class HubParameters(Record):
    """Parameters that clients of the Hugging Face Hub send beside `inputs`."""

    top_k: Annotated[int | None, Field(ge=1, description="labels to answer; null: all")] = None
    function_to_apply: Annotated[
        Literal["sigmoid", "softmax", "none"] | None,
        Field(description="null: the model's own"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TeiPredict(TeiCut):
    inputs: str | Many[str] | Many[Many[str]]
    raw_scores: bool = False
    parameters: Annotated[
        HubParameters | None,
        Field(description="sent by the Hub's clients, who then expect a list for each text"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TeiSentences(Record):
    source_sentence: str
    sentences: Many[str]


@dataclass(frozen=True, kw_only=True)
class TeiParameters(TeiCut):
    prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeiSimilarity(Record):
    inputs: TeiSentences
    model: str | None = None
    parameters: TeiParameters | None = None


@dataclass(frozen=True, kw_only=True)
class TeiTokenize(Record):
    inputs: str | Many[str]
    model: str | None = None
    add_special_tokens: bool = True
    prompt_name: str | None = None


@dataclass(frozen=True, kw_only=True)
class TeiDecode(Record):
    ids: Many[int] | Many[Many[int]]
    model: str | None = None
    skip_special_tokens: bool = True


EMBED = body(([], TeiEmbed))
RERANK = body(([], TeiRerank))
PREDICT = body(([], TeiPredict))
SIMILARITY = body(([], TeiSimilarity))
TOKENIZE = body(([], TeiTokenize))
DECODE = body(([], TeiDecode))

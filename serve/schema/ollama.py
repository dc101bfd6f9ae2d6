"""Request bodies of Ollama's API, as far as embedding models have a use for it. `options`, `keep_alive` and
`stream` are about generation and memory, so they are read past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from .body import body
from .validation import Many, Record

Name = Annotated[str | None, Field(description="a served name, with or without `:latest`")]


@dataclass(frozen=True, kw_only=True)
class OllamaEmbed(Record):
    model: Name = None
    input: Annotated[str | Many[str], Field(description="a text or texts; empty: no vector")] = ""
    truncate: bool = True
    dimensions: Annotated[
        int, Field(ge=0, description="width to cut embeddings to, of Matryoshka models; 0: as the model has")
    ] = 0


@dataclass(frozen=True, kw_only=True)
class OllamaEmbedding(Record):
    model: Name = None
    prompt: str = ""


@dataclass(frozen=True, kw_only=True)
class OllamaModel(Record):
    """Of /api/show and /api/pull."""

    model: Name = None
    name: Annotated[str | None, Field(description="the older spelling of `model`")] = None


EMBED = body(([], OllamaEmbed))
EMBEDDING = body(([], OllamaEmbedding))
MODEL = body(([], OllamaModel))

"""Request bodies of the playground's own routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from .body import body
from .validation import Record

DataUrl = Annotated[str, Field(description="a data: URL")]


@dataclass(frozen=True, kw_only=True)
class PictureFacts(Record):
    image: DataUrl
    model: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeatMap(Record):
    query: str
    image: DataUrl
    model: str | None = None
    preparation: Annotated[
        Literal["model", "vllm"] | None,
        Field(description="`model`: as the model's own library; null: as /score does"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class PdfPage(Record):
    pdf: DataUrl
    page: Annotated[int, Field(ge=1, description="from 1")] = 1


PICTURE = body((("image",), PictureFacts))
HEAT_MAP = body((("query", "image"), HeatMap))
PDF_PAGE = body((("pdf",), PdfPage))

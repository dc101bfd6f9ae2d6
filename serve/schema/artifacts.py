"""Request bodies of /v1/artifacts/load and /v1/artifacts/unload, which are poolrt's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from .body import body
from .validation import Record


@dataclass(frozen=True, kw_only=True)
class LoadArtifact(Record):
    path: Annotated[
        str, Field(description="folder of an artifact on the server, or its name in the server's store")
    ]
    name: Annotated[
        str | None,
        Field(
            description="the name in `model` of requests, whose model is replaced. null: the artifact's own"
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class UnloadArtifact(Record):
    name: str


LOAD = body(([], LoadArtifact))
UNLOAD = body(([], UnloadArtifact))

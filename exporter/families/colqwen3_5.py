"""ColQwen3.5 (athrael-soju/colqwen3.5-4.5B): late interaction of pages, with a projection of Qwen3.5's hidden
states that has a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ...runtime.artifact.manifest import Role
from ..base.guess import Guess
from ..files.recipe import template
from . import qwen3_5
from ._qwen3_vl import PROJECTION
from .registry import Config

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files

NAME = "ColQwen3_5"


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return NAME in (config.get("architectures") or ())


def guesses(source: str, config: Config) -> tuple[Guess, ...]:
    """Which way it attends, where config.json does not say it."""
    known = qwen3_5.causal(source, config)
    if config.get(qwen3_5.CONTRACT) is not None or config.get("is_causal") is not None:
        return ()
    assert known, "without a statement a token attends to earlier ones"
    return (
        Guess(
            "attention",
            "causal",
            f"config.json has no {qwen3_5.CONTRACT}",
            f'--hf-overrides \'{{"{qwen3_5.CONTRACT}": "bidirectional"}}\'',
        ),
    )


def roles(_: Files) -> dict[str, Role]:
    return {side: Role(template=template(f"colqwen3_5_{side}.jinja")) for side in ("query", "document")}


ARCHITECTURE = replace(
    qwen3_5.ARCHITECTURE,
    names=(NAME,),
    load=lambda files: qwen3_5.load(files),
    matches=matches,
    sequence=None,
    tokens=(),
    projection=(PROJECTION,),
    late_interaction=True,
    roles=roles,
    guesses=guesses,
)

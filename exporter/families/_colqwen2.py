"""What ColQwen2 and ColQwen2.5 share: the two layouts of their files, and their prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages, _qwen2_vl, _qwen3_vl
from ._qwen3_vl import END, PICTURE, START
from .registry import Architecture, Config

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files

RETRIEVAL = "colqwen2"
"""model_type of transformers' class, whose `vlm_config` is that of the body."""
ENGINE = "published_by_colpali_engine"
"""Key of the translated settings: whether colpali-engine's processor is the published one."""
TURN_END = "<|im_end|>"
PAGE = f"<|im_start|>user\n{START}{PICTURE}{END}Describe the image.{TURN_END}<|endoftext|>"
QUERY = "Query: "
AUGMENTATION = 10
"""Padding tokens behind a query, which are attended to."""


def family(*, body: str, names: tuple[str, ...]) -> Architecture:
    """The record of a family. `body`: model_type of its towers."""

    def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        inner = config.get("vlm_config")
        if config.get("model_type") == RETRIEVAL:
            return str((inner or {}).get("model_type", "qwen2_vl")) == body
        return bool(set(names) & set(config.get("architectures") or ())) or _pages.projected(shapes)

    record = _qwen2_vl.family(
        body=body,
        videos=False,
        model_types=(RETRIEVAL, body),
        names=names,
        matches=matches,
        translate=_translation(body, names[0]),
        projection=(_qwen3_vl.PROJECTION,),
        late_interaction=True,
        roles=roles,
    )
    assert record.vision is not None, "a family of Qwen2-VL reads pictures"
    return replace(record, vision=replace(record.vision, images=_images(record.vision.images)))


def _images(of_body: Callable[[Files], Images]) -> Callable[[Files], Images]:
    def images(files: Files) -> Images:
        # colpali-engine drops transparency before anything else.
        background = "none" if files.config[ENGINE] else "white"
        return replace(of_body(files), background=background)

    return images


def _translation(body: str, name: str) -> Callable[[Config], Config]:
    def translate(config: Config) -> dict[str, Any]:
        engine = config.get("model_type") != RETRIEVAL
        inner = config if engine else config.get("vlm_config") or {}
        own = {"model_type": body, "architectures": [name], ENGINE: engine}
        return {**_qwen2_vl.translate(inner), **own}

    return translate


def roles(files: Files) -> dict[str, Role]:
    """Both sides alike, as the published processor does: a page is described, and text is a question.

    colpali-engine's has no words around a question. Raises CheckpointError for a page's prompt without its
    picture.
    """
    settings, engine = processor.processor(files.source, files.inner).values, files.config[ENGINE]
    page = str(settings.get("visual_prompt_prefix") or PAGE)
    mark = f"{START}{PICTURE}{END}"
    if page.count(mark) != 1:
        raise CheckpointError(
            f"{files.source}: {processor.PROCESSOR} says visual_prompt_prefix {page!r}; expected {mark} in it"
        )
    before, after = page.split(mark)
    words, turn, end = after.partition(TURN_END)
    query = "" if engine else str(settings.get("query_prefix") or QUERY)
    filler = files.text.special.get("pad_token", "") * AUGMENTATION
    literal, joined = _pages.literal, _pages.joined
    described = joined(literal(before), "media", f"(text or {literal(words)})", literal(turn + end))
    question = joined(literal(query), "text", literal(filler + ("" if engine else "\n")))
    role = Role(template=_pages.template(described, question))
    return {"query": role, "document": role}

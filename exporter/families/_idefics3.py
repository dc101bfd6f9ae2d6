"""What families that cut pictures by Idefics3's processor share: tiles, and the prompts of colpali-engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Tiling
from ...runtime.artifact.manifest import Role
from ...runtime.errors import CheckpointError
from ..files.pictures import processor
from . import _pages

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files
    from ..files.pictures.processor import Settings

CLASSES = ("", "Idefics3", "SmolVLM")
"""Beginnings of the names of picture processors that cut alike; empty: none is stated."""
AROUND = "<fake_token_around_image>"
AUGMENTATION = "<end_of_utterance>" * 10
"""Behind a query, attended to."""
DESCRIBE = "Describe the image."


def settings(files: Files) -> Settings:
    """Those of the picture processor. Raises CheckpointError for a class that cuts otherwise."""
    known = processor.images(files.source, files.inner)
    if known.stem not in CLASSES:
        raise CheckpointError(
            f"{files.source}: {known.file} names {known.kind}, whose tiles poolrt does not cut; "
            "expected Idefics3ImageProcessor"
        )
    return known


def side(files: Files) -> int:
    """Pixels of a tile's side. Raises CheckpointError where no file says how pictures are cut."""
    known = settings(files)
    size = known.size(default={"longest_edge": 1456})
    pixels = known.size("max_image_size", {"longest_edge": 364}).get("longest_edge")
    if not pixels or not (set(size) == {"height", "width"} or size.get("longest_edge")):
        raise CheckpointError(
            f"{files.source}: {known.file} has no longest_edge in size and max_image_size, which say how "
            "pictures are cut"
        )
    return pixels


def images(files: Files, *, patches: int, factor: int, image_id: int, **facts: Any) -> Images:
    """Tiles of the size that the processor states. Raises CheckpointError.

    Args:
        patches: of a tile.
        factor: patches of a feature's side.
        image_id: token that stands for a feature.
        facts: more fields of `Images`.
    """
    known, pixels = settings(files), side(files)
    size = known.size(default={"longest_edge": 1456})
    tokens = patches // factor**2
    _pages.stated(files, processor.processor(files.source, files.inner), "image_seq_len", tokens)
    token = _pages.placeholder(files, image_id)
    mean, std = known.normalisation(processor.HALF, processor.HALF)
    whole = f"{AROUND}<global-img>{{tokens}}{AROUND}"
    return Images(
        scheme="tiles",
        resample=known.resample("lanczos"),
        kernel=known.kernel(),
        mean=mean,
        std=std,
        height=pixels,
        width=pixels,
        squashed=(size["height"], size["width"]) if "height" in size else None,
        resize=known.flag("do_resize", True),
        tiling=Tiling(
            rule="idefics3",
            longest_edge=size.get("longest_edge", 0),
            split=known.flag("do_image_splitting", True),
            tile_text=f"{AROUND}<row_{{row}}_col_{{column}}>{{tokens}}",
            row_end="\n",
            overview_text=f"\n{whole}",
            single_text=whole,
        ),
        tokens=tokens,
        cost=patches,
        placeholder=token,
        token=token,
        **facts,
    )


def roles(files: Files, page: str) -> dict[str, Role]:
    """Pages are described; questions end in tokens that the model may think in; a document of text is plain.

    `page`: the prompt around a page where processor_config.json has none, with one `<image>`. Raises
    CheckpointError for a prompt with another count.
    """
    values = processor.processor(files.source, files.inner).values
    prompt = str(values.get("visual_prompt_prefix") or page)
    if prompt.count("<image>") != 1:
        raise CheckpointError(
            f"{files.source}: visual_prompt_prefix in processor_config.json is {prompt!r}; expected "
            "one <image> in it"
        )
    before, _, after = prompt.partition("<image>")
    start, middle, end = after.rpartition(DESCRIBE)
    literal, joined = _pages.literal, _pages.joined
    # Text beside a picture takes the place of the description that a page alone is asked for.
    words = f"(text or {literal(middle)})" if middle else "text"
    described = joined(literal(before), "media", literal(start), words, literal(end))
    question = joined(literal(str(values.get("query_prefix") or "")), "text", literal(AUGMENTATION))
    return {
        "query": Role(template=_pages.template(described, question)),
        "document": Role(template=_pages.template(described, "text")),
    }

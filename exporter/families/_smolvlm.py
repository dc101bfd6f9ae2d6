"""SmolVLM2's videos (https://arxiv.org/abs/2504.05299): each frame is one tile, and words around it tell its
time. The settings stand beside those of pictures, in `video_sampling`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images, Videos
from ...runtime.errors import CheckpointError
from ..files.pictures import processor

if TYPE_CHECKING:
    from ..files.checkpoint_files import Files
    from ..files.pictures.processor import Settings

PLACEHOLDER = "<video>"
EXPANSION = (
    "You are provided the following series of {count} frames from a {duration} [H:MM:SS] video.\n{frames}\n\n"
)
FRAME = "\nFrame from {clock}:"
CONVERSATION = (
    "<|im_start|>{% for message in messages %}{{ message.role | capitalize }}:"
    "{% if message.content is string %}{{ ' ' ~ message.content }}"
    "{% else %}{{ '' if (message.content | first).type == 'image' else ' ' }}"
    "{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}"
    "{% elif part.type in ('image', 'video') %}{{ '<' ~ part.type ~ '>' }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{{ 'Assistant:' if add_generation_prompt }}"
)
"""Takes the place of the checkpoint's own template where a message has a video, as in transformers: published
ones have no word for it."""
MOST_SIDE = 4096
"""Pixels of the longer side of a scaled frame (transformers)."""


def with_videos(files: Files, images: Images) -> Images:
    """`images` with videos, where the processor's files say how many frames are read.

    Raises CheckpointError for frames that are no tiles of the model.
    """
    known = processor.videos(files.source, files.inner, shared=True)
    assert known is not None, "the settings of pictures are shared"
    assert images.tiling is not None, "pictures are cut into tiles"
    sampled = known.values.get("video_sampling")
    stated = dict(sampled) if isinstance(sampled, Mapping) else {
        "max_frames": known.values.get("num_frames"), "fps": known.values.get("fps"), "video_size": None,
    }  # fmt: skip
    if stated.get("max_frames") is None or stated.get("fps") is None:
        return images
    sampling = replace(known, values=stated)
    size = _size(files, known, sampling)
    _check_tiles(files, known, images)
    resample, (mean, std) = known.resample("lanczos"), known.normalisation(processor.HALF, processor.HALF)
    videos = Videos(
        placeholder=PLACEHOLDER,
        token=images.token,
        frame_text=FRAME + images.tiling.single_text,
        expansion=EXPANSION,
        conversation=CONVERSATION,
        fps=_rate(files, known, stated["fps"]),
        min_frames=1,
        max_frames=sampling.number("max_frames", 64),
        sampling="middle",
        longest_edge=min(size.get("longest_edge", 0), MOST_SIDE),
        squashed=(size["height"], size["width"]) if "height" in size else None,
        resample=None if resample == images.resample else resample,
        mean=None if mean == images.mean else mean,
        std=None if std == images.std else std,
    )
    return replace(images, videos=videos)


def _size(files: Files, known: Settings, sampling: Settings) -> dict[str, int]:
    """What frames are scaled to before they become tiles. The size of pictures in the same file counts before
    that of video_sampling, as in transformers."""
    size = known.size(default=sampling.size("video_size", {"longest_edge": 1456}))
    if set(size) != {"height", "width"} and not size.get("longest_edge"):
        raise CheckpointError(
            f"{files.source}: {known.file} scales frames of a video to {size}; expected longest_edge, or "
            "height and width"
        )
    return {"longest_edge": size["longest_edge"]} if size.get("longest_edge") else size


def _check_tiles(files: Files, known: Settings, images: Images) -> None:
    side = known.size("max_image_size", {"longest_edge": 364}).get("longest_edge")
    resized = known.flag("do_resize", True)
    if side != images.width or not resized:
        raise CheckpointError(
            f"{files.source}: {known.file} makes frames of {side if resized else 'any'} pixels a side of a "
            f"video, the vision model reads tiles of {images.width}; set max_image_size there to it, and "
            "do_resize to true"
        )


def _rate(files: Files, known: Settings, fps: Any) -> float:
    if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
        raise CheckpointError(
            f"{files.source}: {known.file} reads {fps!r} frames for each second of a video; expected a "
            "number above 0"
        )
    return float(fps)

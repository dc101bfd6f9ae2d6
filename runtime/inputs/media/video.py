"""A video becomes groups of frames, as the processors of Qwen2-VL and Qwen3-VL do it, or single frames, as
that of SmolVLM does it.

Frames are sampled evenly, scaled into a budget of pixels and grouped; the last one is repeated where the last
group is not full. A group is a row of the vision graph of its own, since attention stays within it. Its time
stands in the prompt (Qwen3-VL), or in the positions of its tokens (Qwen2-VL). With the scheme `tiles`, each
frame is one tile, whose time stands in the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ... import cancellation
from ...artifact.images import Images, Patches, Videos
from ...errors import InputError
from ..videos import sampling, wording
from ..videos.sampling import UNKNOWN_FPS
from . import patches as pictures
from . import tiles
from .medium import Medium
from .options import Settings
from .resize import resized
from .rows import fixed_row, square
from .video_source import Clip, Listed

Frames = Sequence[NDArray[np.uint8]] | NDArray[np.uint8]
MOST_SECONDS = 10**9
"""Of a video whose length stands in the prompt: 30 years."""


def sampled(settings: Settings, clip: Clip, *, field: str) -> NDArray[np.int64]:
    """Returns the numbers of the frames that are kept, ascending."""
    videos, count = facts(settings), settings.frames
    if clip.frames < 1:
        raise InputError("a video has no frames", field=field)
    _check_length(videos, clip, field)
    # The sender of a list has chosen its frames.
    if not settings.sample or (isinstance(clip, Listed) and count is None and settings.fps is None):
        count = clip.frames
    elif videos.sampling == "middle":
        numbers = sampling.middle(
            clip.frames,
            clip.fps or UNKNOWN_FPS,
            fps=settings.fps or videos.fps,
            most=count or videos.max_frames,
        )
        _check_count(videos, len(numbers), field)
        return numbers
    elif count is None:
        wanted = int(clip.frames / (clip.fps or UNKNOWN_FPS) * (settings.fps or videos.fps))
        count = min(max(wanted, videos.min_frames), videos.max_frames, clip.frames)
        if videos.sampling == "steps":
            count -= count % pictures.facts(settings.images).temporal
    _check_count(videos, count, field)
    choose = sampling.steps if videos.sampling == "steps" else sampling.ends
    return choose(clip.frames, count)


def _check_count(videos: Videos, count: int, field: str) -> None:
    if count > videos.max_frames:
        raise InputError(
            f"a video gives {count} frames, at most {videos.max_frames} are read; sample fewer", field=field
        )


def _check_length(videos: Videos, clip: Clip, field: str) -> None:
    """Raises InputError for a length that no prompt can hold."""
    rate = clip.fps or UNKNOWN_FPS
    if (videos.expansion or videos.sampling == "middle") and clip.frames > MOST_SECONDS * rate:
        raise InputError(
            f"a video has {clip.frames} frames and shows {rate:g} in a second, which is longer than "
            f"{MOST_SECONDS} seconds; state its fps",
            field=field,
        )


def facts(settings: Settings) -> Videos:
    assert settings.images.videos is not None, "a model that reads videos says how"
    return settings.images.videos


def prepared(
    settings: Settings,
    frames: Frames,
    numbers: NDArray[np.int64],
    fps: float | None,
    *,
    total: int,
    most_pixels: int,
    field: str,
) -> Medium:
    """Returns the groups of the frames that were sampled.

    Args:
        frames: each [height, width, 3], all of one size.
        numbers: of the frames in the whole video, whose times they tell.
        total: frames of the whole video.
        most_pixels: of all frames together, after scaling.
    """
    videos = facts(settings)
    images = replace(
        settings.images,
        resample=videos.resample or settings.images.resample,
        mean=videos.mean or settings.images.mean,
        std=videos.std or settings.images.std,
        # transformers has no Pillow form of these processors, whatever their pictures are resized with.
        kernel="torchvision",
    )
    if images.scheme == "tiles":
        return _tiles(
            settings, images, frames, numbers, fps, total=total, most_pixels=most_pixels, field=field
        )
    patches = pictures.facts(settings.images)
    if len(frames) < patches.temporal:
        raise InputError(
            f"a video has {len(frames)} frames, expected at least {patches.temporal}", field=field
        )
    height, width = frames[0].shape[:2]
    tall, wide = (
        target(patches, videos, len(frames), height, width, field=field)
        if settings.resize
        else pictures.whole(patches, height, width, field)
    )
    pictures.check_budget(len(frames) * tall * wide, most_pixels, field)
    scaled = [
        resized(frame.transpose(2, 0, 1), tall, wide, resample=images.resample, kernel=images.kernel)
        for frame in frames
    ]
    missing = -len(scaled) % patches.temporal
    scaled += scaled[-1:] * missing
    times = [*numbers.tolist(), *[int(numbers[-1])] * missing]
    # Frames of the sampled video per second.
    rate = (fps or UNKNOWN_FPS) * len(frames) / total
    items, texts = [], []
    for first in range(0, len(scaled), patches.temporal):
        group = slice(first, first + patches.temporal)
        item = pictures.group_row(images, np.stack(scaled[group], axis=1), images.kernel)
        items.append(item)
        texts.append(wording.frame(videos, _seconds(times[group], fps or UNKNOWN_FPS), item.rows))
    return Medium(
        kind="video",
        items=tuple(items),
        text=wording.whole(videos, texts, total / (fps or UNKNOWN_FPS)),
        grids=tuple(pictures.grid(item, patches.merge) for item in items),
        times=_steps(videos, len(items), patches.temporal / rate),
    )


def _tiles(
    settings: Settings,
    images: Images,
    frames: Frames,
    numbers: NDArray[np.int64],
    fps: float | None,
    *,
    total: int,
    most_pixels: int,
    field: str,
) -> Medium:
    """Each frame as one tile; arguments as of `prepared`, `images` with what holds for videos."""
    videos, rate = facts(settings), fps or UNKNOWN_FPS
    if not len(frames):
        raise InputError("a video has no frames", field=field)
    height, width = frames[0].shape[:2]
    if not settings.resize and (height, width) != (images.height, images.width):
        raise InputError(
            f"a video has {width} x {height} pixels and do_resize is off, expected {images.width} x "
            f"{images.height}",
            field=field,
        )
    pictures.check_budget(len(frames) * images.height * images.width, most_pixels, field)
    tiling = replace(tiles.facts(images), longest_edge=videos.longest_edge)
    images = replace(images, tiling=tiling, squashed=videos.squashed)
    values = np.empty((len(frames), 3, images.height, images.width), np.float32)
    items, texts = [], []
    for number, frame, out in zip(numbers.tolist(), frames, values, strict=True):
        cancellation.check()
        tile = tiles.single(
            images,
            frame.transpose(2, 0, 1),
            resize=settings.resize,
            most_pixels=most_pixels,
            field=field,
        )
        items.append(fixed_row(images, tile, out))
        texts.append(wording.frame(videos, number / rate, images.tokens))
    # transformers takes the time of the last frame for the length of a video that does not say its rate.
    duration = int(numbers[-1]) / rate if fps is None else total / rate
    return Medium(
        kind="video",
        items=tuple(items),
        text=wording.whole(videos, texts, duration),
        grids=(square(images.tokens),) * len(items),
    )


def target(
    patches: Patches, videos: Videos, frames: int, height: int, width: int, *, field: str
) -> tuple[int, int]:
    """Returns the height and width that frames are scaled to. Unlike pictures, frames smaller than a feature
    are scaled up to it first, unless each frame has its own budget."""
    factor = patches.size * patches.merge
    if videos.per_frame:
        most = videos.max_pixels
        if videos.total_pixels is not None:
            share = videos.total_pixels * patches.temporal // frames
            most = max(min(most, share), int(videos.min_pixels * 1.05))
        budget = replace(patches, min_pixels=videos.min_pixels, max_pixels=most)
        return pictures.target(budget, height, width, field=field)
    if min(height, width) < factor:
        grow = max(factor / height, factor / width)
        height, width = int(height * grow), int(width * grow)
    pictures.check_ratio(height, width, field)
    tall, wide = round(height / factor) * factor, round(width / factor) * factor
    deep = round(frames / patches.temporal) * patches.temporal
    most = videos.max_pixels
    if videos.frame_pixels is not None:
        # As in transformers, whose floor lets a long video go beyond the budget of all frames.
        most = frames * max(min(videos.frame_pixels, most // frames), int(videos.min_pixels * 1.05))
    volumes = deep * tall * wide, height, width, frames * height * width
    return pictures.fitted(tall, wide, *volumes, factor, videos.min_pixels, most)


def _steps(videos: Videos, groups: int, seconds: float) -> tuple[int, ...]:
    """The steps in time of groups of frames that are `seconds` apart; empty: the prompt tells their times."""
    if videos.ticks is None:
        return ()
    if not videos.ticks:
        return tuple(range(groups))
    # In float32, as transformers' tensors.
    steps = np.arange(groups) * (np.float32(seconds) * np.float32(videos.ticks))
    return tuple(int(step) for step in steps.astype(np.float32))


def _seconds(numbers: Sequence[int], fps: float) -> float:
    """The middle between the first and the last frame of a group."""
    return (numbers[0] / fps + numbers[-1] / fps) / 2

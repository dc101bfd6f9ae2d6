"""From a source to a Medium: the two functions that the rest of the runtime calls.

Both are pure and thread-safe, and spend their time in Pillow and numpy with the lock of the interpreter free.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...artifact.images import Images
from ...errors import InputError
from . import cuts, decode, fixed, patches, video_source
from . import video as videos
from .limits import PictureLimits
from .medium import WHOLE, Medium
from .options import applied
from .rows import square


def image(
    images: Images,
    source: object,
    *,
    options: Mapping[str, object] | None = None,
    limits: PictureLimits | None = None,
    field: str = "image_url",
) -> Medium:
    """Returns a picture as the model reads it.

    Args:
        images: the manifest's.
        source: the bytes of an image file, a PIL.Image, or an array uint8 [height, width, 3] ([height, width]
            and four channels too).
        options: vLLM's mm_processor_kwargs: min_pixels, max_pixels, size, do_resize, backend, ...
        limits: of what is decoded; None: the defaults.
        field: named by errors about the source.

    Raises InputError for a source that is no whole picture within the limits, and for unknown options.
    """
    limits = limits or PictureLimits()
    settings = applied(images, options or {})
    images = settings.images
    pixels = decode.rgb(source, background=images.background, limits=limits, field=field)
    planes = pixels.transpose(2, 0, 1)
    height, width = planes.shape[1:]
    grids: tuple[tuple[int, int], ...]
    order = None
    if images.scheme == "patches":
        items = [
            patches.row(
                images, planes, resize=settings.resize, most_pixels=limits.prepared_pixels, field=field
            )
        ]
        grids = () if images.apart else (patches.grid(items[0], patches.facts(images).merge),)
        tokens, regions = images.token * items[0].rows, (WHOLE,)
    elif images.scheme == "tiles":
        cut = cuts.rows(settings, planes, most_pixels=limits.prepared_pixels, field=field)
        items, tokens, regions, order = cut.items, cut.text, cut.regions, cut.order
        grids = (square(images.tokens),) * len(items)
    else:
        items = [fixed.row(images, planes, resize=settings.resize, field=field)]
        grids = () if images.apart else (square(images.tokens),)
        tokens = images.token * images.tokens
        regions = (fixed.region(images, height, width, resize=settings.resize),)
    return Medium(
        kind="image",
        items=tuple(items),
        text="" if images.apart else _written(images, tokens),
        grids=grids,
        regions=regions,
        size=(height, width),
        order=order,
    )


def video(
    images: Images,
    source: object,
    *,
    fps: float | None = None,
    options: Mapping[str, object] | None = None,
    limits: PictureLimits | None = None,
    field: str = "video_url",
) -> Medium:
    """Returns a video as the model reads it.

    Args:
        images: the manifest's.
        source: an array uint8 [frames, height, width, 3], the bytes of a video file or a GIF (PyAV
            decodes them), or a list of pictures, which are all used.
        fps: frames per second of an array or a list; None: 24 of an array, 1 of a list. A
            file says it itself.
        options: vLLM's mm_processor_kwargs: fps, num_frames, max_pixels, ...
        limits: of what is decoded; None: the defaults.
        field: named by errors about the source.

    Raises InputError for a source that is no video within the limits, and for unknown options.
    """
    if images.videos is None:
        raise InputError("this model reads no videos", field=field)
    limits = limits or PictureLimits()
    settings = applied(images, options or {}, video=True)
    clip = video_source.opened(source, fps, limits, field)
    frames, numbers = clip.read(videos.sampled(settings, clip, field=field))
    return videos.prepared(
        settings,
        frames,
        numbers,
        clip.fps,
        total=clip.frames,
        most_pixels=limits.prepared_video_pixels,
        field=field,
    )


def _written(images: Images, tokens: str) -> str:
    """The placeholder with all tokens of the features."""
    if images.expansion:
        return images.expansion.replace("{tokens}", tokens)
    return images.placeholder.replace(images.token, tokens, 1) if images.token else images.placeholder

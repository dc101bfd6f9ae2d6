"""What a caller may change about preparation: vLLM's `mm_processor_kwargs`, in transformers' words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...artifact.images import Images
from ...errors import InputError
from ..tilings import changes
from ..tilings.option_values import FIELD, flag, number, only

EVERY = ("do_resize", *changes.EVERY)
KNOWN: dict[str, tuple[str, ...]] = {
    "fixed": ("size",),
    "patches": ("size", "min_pixels", "max_pixels", "max_num_visual_tokens"),
}
"""Scheme -> options that it reads beside `EVERY`; those of tiles are their rule's."""
COUNT = ("max_num_patches",)
"""Of a model that counts patches (SigLIP 2)."""
VIDEO = ("fps", "num_frames", "min_frames", "max_frames", "do_sample_frames")
SCOPES = {"images_kwargs": False, "videos_kwargs": True}
"""Options of one kind of media only, as an object of their own -> whether they are those of videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The facts of a manifest with a caller's options applied."""

    images: Images
    resize: bool = True
    split: bool = True
    """tiles: whether a picture may be cut."""
    fps: float | None = None
    frames: int | None = None
    sample: bool = True


def applied(images: Images, options: Mapping[str, object], *, video: bool = False) -> Settings:
    """Returns what the options make of the facts. Options of videos are accepted for pictures, because one
    set of options goes to all media of a prompt.

    Raises InputError for an option that this model does not know, or of another kind.
    """
    known = _keys(images)
    options = _scoped(images, options, video=video)
    if unknown := [key for key in options if key not in known]:
        raise InputError(
            f"{FIELD}: {', '.join(map(repr, unknown))} changes nothing here, this model knows "
            f"{', '.join(known)}",
            field=FIELD,
        )
    images = _sized(_kernel(images, options), options, video=video)
    split = images.tiling is None or images.tiling.split
    settings = Settings(
        images=images,
        resize=flag("do_resize", options.get("do_resize"), images.resize),
        split=flag("do_image_splitting", options.get("do_image_splitting"), split),
        sample=flag("do_sample_frames", options.get("do_sample_frames")),
    )
    return _sampled(settings, options) if video else settings


def _keys(images: Images) -> tuple[str, ...]:
    """Options that change something, or may, for a model's pictures and videos."""
    videos = VIDEO if images.videos is not None else ()
    if images.tiling is not None:
        return (*changes.KEYS[images.tiling.rule], *videos)
    counts = images.patches is not None and images.patches.fit == "count"
    return (*EVERY, *(COUNT if counts else KNOWN[images.scheme]), *videos)


def _scoped(images: Images, options: Mapping[str, object], *, video: bool) -> dict[str, object]:
    """The options for all media, and over them those for this kind."""
    if "videos_kwargs" in options and images.videos is None:
        raise InputError(f"{FIELD}: videos_kwargs changes nothing, this model reads no videos", field=FIELD)
    flat = {key: value for key, value in options.items() if key not in SCOPES}
    for scope, videos in SCOPES.items():
        inside = options.get(scope)
        if inside is not None and not isinstance(inside, Mapping):
            raise InputError(f"{FIELD}: {scope} is {inside!r}, expected an object", field=FIELD)
        if inside is not None and videos == video:
            flat |= {str(key): value for key, value in inside.items()}
    return flat


def _kernel(images: Images, options: Mapping[str, object]) -> Images:
    if options.get("backend") is not None:
        kernels = {"pil": "pillow", "torchvision": "torchvision"}
        backend = options["backend"]
        if not isinstance(backend, str) or backend not in kernels:
            raise InputError(f"{FIELD}: backend is {backend!r}, expected 'pil' or 'torchvision'", field=FIELD)
        return replace(images, kernel=kernels[backend])
    if options.get("use_fast") is not None:
        return replace(images, kernel="torchvision" if flag("use_fast", options["use_fast"]) else "pillow")
    return images


def _sized(images: Images, options: Mapping[str, object], *, video: bool) -> Images:
    size = options.get("size")
    if size is not None and not isinstance(size, Mapping):
        raise InputError(f"{FIELD}: size is {size!r}, expected an object", field=FIELD)
    sides = {str(key): number(f"size.{key}", value) for key, value in (size or {}).items()}
    if images.scheme == "patches":
        return _budget(images, sides, options, video=video)
    if images.scheme == "tiles":
        return changes.changed(images, sides, options, video=video)
    if not sides:
        return images
    if set(sides) == {"shortest_edge"}:
        return replace(images, shortest_edge=sides["shortest_edge"], squashed=None)
    only(sides, ("height", "width"))
    if (sides["height"], sides["width"]) != (images.height, images.width):
        raise InputError(
            f"{FIELD}: size is {sides['height']} x {sides['width']}, this model's pictures have "
            f"{images.height} x {images.width} pixels; leave it out",
            field=FIELD,
        )
    return replace(images, shortest_edge=None, squashed=None)


def _budget(
    images: Images, sides: Mapping[str, int], options: Mapping[str, object], *, video: bool
) -> Images:
    """The budget of pixels of a picture, or of a video's frames together."""
    patches, videos = images.patches, images.videos
    assert patches is not None, "a manifest with the scheme `patches` says their sizes"
    if set(sides) - {"shortest_edge", "longest_edge"}:
        only(sides, ("shortest_edge", "longest_edge"))
    if options.get("max_num_patches") is not None:
        count = number("max_num_patches", options["max_num_patches"])
        return replace(images, patches=replace(patches, max_pixels=count * patches.size**2))
    least, most = sides.get("shortest_edge"), sides.get("longest_edge")
    if options.get("min_pixels") is not None:
        least = number("min_pixels", options["min_pixels"])
    if options.get("max_pixels") is not None:
        most = number("max_pixels", options["max_pixels"])
    if options.get("max_num_visual_tokens") is not None:
        tokens = number("max_num_visual_tokens", options["max_num_visual_tokens"])
        # Tomoro's ColQwen3: a video may have twice the tokens of a picture.
        most = tokens * (patches.size * patches.merge) ** 2 * (2 if video else 1)
    before = videos if video and videos is not None else patches
    least, most = least or before.min_pixels, most or before.max_pixels
    if least > most:
        if options.get("max_num_visual_tokens") is None and (sides or "min_pixels" in options):
            raise InputError(
                f"{FIELD}: at least {least} pixels and at most {most} are wanted; lower the first",
                field=FIELD,
            )
        least = most
    if video and videos is not None:
        return replace(images, videos=replace(videos, min_pixels=least, max_pixels=most))
    return replace(images, patches=replace(patches, min_pixels=least, max_pixels=most))


def _sampled(settings: Settings, options: Mapping[str, object]) -> Settings:
    videos = settings.images.videos
    assert videos is not None, "a model that reads videos says how"
    fps, frames = options.get("fps"), options.get("num_frames")
    # SmolVLM's num_frames is a bound of what fps asks for.
    if fps is not None and frames is not None and videos.sampling != "middle":
        raise InputError(f"{FIELD}: fps and num_frames exclude one another; leave one out", field=FIELD)
    if fps is not None:
        if isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps <= 1000:
            raise InputError(f"{FIELD}: fps is {fps!r}, expected a number above 0, up to 1000", field=FIELD)
        settings = replace(settings, fps=float(fps))
    if frames is not None:
        settings = replace(settings, frames=number("num_frames", frames))
    bounds = {
        key: number(key, options[key]) for key in ("min_frames", "max_frames") if options.get(key) is not None
    }
    changed = replace(videos, **bounds)
    if not changed.min_frames <= changed.max_frames <= videos.max_frames:
        raise InputError(
            f"{FIELD}: {changed.min_frames} to {changed.max_frames} frames are wanted, this model "
            f"reads at most {videos.max_frames}",
            field=FIELD,
        )
    return replace(settings, images=replace(settings.images, videos=changed))

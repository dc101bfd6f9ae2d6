"""What a caller may change about a rule: options of `mm_processor_kwargs` in the words of the processors that
the rules come from. Whatever such a processor does not read is no key of its rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...artifact.images import Images, Rule, Tiling
from ...errors import InputError
from .option_values import FIELD, flag, number, only

EVERY = ("use_fast", "backend")
"""Of rules that come from a processor of transformers: whose resize."""
KEYS: dict[Rule, tuple[str, ...]] = {
    "idefics3": ("do_resize", *EVERY, "size", "do_image_splitting"),
    "anyres": ("do_resize", *EVERY, "size"),
    # Pillow alone resizes for these two, in the code of their authors and in vLLM.
    "grid": ("max_dynamic_patch", "dynamic_image_size", "use_thumbnail"),
    "hd": ("num_crops",),
}
"""Rule of `Tiling` -> its options."""
MOST_TILES = 256


def changed(
    images: Images, sides: Mapping[str, int], options: Mapping[str, object], *, video: bool = False
) -> Images:
    """Returns the facts with the options of their rule applied.

    Args:
        sides: the option `size`, read; empty where there is none.
        video: whether they are those of a video, whose frames have a size of their own.

    Raises InputError for a value that the rule cannot follow.
    """
    assert images.tiling is not None, "a manifest with the scheme `tiles` says how to cut"
    tiling = images.tiling
    if tiling.rule == "idefics3":
        return _squashed(images, tiling, sides, video=video)
    if tiling.rule == "anyres":
        _own(images, sides)
        return images
    if tiling.rule == "hd":
        most = number("num_crops", options.get("num_crops"), tiling.most_tiles, most=MOST_TILES)
        return replace(images, tiling=replace(tiling, most_tiles=most))
    most = number("max_dynamic_patch", options.get("max_dynamic_patch"), tiling.most_tiles, most=MOST_TILES)
    if not flag("dynamic_image_size", options.get("dynamic_image_size")):
        most = 1
    overview = flag("use_thumbnail", options.get("use_thumbnail"), tiling.overview)
    return replace(images, tiling=replace(tiling, most_tiles=most, overview=overview))


def _squashed(images: Images, tiling: Tiling, sides: Mapping[str, int], *, video: bool) -> Images:
    """idefics3: the longer side before the cut, or both sides."""
    if not sides:
        return images
    if "height" in sides or "width" in sides:
        only(sides, ("height", "width"))
        longest, squashed = None, (sides["height"], sides["width"])
    else:
        only(sides, ("longest_edge",))
        longest, squashed = sides["longest_edge"], None
    if video and images.videos is not None:
        longest = images.videos.longest_edge if longest is None else longest
        return replace(images, videos=replace(images.videos, longest_edge=longest, squashed=squashed))
    longest = tiling.longest_edge if longest is None else longest
    return replace(images, tiling=replace(tiling, longest_edge=longest), squashed=squashed)


def _own(images: Images, sides: Mapping[str, int]) -> None:
    """anyres: `size` is that of a tile, which the graph fixes."""
    if not sides:
        return
    only(sides, ("height", "width") if "height" in sides or "width" in sides else ("shortest_edge",))
    if any(side != images.height for side in sides.values()):
        raise InputError(
            f"{FIELD}: size is {' x '.join(map(str, sides.values()))}, this model's tiles have "
            f"{images.height} x {images.width} pixels; leave it out",
            field=FIELD,
        )

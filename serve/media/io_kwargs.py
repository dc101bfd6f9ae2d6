"""Settings of how pictures and videos are read: --media-io-kwargs, and a request's `media_io_kwargs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...runtime.errors import InputError

FIELD = "media_io_kwargs"
NUM_FRAMES = 32
"""Frames of a video sent as pictures that are read where nothing else is said, as in vLLM."""
KNOWN: dict[str, tuple[str, ...]] = {
    "image": ("image_mode", "rgba_background_color"),
    "video": ("num_frames", "fps"),
    "audio": (),
}
"""Modality -> its settings."""
Color = tuple[int, int, int]


def checked(value: Mapping[str, Any], name: str = FIELD) -> dict[str, dict[str, object]]:
    """Returns modality -> settings. Raises InputError for what cannot be followed.

    Args:
        name: of the flag or field.
    """
    for modality, settings in value.items():
        if modality not in KNOWN or not isinstance(settings, Mapping):
            raise InputError(
                f"{name}: {modality}: expected one of {', '.join(KNOWN)} with an object", field=FIELD
            )
        if unknown := [key for key in settings if key not in KNOWN[modality]]:
            known = ", ".join(KNOWN[modality]) or "none"
            raise InputError(
                f"{name}: {modality}: {', '.join(map(repr, unknown))} changes nothing here, known are "
                f"{known}",
                field=FIELD,
            )
    if value.get("image", {}).get("image_mode", "RGB") != "RGB":
        raise InputError(f"{name}: image: image_mode is fixed, pictures are read as RGB", field=FIELD)
    background(value)
    num_frames(value)
    fps(value)
    return {modality: dict(settings) for modality, settings in value.items()}


def background(io_kwargs: Mapping[str, Any]) -> Color | None:
    """Returns the color that transparency is composited on; None: the model's own. Raises InputError."""
    color = io_kwargs.get("image", {}).get("rgba_background_color")
    if color is None:
        return None
    if (
        not isinstance(color, list | tuple)
        or len(color) != 3
        or not all(type(value) is int and 0 <= value <= 255 for value in color)
    ):
        raise InputError(
            "rgba_background_color must be a list or tuple of 3 integers in the range [0, 255].", field=FIELD
        )
    return (color[0], color[1], color[2])


def num_frames(io_kwargs: Mapping[str, Any]) -> int:
    """Returns the most frames of a video that is sent as pictures; -1: all. Raises InputError."""
    value = io_kwargs.get("video", {}).get("num_frames", NUM_FRAMES)
    if type(value) is not int or (value < 1 and value != -1):
        raise InputError("num_frames must be greater than 0 or -1", field=FIELD)
    return value


def fps(io_kwargs: Mapping[str, Any]) -> float | None:
    """Returns the frames per second of a video; None: nothing is said. Raises InputError."""
    value = io_kwargs.get("video", {}).get("fps")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
        raise InputError(f"fps is {value!r}, expected a number above 0", field=FIELD)
    return float(value)

"""From an encoded picture, a Pillow image or an array to RGB bytes.

Pillow decodes; it is imported when the first encoded picture comes. Its decoders see only the formats of
`FORMATS`, and only pictures whose header states a size within the limits.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Literal, cast

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .limits import PictureLimits

if TYPE_CHECKING:
    from PIL.Image import Image
    from typing_extensions import TypeIs

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Formats of still pictures whose decoders run inside the process. Pillow would hand EPS to Ghostscript."""
Background = Literal["white", "none"] | tuple[int, int, int]
WHITE = (255, 255, 255)
Pixels = NDArray[np.uint8]
ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
"""EXIF orientation -> [height, width, 3] turned upright."""


def rgb(
    source: object,
    *,
    background: Background = "white",
    limits: PictureLimits | None = None,
    field: str = "image_url",
) -> Pixels:
    """Returns a picture's bytes [height, width, 3], turned upright by its EXIF orientation.

    Args:
        source: an encoded picture (bytes), a Pillow image, or an array uint8 [height, width] or
            [height, width, 1, 3 or 4]. Of an animation the first frame counts.
        background: what transparency is composited on, `white` or a color; `none`: the alpha channel is
            dropped.
        limits: None: the defaults.
        field: named by errors.

    Raises InputError for whatever is not a whole picture within the limits.
    """
    limits = limits or PictureLimits()
    if isinstance(source, np.ndarray):
        return _from_array(source, background, limits, field)
    if encoded := isinstance(source, bytes | bytearray | memoryview):
        image = _opened(bytes(source), limits, field)
    elif _is_image(source):
        image = source
    else:
        raise InputError(
            f"a picture is {type(source).__name__}, expected bytes, a PIL.Image or an array uint8 "
            "[height, width, 3]",
            field=field,
        )
    check_size(image.width, image.height, limits, field)
    try:
        # Before EXIF is read: reading it from a truncated file would hide that the pixels are missing.
        image.load()
        pixels = _read(image) if encoded and _is_plain(image) else _from_image(image, background)
    # Decoders raise whatever a broken file makes them stumble over: struct.error, KeyError, zlib.error, ...
    # Their texts are not repeated, since they may quote the file.
    except Exception:
        kind = f"{image.format} picture" if image.format else "picture"
        raise InputError(
            f"a {kind} could not be decoded: the file is cut off or damaged; send the whole file or save it "
            "again",
            field=field,
        ) from None
    return _upright(image, pixels)


def check_size(width: int, height: int, limits: PictureLimits, field: str) -> None:
    """Raises InputError for a picture of no pixels or of too many."""
    if min(width, height) < 1:
        raise InputError(f"a picture has {width} x {height} pixels, expected at least one", field=field)
    if max(width, height) > limits.side:
        raise InputError(
            f"a picture has {width} x {height} pixels, its longer side may have {limits.side}; scale it down",
            field=field,
        )
    if width * height > limits.pixels:
        raise InputError(
            f"a picture has {width} x {height} = {width * height} pixels, at most {limits.pixels} are "
            "decoded; scale it down",
            field=field,
        )


def _is_image(source: object) -> TypeIs[Image]:
    """Whether it is a Pillow image. A process that has none need not import Pillow."""
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(source).__mro__)


def _opened(data: bytes, limits: PictureLimits, field: str) -> Image:
    """The picture with its header read and its pixels not yet decoded."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(
            "an encoded picture needs Pillow, which is not installed: pip install 'poolrt[images]'",
            field=field,
        ) from None
    if not data:
        raise InputError("a picture is empty, expected the bytes of an image file", field=field)
    if len(data) > limits.bytes:
        raise InputError(f"a picture has {len(data)} bytes, at most {limits.bytes} are read", field=field)
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise InputError(
            # The first words are vLLM's, which clients know.
            "cannot identify image file: it has another format or a damaged header; save it as one of "
            f"{', '.join(FORMATS)}",
            field=field,
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise InputError(
            f"a picture has too many pixels, at most {limits.pixels} are decoded; scale it down", field=field
        ) from None
    # As in `rgb`: plugins raise anything for a broken header.
    except Exception:
        raise InputError(
            "a picture could not be opened: its header is cut off or damaged; send the whole file or save it "
            "again",
            field=field,
        ) from None


def _is_plain(image: Image) -> bool:
    return image.mode == "RGB" and image.info.get("transparency") is None


class _Sink:
    """A file that keeps the pixels of a PPM and drops its header."""

    def __init__(self, pixels: Pixels, header: int) -> None:
        self.pixels = pixels.reshape(-1)
        self.at = -header

    def write(self, data: bytes) -> int:
        if self.at >= 0:
            self.pixels[self.at : self.at + len(data)] = np.frombuffer(data, np.uint8)
        self.at += len(data)
        return len(data)


def _read(image: Image) -> Pixels:
    """[height, width, 3] of an RGB image of our own. As a PPM it is packed in small pieces, in half the time
    in which `np.asarray` packs and joins them."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    sink = _Sink(pixels, len(b"P6\n%d %d\n255\n" % image.size))
    image.save(cast("IO[bytes]", sink), "PPM")
    assert sink.at == pixels.size, "a PPM is its header and its pixels"
    return pixels


def _from_image(image: Image, background: Background) -> Pixels:
    """[height, width, 3] of a loaded Pillow image of any mode."""
    import PIL.Image

    bands = image.getbands()
    transparent = "A" in bands or "a" in bands or image.info.get("transparency") is not None
    if image.mode == "RGB" and background == "none":
        return np.asarray(image)
    if not transparent:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")
    if background == "none":
        return np.asarray(rgba)[:, :, :3]
    opaque = PIL.Image.new("RGB", rgba.size, WHITE if background == "white" else background)
    opaque.paste(rgba, mask=rgba.getchannel("A"))
    return np.asarray(opaque)


def _upright(image: Image, pixels: Pixels) -> Pixels:
    """Turned as the EXIF orientation says. EXIF data that cannot be read says nothing."""
    orientation = None
    with suppress(Exception):
        orientation = image.getexif().get(ORIENTATION)
    turn = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def _from_array(
    values: NDArray[np.generic], background: Background, limits: PictureLimits, field: str
) -> Pixels:
    if values.dtype != np.uint8:
        raise InputError(f"a picture is an array of {values.dtype}, expected uint8", field=field)
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"a picture is an array of shape {list(values.shape)}, expected [height, width, 3] or "
            "[height, width]",
            field=field,
        )
    check_size(values.shape[1], values.shape[0], limits, field)
    pixels = values.astype(np.uint8, copy=False)
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.shape[2] == 1:
        return np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 3:
        return np.ascontiguousarray(pixels)
    if background == "none":
        return np.ascontiguousarray(pixels[:, :, :3])
    return _composited(pixels, WHITE if background == "white" else background)


def _composited(pixels: Pixels, color: tuple[int, int, int]) -> Pixels:
    """[height, width, 4] -> [height, width, 3], rounded as Pillow's paste rounds."""
    alpha = pixels[:, :, 3:].astype(np.uint32)
    total = pixels[:, :, :3] * alpha + np.array(color, np.uint32) * (255 - alpha) + 128
    return (((total >> 8) + total) >> 8).astype(np.uint8)

"""Pictures of tests, and the processors of transformers that they were prepared with.

Used by tests and by tests/goldens/record_pictures.py, which records what transformers and vLLM make of them.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FOLDER = Path(__file__).parent / "goldens" / "pictures"
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIZES = (
    (40, 70), (200, 100), (33, 500), (1, 1), (2, 3), (640, 481), (500, 33), (224, 224), (1200, 901),
    (3000, 260), (16, 1000),
)  # fmt: skip
"""(width, height); the last is thin, the one before it is scaled down thirteenfold."""


def drawn(width: int, height: int, seed: int = 0, bands: int = 3) -> NDArray[np.uint8]:
    """[height, width, bands]: slopes, edges and noise by whole numbers, equal with any version of numpy."""
    y, x, band = (axis.astype(np.uint32) for axis in np.ogrid[:height, :width, :bands])
    slope = (x * (3 + band + seed) + y * (5 - band)) // 2
    edges = (x // 16 + y // 16) % 2 * 90
    noise = x * 374761393 + y * 668265263 + (band + seed * 7) * 2246822519
    noise = (noise ^ (noise >> 13)) * 1274126177
    return ((slope + edges + (noise >> 26)) & 255).astype(np.uint8)


def clip_of_frames(width: int, height: int, frames: int) -> NDArray[np.uint8]:
    """[frames, height, width, 3]."""
    return np.stack([drawn(width, height, number % 11) for number in range(frames)])


def digest(values: Any) -> str:
    """Shape and hash of an array's bytes."""
    array = np.ascontiguousarray(values)
    return f"{list(array.shape)} {array.dtype} {hashlib.sha256(array.tobytes()).hexdigest()[:24]}"


@dataclass(frozen=True)
class Processor:
    """A processor of transformers, and the facts of a manifest that say the same."""

    name: str
    """CLIP, Siglip, Qwen2VL or Idefics3: its class is `<name>ImageProcessor`."""
    settings: dict[str, Any]
    facts: dict[str, Any]
    """Of `Images`, plain."""
    sizes: tuple[tuple[int, int], ...] = SIZES
    kernels: tuple[str, ...] = ("torchvision", "pillow")
    options: dict[str, Any] | None = None
    """mm_processor_kwargs that say the same as `settings` where the facts do not."""


def _fixed(name: str, side: int, resample: int, *, shortest: int | None = None, **more: Any) -> Processor:
    words = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
    size = {"height": side, "width": side} if shortest is None else {"shortest_edge": shortest}
    settings: dict[str, Any] = {"size": size, "resample": resample}
    if shortest is not None:
        settings["crop_size"] = {"height": side, "width": side}
    mean, std = (CLIP_MEAN, CLIP_STD) if name == "CLIP" else (HALF, HALF)
    facts = {
        "scheme": "fixed", "resample": words[resample], "mean": mean, "std": std, "height": side,
        "width": side, "shortest_edge": shortest, "apart": True,
    }  # fmt: skip
    return Processor(name, settings, facts, **more)


def _patches(size: int, mean: Any, std: Any, least: int, most: int, **more: Any) -> Processor:
    settings = {
        "patch_size": size, "image_mean": list(mean), "image_std": list(std),
        "size": {"shortest_edge": least, "longest_edge": most},
    }  # fmt: skip
    facts = {
        "scheme": "patches", "resample": "bicubic", "mean": mean, "std": std,
        "patches": {"size": size, "merge": 2, "temporal": 2, "min_pixels": least, "max_pixels": most},
    }  # fmt: skip
    return Processor("Qwen2VL", settings, facts, **more)


def _tiles(side: int, longest: int, **more: Any) -> Processor:
    settings = {
        "size": {"longest_edge": longest}, "max_image_size": {"longest_edge": side}, "image_mean": list(HALF),
        "image_std": list(HALF),
    }  # fmt: skip
    facts = {
        "scheme": "tiles", "resample": "lanczos", "mean": HALF, "std": HALF, "height": side, "width": side,
        "tiling": {"rule": "idefics3", "longest_edge": longest},
    }  # fmt: skip
    options = more.get("options")
    if options is not None:
        settings["do_image_splitting"] = options["do_image_splitting"]
    return Processor("Idefics3", settings, facts, **more)


FEW = SIZES[:5]
SOME = (*FEW, (500, 33), (3000, 260))
PROCESSORS: dict[str, Processor] = {
    "clip": _fixed("CLIP", 224, 3, shortest=224),
    # The cut is larger than the scaled picture, by an odd number of pixels.
    "clip padded": _fixed("CLIP", 33, 3, shortest=20),
    "siglip": _fixed("Siglip", 224, 3),
    "siglip2": _fixed("Siglip", 224, 2, sizes=SOME),
    "siglip lanczos": _fixed("Siglip", 64, 1, sizes=SOME),
    "siglip nearest": _fixed("Siglip", 64, 0, sizes=SOME),
    "siglip box": _fixed("Siglip", 64, 4, kernels=("pillow",), sizes=SOME),
    "siglip hamming": _fixed("Siglip", 64, 5, kernels=("pillow",), sizes=SOME),
    "colpali": _fixed("Siglip", 448, 3, sizes=FEW),
    "qwen3": _patches(16, HALF, HALF, 4096, 1310720),
    "qwen3 small": _patches(16, HALF, HALF, 65536, 131072),
    "qwen2": _patches(14, CLIP_MEAN, CLIP_STD, 3136, 602112, sizes=SOME),
    "idefics3": _tiles(64, 256),
    "idefics3 whole": _tiles(64, 256, sizes=FEW, options={"do_image_splitting": False}),
    "idefics3 of the size that is published": _tiles(512, 2048, sizes=((200, 100),)),
}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, rows: bytes) -> bytes:
    """A PNG of raw rows, each with its filter byte, in depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + body + _chunk(b"IEND", b"")


def flat_png(width: int, height: int) -> bytes:
    """One bit a pixel, all black: a few kilobytes whatever the size."""
    pressed, row = zlib.compressobj(9), b"\0" * (1 + (width + 7) // 8)
    body = b"".join(pressed.compress(row) for _ in range(height)) + pressed.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def encoded() -> dict[str, bytes]:
    """Files of every kind of pixel that a picture may have: name -> bytes."""
    from PIL import Image, ImageCms

    rgb, rgba = Image.fromarray(drawn(40, 70)), Image.fromarray(drawn(40, 70, 1, 4))
    grey = Image.fromarray(drawn(40, 70, 2, 1)[..., 0])
    wide = np.arange(40 * 70, dtype=np.uint16).reshape(70, 40) * 23
    deep = np.concatenate([wide[..., None], wide[..., None] // 2, 65535 - wide[..., None]], axis=2)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    frames = [Image.fromarray(drawn(40, 70, seed)).quantize(32) for seed in range(3, 6)]
    full = [Image.fromarray(drawn(40, 70, seed)) for seed in range(3, 6)]
    files = {"sixteen_rgb.png": png(40, 70, 16, 2, rows)}

    def add(name: str, image: Image.Image, **more: Any) -> None:
        out = io.BytesIO()
        image.save(out, {"jpg": "JPEG", "tif": "TIFF"}.get(name[-3:], name.rpartition(".")[2]), **more)
        files[name] = out.getvalue()

    add("rgb.png", rgb)
    add("rgb.bmp", rgb)
    add("rgb.webp", rgb, lossless=True)
    add("rgb.jpg", rgb, quality=90)
    add("rgb.ppm", rgb)
    add("grey.jpg", grey, quality=90)
    add("cmyk.jpg", rgb.convert("CMYK"), quality=90)
    add("cmyk.tif", rgb.convert("CMYK"), compression="tiff_lzw")
    add("rgba.png", rgba)
    add("rgba.webp", rgba, lossless=True, exact=True)
    add("grey.png", grey)
    add("grey_alpha.png", rgba.convert("LA"))
    add("one_bit.png", grey.convert("1"))
    add("palette.png", rgb.quantize(32))
    add("palette_transparent.png", rgba.quantize(32))
    add("palette_key.png", rgb.quantize(32), transparency=3)
    add("rgb_key.png", rgb, transparency=rgb.getpixel((7, 9)))
    add("sixteen_grey.png", Image.fromarray(wide))
    add("sixteen_grey.tif", Image.fromarray(wide))
    add("profile.png", rgb, icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    add("animated.gif", frames[0], save_all=True, append_images=frames[1:], duration=[100, 200, 300])
    add("animated.png", full[0], save_all=True, append_images=full[1:], duration=100)
    add("animated.webp", full[0], save_all=True, append_images=full[1:], duration=100, lossless=True)
    exif = Image.Exif()
    for orientation in range(2, 9):
        exif[0x0112] = orientation
        add(f"turned_{orientation}.png", Image.fromarray(drawn(24, 16, orientation)), exif=exif)
    exif[0x0112] = 6
    add("turned.jpg", rgb, exif=exif, quality=90)
    exif[0x0112] = 9
    add("turned_wrongly.png", rgb, exif=exif)
    return files


CLIPS = ("h264.mp4", "turned.mp4", "cut.mp4", "mpeg4.avi", "mjpeg.avi", "vp9.webm", "even.gif", "uneven.gif")


def filmed() -> dict[str, bytes]:
    """Video files: name -> bytes."""
    import av
    from PIL import Image

    frames = clip_of_frames(64, 48, 24)
    files: dict[str, bytes] = {}
    for name, codec, options in (
        ("h264.mp4", "libx264", {"crf": "40", "bf": "2"}),
        ("mpeg4.avi", "mpeg4", {"b": "100k"}),
        ("mjpeg.avi", "mjpeg", {"qmin": "20"}),
        ("vp9.webm", "libvpx-vp9", {"crf": "55"}),
    ):
        out = io.BytesIO()
        with av.open(
            out, "w", format={"webm": "webm", "avi": "avi", "mp4": "mp4"}[name.split(".")[1]]
        ) as container:
            stream: Any = container.add_stream(codec, rate=8, options=options)
            stream.width, stream.height = 64, 48
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
            container.mux(stream.encode())
        files[name] = out.getvalue()
    plain = files["h264.mp4"]
    # A quarter turn in the matrix of the track's header (its last two numbers are the size).
    upright = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    header = plain.index(b"tkhd")
    place = plain.index(upright, header)
    turned = struct.pack(">9I", 0, 1 << 16, 0, (1 << 32) - (1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    files["turned.mp4"] = plain[:place] + turned + plain[place + len(turned) :]
    # An edit list that hides the first second.
    place = plain.index(b"elst") + 16
    begin = struct.unpack(">I", plain[place : place + 4])[0] + 16384
    files["cut.mp4"] = plain[:place] + struct.pack(">I", begin) + plain[place + 4 :]
    pictures = [Image.fromarray(frame).quantize(32) for frame in frames[:9]]
    for name, durations in (("even.gif", 250), ("uneven.gif", [100, 200, 50] * 3)):
        out = io.BytesIO()
        pictures[0].save(out, "GIF", save_all=True, append_images=pictures[1:], duration=durations)
        files[name] = out.getvalue()
    return files

"""How large a picture or a video may be. Sizes are read from headers, before pixels are decoded."""

from __future__ import annotations

from dataclasses import dataclass

PICTURE_BYTES = 128 * 1024 * 1024
"""Encoded. A losslessly compressed picture of PICTURE_PIXELS still fits."""
PICTURE_PIXELS = 50_000_000
"""Decoded, 150 MB. A picture of a 48 megapixel camera fits (8064 * 6048)."""
PICTURE_SIDE = 32_768
"""Pixels. Longer than any camera's or scanner's picture; a strip of 65 535 * 1 does not fit."""
PREPARED_PIXELS = 16_777_216
"""After resizing. The largest budget of a published checkpoint (Qwen3-VL: longest_edge 16777216)."""
PREPARED_VIDEO_PIXELS = 33_554_432
"""Of all frames together, after resizing, 400 MB. A published checkpoint has up to 25 165 824."""
VIDEO_BYTES = 256 * 1024 * 1024
"""Encoded; what vLLM downloads at most."""
VIDEO_PIXELS = 238_609_293
"""Of all sampled frames together, decoded: 715 827 880 bytes, vLLM's bound of one request."""
VIDEO_FRAMES = 54_000
"""Of a file: half an hour at 30 a second. A file is decoded up to the last frame that is sampled."""
VIDEO_WORK = VIDEO_FRAMES * 1920 * 1080
"""Pixels of all frames up to the last one that is sampled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureLimits:
    """How large a source may be. Anything larger is an InputError."""

    bytes: int = PICTURE_BYTES
    pixels: int = PICTURE_PIXELS
    side: int = PICTURE_SIDE
    prepared_pixels: int = PREPARED_PIXELS
    prepared_video_pixels: int = PREPARED_VIDEO_PIXELS
    video_bytes: int = VIDEO_BYTES
    video_pixels: int = VIDEO_PIXELS
    video_frames: int = VIDEO_FRAMES
    video_work: int = VIDEO_WORK

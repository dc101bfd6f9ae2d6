"""Frames of a video file, decoded by PyAV (the extra `video`) as OpenCV, and so vLLM, decodes them.

FFmpeg sees only containers of `FORMATS`: playlists and scripts would have it open other files and addresses.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError, PoolrtError
from . import decode
from .limits import PictureLimits

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

FORMATS = (
    "mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "gif", "mpegts", "mpeg", "mpegvideo",
    "flv", "ogg", "asf", "h264", "hevc", "ivf",
)  # fmt: skip
"""Names of FFmpeg's demuxers that read one stream of bytes and open nothing else."""
OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "none"}
"""FFmpeg checks both in each demuxer, also in one that another opens."""


class VideoFile:
    """A video file whose header was read. Its frames are decoded up to the last one that is wanted.

    Raises InputError for what is no video, or one larger than the limits.
    """

    def __init__(self, data: bytes, limits: PictureLimits, field: str) -> None:
        self._data, self._limits, self._field = data, limits, field
        if len(data) > limits.video_bytes:
            raise InputError(
                f"a video has {len(data)} bytes, at most {limits.video_bytes} are read", field=field
            )
        with _opened(data, field) as container:
            stream = container.streams.video[0]
            self._width, self._height = stream.codec_context.width, stream.codec_context.height
            rate = stream.average_rate or stream.guessed_rate
            self.fps = float(rate) if rate else None
            self.frames = _frames(container, self.fps)
        decode.check_size(self._width, self._height, limits, field)
        if self.frames > limits.video_frames:
            raise InputError(
                f"a video has {self.frames} frames, at most {limits.video_frames} are read; cut it",
                field=field,
            )

    def read(self, numbers: NDArray[np.int64]) -> tuple[Sequence[NDArray[np.uint8]], NDArray[np.int64]]:
        """Returns frames [height, width, 3] and their numbers: fewer than were wanted where the file ends
        before its header says."""
        wanted, last = set(numbers.tolist()), int(numbers[-1])
        limits, pixels = self._limits, self._width * self._height
        if pixels * len(wanted) > limits.video_pixels or pixels * (last + 1) > limits.video_work:
            raise InputError(
                f"a video of {self._width} x {self._height} pixels: {last + 1} frames would be decoded and "
                f"{len(wanted)} kept, at most {limits.video_work} and {limits.video_pixels} pixels may be; "
                "scale it down",
                field=self._field,
            )
        frames: dict[int, NDArray[np.uint8]] = {}
        with _opened(self._data, self._field) as container:
            context = container.streams.video[0].codec_context
            context.options = {"max_pixels": str(limits.pixels)}
            context.thread_count = 1
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames[number] = self._pixels(frame)
                if number == last:
                    break
        places = [number for number in numbers.tolist() if number in frames]
        return [frames[number] for number in places], np.array(places, np.int64)

    def _pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        if (frame.width, frame.height) != (self._width, self._height):
            raise InputError(
                f"a video of {self._width} x {self._height} pixels has a frame of {frame.width} x "
                f"{frame.height}; encode it again",
                field=self._field,
            )
        pixels = np.asarray(frame.reformat(format="rgb24", interpolation="BICUBIC").to_ndarray(), np.uint8)
        turns = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


@contextmanager
def _opened(data: bytes, field: str) -> Iterator[InputContainer]:
    """The container of a file with a video stream. What FFmpeg raises inside becomes an InputError."""
    try:
        import av
    except ImportError:
        raise InputError(
            "a video file needs PyAV, which is not installed: pip install 'poolrt[video]'", field=field
        ) from None
    try:
        # Titles in another encoding. PyAV 19 (for Python 3.12 and newer) reads them without being told.
        titles: dict[str, Any] = (
            {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
        )
        with av.open(io.BytesIO(data), "r", options=OPTIONS, **titles) as container:
            if not container.streams.video:
                raise InputError(f"a file of {container.format.long_name} has no video stream", field=field)
            yield container
    except PoolrtError:
        raise
    # Demuxers and decoders raise errors of many types: FFmpegError, EOFError, OverflowError, MemoryError, ...
    # Their texts are not repeated, since they may quote the file.
    except Exception:
        raise InputError(
            "a video could not be decoded: the file has another format, or is cut off or damaged; send the "
            "whole file or encode it again, as MP4 for example",
            field=field,
        ) from None


def _frames(container: InputContainer, fps: float | None) -> int:
    """How many frames a file shows: as its header says, but as many as there are packets where these are two
    fewer. An edit list hides frames that the header counts, and a header may lie."""
    stream = container.streams.video[0]
    stated = stream.frames
    if not stated and fps and container.duration:
        stated = int(container.duration / 1e6 * fps + 0.5)
    counted = sum(
        1
        for packet in container.demux(stream)
        if packet.size and not packet.is_discard and packet.pts is not None
    )
    return counted if not stated or counted < stated - 1 else stated

"""Frames of a video, by number, with sizes checked before they are decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from . import decode
from .limits import PictureLimits
from .video_file import VideoFile

LISTED_FPS = 1.0
"""Frames per second of a list of pictures, as vLLM reads `data:video/jpeg;base64,A,B,...`."""
Frames = Sequence[NDArray[np.uint8]]
Numbers = NDArray[np.int64]


class Clip(Protocol):
    """A video whose frames are not decoded yet."""

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> float | None:
        """None: unknown."""
        ...

    def read(self, numbers: Numbers) -> tuple[Frames, Numbers]:
        """Returns the frames of these ascending numbers, each [height, width, 3] and of one size, and their
        numbers: fewer than were wanted where a file ends early."""
        ...


def opened(source: object, fps: float | None, limits: PictureLimits, field: str) -> Clip:
    """Returns the frames of an array, a file or a list of pictures."""
    if isinstance(source, np.ndarray):
        return _array(source, fps, limits, field)
    if isinstance(source, bytes | bytearray | memoryview):
        return VideoFile(bytes(source), limits, field)
    if isinstance(source, Sequence) and not isinstance(source, str) and source:
        return Listed(tuple(source), fps or LISTED_FPS, limits, field)
    raise InputError(
        f"a video is {type(source).__name__}, expected an array uint8 [frames, height, width, 3], the bytes "
        "of a file or a list of pictures",
        field=field,
    )


@dataclass(frozen=True, slots=True)
class Array:
    """Frames that are decoded already."""

    values: NDArray[np.uint8]
    fps: float | None

    @property
    def frames(self) -> int:
        return len(self.values)

    def read(self, numbers: Numbers) -> tuple[Frames, Numbers]:
        return [self.values[number] for number in numbers.tolist()], numbers


def _array(values: NDArray[np.generic], fps: float | None, limits: PictureLimits, field: str) -> Array:
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[3] != 3 or not len(values):
        raise InputError(
            f"a video is an array of {values.dtype} {list(values.shape)}, expected uint8 [frames, height, "
            "width, 3]",
            field=field,
        )
    decode.check_size(values.shape[2], values.shape[1], limits, field)
    return Array(values.astype(np.uint8, copy=False), fps)


@dataclass(frozen=True, slots=True)
class Listed:
    """One picture a frame, chosen by the sender: all are used where no options ask for fewer."""

    pictures: tuple[object, ...]
    fps: float | None
    limits: PictureLimits
    field: str

    @property
    def frames(self) -> int:
        return len(self.pictures)

    def read(self, numbers: Numbers) -> tuple[Frames, Numbers]:
        frames: list[NDArray[np.uint8]] = []
        for number in numbers.tolist():
            frame = decode.rgb(self.pictures[number], limits=self.limits, field=self.field)
            if frames and frame.shape != frames[0].shape:
                raise InputError(
                    f"frame {number + 1} of a video has {frame.shape[1]} x {frame.shape[0]} pixels, the "
                    f"first one {frames[0].shape[1]} x {frames[0].shape[0]}; scale them to one size",
                    field=self.field,
                )
            frames.append(frame)
            if frame.size // 3 * len(numbers) > self.limits.video_pixels:
                raise InputError(
                    f"a video of {frame.shape[1]} x {frame.shape[0]} pixels has {len(numbers)} frames, at "
                    f"most {self.limits.video_pixels} pixels are kept; scale it down or sample fewer",
                    field=self.field,
                )
        return frames, numbers

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

LISTED_FRAMES = 32
"""Frames of a list of pictures that are read, as vLLM does with `data:video/jpeg;base64,A,B,...`."""
LISTED_FPS = 1.0
Frame = NDArray[np.uint8]


class Clip(Protocol):
    """A video whose frames are not decoded yet."""

    @property
    def frames(self) -> int: ...

    @property
    def fps(self) -> float | None:
        """None: unknown."""
        ...

    def read(self, numbers: NDArray[np.int64]) -> Sequence[Frame]:
        """Returns the frames of these ascending numbers, each [height, width, 3], all of one size."""
        ...


def opened(source: object, fps: float | None, limits: PictureLimits, field: str) -> Clip:
    """Returns the frames of an array, a file or a list of pictures."""
    if isinstance(source, np.ndarray):
        return _array(source, fps, limits, field)
    if isinstance(source, Sequence) and not isinstance(source, str | bytes | bytearray | memoryview):
        return Listed(tuple(source[:LISTED_FRAMES]), fps or LISTED_FPS, limits, field)
    raise InputError(
        f"a video is {type(source).__name__}, expected an array uint8 [frames, height, width, 3], the "
        "bytes of a video file or a list of pictures",
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

    def read(self, numbers: NDArray[np.int64]) -> Sequence[Frame]:
        return [self.values[number] for number in numbers.tolist()]


def _array(values: NDArray[np.generic], fps: float | None, limits: PictureLimits, field: str) -> Array:
    if values.dtype != np.uint8 or values.ndim != 4 or values.shape[3] != 3 or not len(values):
        raise InputError(
            f"a video is an array of {values.dtype} {list(values.shape)}, expected uint8 "
            "[frames, height, width, 3]",
            field=field,
        )
    decode.check_size(values.shape[2], values.shape[1], limits, field)
    return Array(values.astype(np.uint8, copy=False), fps)


@dataclass(frozen=True, slots=True)
class Listed:
    """One picture a frame."""

    pictures: tuple[object, ...]
    fps: float | None
    limits: PictureLimits
    field: str

    @property
    def frames(self) -> int:
        return len(self.pictures)

    def read(self, numbers: NDArray[np.int64]) -> Sequence[Frame]:
        frames: list[Frame] = []
        for number in numbers.tolist():
            frame = decode.rgb(self.pictures[number], limits=self.limits, field=self.field)
            if frames and frame.shape != frames[0].shape:
                raise InputError(
                    f"frame {number + 1} of a video has {frame.shape[1]} x {frame.shape[0]} pixels, the "
                    f"first one {frames[0].shape[1]} x {frames[0].shape[0]}; scale them to one size",
                    field=self.field,
                )
            frames.append(frame)
        return frames

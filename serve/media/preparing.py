"""From a picture's or a video's bytes to what the model reads, within the pixels of one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from ...runtime import cancellation
from ...runtime.artifact.images import Images
from ...runtime.errors import InputError
from ...runtime.inputs.media import decode, prepared
from ...runtime.inputs.media.limits import PictureLimits
from ...runtime.inputs.media.medium import Medium
from ..errors import ApiError
from . import io_kwargs
from .parts import Modality
from .prepared_bytes import Share
from .reading import Encoded

LISTED_FPS = 1.0
"""Frames per second of a video that is sent as pictures, as in vLLM."""


class Preparer:
    """Prepares the media of one request, one after the other. For one thread.

    Args:
        images: how the model reads pictures.
        options: mm_processor_kwargs of the server and the request.
        kwargs: media_io_kwargs of both, by modality.
        most_pixels: decoded pixels of all media together.
        share: bytes that the prepared media take.
        count: adds a prepared item to the metrics: modality, seconds.
    """

    def __init__(
        self,
        images: Images,
        options: Mapping[str, object],
        kwargs: Mapping[str, Mapping[str, object]],
        most_pixels: int,
        share: Share,
        count: Callable[[Modality, float], None] = lambda *_: None,
    ) -> None:
        self.images = images
        self.options = options
        self.io_kwargs = kwargs
        self.background: decode.Background = io_kwargs.background(kwargs) or images.background
        self.most_pixels = most_pixels
        self.share = share
        self._left = most_pixels
        self._count = count

    def medium(self, encoded: Encoded) -> Medium:
        """Returns a picture or a video as the model reads it.

        Raises InputError that names its place, ApiError where prepared media take too much memory.
        """
        cancellation.check()
        begun = time.perf_counter()
        try:
            medium = self._image(encoded) if encoded.modality == "image" else self._video(encoded)
        except InputError as error:
            raise InputError(f"{error} ({encoded.place})", field=error.field) from None
        self._count(encoded.modality, time.perf_counter() - begun)
        try:
            self.share.take(array for item in medium.items for array in item.arrays.values())
        except ApiError as error:
            text = f"{error} ({encoded.place})"
            raise ApiError(error.status, text, param=error.param, headers=error.headers) from None
        return medium

    def _image(self, encoded: Encoded) -> Medium:
        pixels = self._decoded(encoded.content, "image_url")
        return prepared.image(self.images, pixels, options=self.options)

    def _video(self, encoded: Encoded) -> Medium:
        options = dict(self.options)
        if not encoded.frames:
            options |= self.io_kwargs.get("video", {})
            limits = replace(PictureLimits(), video_pixels=min(PictureLimits().video_pixels, self._left))
            medium = prepared.video(self.images, encoded.content, options=options, limits=limits)
            self._spend(int(sum(item.cost for item in medium.items) * self._patch_pixels))
            return medium
        frames = []
        for frame in encoded.frames:
            cancellation.check()
            frames.append(self._decoded(frame, "video_url"))
        if len({frame.shape for frame in frames}) > 1:
            raise InputError("the frames of a video differ in size; scale them to one", field="video_url")
        fps = io_kwargs.fps(self.io_kwargs) or LISTED_FPS
        options.setdefault("do_sample_frames", False)
        return prepared.video(self.images, np.stack(frames), fps=fps, options=options)

    def _decoded(self, content: bytes, field: str) -> NDArray[np.uint8]:
        """Returns a picture [height, width, 3]. Its header says how large it is before it is decoded."""
        limits = PictureLimits()
        spent = self._left < limits.pixels
        if spent:
            limits = replace(limits, pixels=self._left)
        try:
            pixels = decode.rgb(content, background=self.background, limits=limits, field=field)
        except InputError as error:
            if spent and " pixels, at most " in str(error):
                raise self._too_many(field) from None
            raise InputError(f"Failed to load image: {error}", field=error.field) from None
        self._spend(pixels.shape[0] * pixels.shape[1])
        return pixels

    @property
    def _patch_pixels(self) -> float:
        """Pixels of a unit of a row's cost."""
        patches = self.images.patches
        if patches is None:
            return self.images.height * self.images.width / max(self.images.cost, 1)
        return patches.size**2 * patches.temporal

    def _spend(self, pixels: int) -> None:
        self._left = max(self._left - pixels, 0)

    def _too_many(self, field: str) -> InputError:
        return InputError(
            f"the pictures and videos of the request have more than {self.most_pixels} pixels together; send "
            "less per request, or scale them down",
            field=field,
        )

"""The same resize through the compiled library `hf-processors-rs` (the extra `images`), faster where pictures
become small.

The library is young, so its first picture of each filter is compared with the numpy form of resize.py. Where
they differ, or where the library raises, the numpy form is used.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...artifact.images import Kernel, Resample
from ...errors import is_failure

Planes = NDArray[np.uint8]
CODES: dict[Resample, int] = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
"""The filters that it computes bit for bit; hamming differs by one in few bytes."""
BACKENDS: dict[Kernel, str] = {"torchvision": "torchvision", "pillow": "pil"}


def resized(
    planes: Planes,
    height: int,
    width: int,
    resample: Resample,
    kernel: Kernel,
    reference: Callable[[Planes, int, int, Resample, Kernel], Planes],
) -> Planes | None:
    """Returns a picture [3, rows, columns] of another size, or None where the library does not serve.

    Args:
        planes: [3, rows, columns], contiguous or a view of contiguous [rows, columns, 3].
        reference: the numpy form.
    """
    if resample not in CODES or not _agrees(resample, kernel, reference):
        return None
    return _computed(planes, height, width, resample, kernel)


@cache
def _agrees(
    resample: Resample, kernel: Kernel, reference: Callable[[Planes, int, int, Resample, Kernel], Planes]
) -> bool:
    """Whether both give one result, for a picture that grows in one direction and shrinks in the other."""
    y, x, band = np.ogrid[:61, :47, :3]
    picture = ((x * x * 7 + y * 13 * (band + 1) + (x * y) // 3) & 255).astype(np.uint8).transpose(2, 0, 1)
    values = _computed(picture, 17, 70, resample, kernel)
    return values is not None and np.array_equal(values, reference(picture, 17, 70, resample, kernel))


def _computed(planes: Planes, height: int, width: int, resample: Resample, kernel: Kernel) -> Planes | None:
    pixels, layout = planes.transpose(1, 2, 0), "channels_last"
    if not pixels.flags.c_contiguous:
        pixels, layout = np.ascontiguousarray(planes), "channels_first"
    try:
        processor = _processor(height, width, resample, kernel)
        if processor is None:
            return None
        values: NDArray[np.float32] = processor.preprocess_images([(pixels, layout)], 1, None)
    except BaseException as error:  # a panic of the library is no Exception
        if not is_failure(error):
            raise
        return None
    return values[0].astype(np.uint8)


@cache
def _library() -> Any:
    try:
        from hf_processors_rs import NativeProcessor
    except ImportError:
        return None
    return NativeProcessor


def _processor(height: int, width: int, resample: Resample, kernel: Kernel) -> Any:
    """A processor that resizes and does nothing else; None where the library is not installed."""
    library = _library()
    if library is None:
        return None
    settings = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": height, "width": width},
        "resample": CODES[resample], "do_resize": True, "do_rescale": False, "do_normalize": False,
    }  # fmt: skip
    return library.from_json(json.dumps(settings), BACKENDS[kernel], None)

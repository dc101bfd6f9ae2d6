"""Pictures that are embedded apart, beside transformers' own processor and class: pixels first, then vectors.

The processor is the default one where torchvision is installed, else its Pillow twin, with which our Pillow
resize is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Images
from ....runtime.artifact.manifest import Agreement
from ....runtime.errors import VerificationError
from ....runtime.inputs.media import prepared
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from . import drawn
from .seen import Seen

PIXELS = 1e-5
"""Largest difference of a prepared value, beyond 1 as a share of the largest: both divide the same bytes, one
by a fused mean and deviation."""
COSINE = 0.99999
"""As of texts (library_comparison.py)."""
SIZES = ((200, 100), (300, 90), (96, 96), (70, 66))
"""(width, height): none is so tall that Pillow 13 turns the order of its passes."""


class Missing(Exception):
    """The pictures cannot be compared; the message says why."""


def compared(
    source: str, folder: Path, images: Images, seen: Seen, theirs: Callable[[Floats], Floats], *, unit: bool
) -> tuple[list[Agreement], str]:
    """What agrees, and with which processor.

    Args:
        folder: of the processor's files.
        theirs: prepared pictures [pictures, 3, height, width] -> transformers' vectors [pictures, width].
        unit: whether those are normalised.

    Raises Missing, and VerificationError where the two disagree.
    """
    processor, kernel = _processor(folder)
    if images.patches is not None:
        raise Missing("its pictures are not compared, they become patches of their own number")
    images = dataclasses.replace(images, kernel=kernel)
    sources = [drawn.pattern(*size) for size in SIZES]
    items = [prepared.image(images, pixels).items[0] for pixels in sources]
    ours = np.stack([item.arrays["pixel_values"] for item in items])
    expected = np.concatenate([_prepared(processor, pixels) for pixels in sources])
    name = type(processor).__name__
    if ours.shape != expected.shape:
        raise VerificationError(
            f"{source}: poolrt prepares pictures as {list(ours.shape[1:])}, {name} as "
            f"{list(expected.shape[1:])}; please report this checkpoint"
        )
    apart = distance(ours, expected)
    if not apart <= PIXELS:
        raise VerificationError(
            f"{source}: poolrt prepares pictures otherwise than {name}: values {apart:.3g} apart, at most "
            f"{PIXELS:g} is allowed; please report this checkpoint"
        )
    vectors = np.stack([seen.of(item) for item in items]).astype(np.float64)
    if unit:
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    others = theirs(expected).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=-1) * np.linalg.norm(others, axis=-1)
    cosine = float(((vectors * others).sum(axis=-1) / np.maximum(lengths, 1e-12)).min())
    if not cosine >= COSINE:
        raise VerificationError(
            f"{source}: poolrt embeds pictures otherwise than transformers: cosine {cosine:.6f}, at least "
            f"{COSINE} is expected; please report this checkpoint"
        )
    difference = float(np.abs(vectors - others).max())
    return [
        Agreement(what="prepared pictures", texts=len(items), worst_difference=apart, tolerance=PIXELS),
        Agreement(
            what="embed of pictures", texts=len(items), worst_cosine=cosine, worst_difference=difference,
            tolerance=COSINE,
        ),
    ], name  # fmt: skip


def _processor(folder: Path) -> tuple[Any, Any]:
    """transformers' processor, and the resize that it does. Raises Missing."""
    import transformers

    with silent_transformers():
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # each means that the library does not read these files here
            reason = " ".join(str(error).split())[:160]
            raise Missing(
                f"its pictures are not compared, AutoImageProcessor does not open: {reason}"
            ) from None
    return processor, "torchvision" if getattr(processor, "backend", "") == "torchvision" else "pillow"


def distance(ours: Floats, theirs: Floats) -> float:
    """The largest difference of two values at one place, measured as PIXELS says."""
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))


def _prepared(processor: Any, pixels: drawn.Pixels) -> Floats:
    """[1, 3, height, width]. Raises Missing where the processor fails: torchvision lacks some filters."""
    from PIL import Image

    try:
        values = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise Missing(
            f"its pictures are not compared, {type(processor).__name__} fails on them: {reason}"
        ) from None
    return np.asarray(values, np.float32)

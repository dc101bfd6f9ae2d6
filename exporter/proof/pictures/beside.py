"""Pictures that are embedded apart, beside transformers' own processor and class: pixels first, then vectors.

The processor is the default one where torchvision is installed, else its Pillow twin, with which our Pillow
resize is compared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Images, Kernel
from ....runtime.artifact.manifest import Agreement
from ....runtime.errors import VerificationError
from ....runtime.inputs.media import prepared
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from . import drawn, passes
from .seen import Seen

PIXELS = 1e-5
"""Largest difference of a prepared value, beyond 1 as a share of the largest: both divide the same bytes, one
by a fused mean and deviation."""
COSINE = 0.99999
"""As of texts (library_comparison.py)."""
SIZES = ((200, 100), (300, 90), (96, 96), (70, 66))
"""(width, height) of the pictures."""
Inputs = Mapping[str, Any]
"""Names of a class's inputs -> tensors."""


class Missing(Exception):
    """The pictures cannot be compared; the message says why."""


def refuse_lacking(name: str, loaded: Mapping[str, Any], *, optional: Collection[str] = ()) -> None:
    """Raises Missing for a class that did not find all of its tensors.

    Args:
        loaded: what `from_pretrained` says with `output_loading_info`.
        optional: tensors that files may leave out.
    """
    lacking = {*loaded["missing_keys"], *(str(entry[0]) for entry in loaded["mismatched_keys"])}
    if names := sorted(lacking - set(optional)):
        raise Missing(f"its pictures are not compared, {name} finds no {', '.join(names[:3])}")


def kernel_of(processor: Any) -> Kernel:
    """The resize that a processor of transformers does."""
    return "torchvision" if getattr(processor, "backend", "") == "torchvision" else "pillow"


def compared(
    source: str, folder: Path, images: Images, seen: Seen, theirs: Callable[[Inputs], Floats], *, unit: bool
) -> tuple[list[Agreement], str]:
    """What agrees, and with which processor.

    Args:
        folder: of the processor's files.
        theirs: what the processor prepared of a picture -> transformers' vector of it [1, width].
        unit: whether those are normalised.

    Raises Missing, and VerificationError where the two disagree.
    """
    processor, kernel = _processor(folder)
    images = dataclasses.replace(images, kernel=kernel)
    sources = [drawn.pattern(*size) for size in SIZES]
    items = [prepared.image(images, pixels).items[0] for pixels in sources]
    inputs = [_prepared(processor, pixels) for pixels in sources]
    ours = [item.arrays["pixel_values"] for item in items]
    expected = [_pixels(images, values) for values in inputs]
    name = type(processor).__name__
    for own, wanted in zip(ours, expected, strict=True):
        if own.shape != wanted.shape:
            raise VerificationError(
                f"{source}: poolrt prepares pictures as {list(own.shape)}, {name} as {list(wanted.shape)}; "
                "please report this checkpoint"
            )
    apart = max(map(distance, ours, expected))
    if not apart <= PIXELS:
        raise VerificationError(
            f"{source}: poolrt prepares pictures otherwise than {name}: values {apart:.3g} apart, at most "
            f"{PIXELS:g} is allowed; please report this checkpoint"
        )
    vectors = np.stack([seen.of(item) for item in items]).astype(np.float64)
    if unit:
        vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    others = np.concatenate([theirs(values) for values in inputs]).astype(np.float64)
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
    return processor, kernel_of(processor)


def distance(ours: Floats, theirs: Floats) -> float:
    """The largest difference of two values at one place, measured as PIXELS says."""
    return float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(theirs).max())))


def _prepared(processor: Any, pixels: drawn.Pixels) -> Inputs:
    """Tensors of one picture. Raises Missing where the processor fails: torchvision lacks some filters."""
    from PIL import Image

    try:
        with passes.horizontal_first():
            return dict(processor(images=[Image.fromarray(pixels)], return_tensors="pt"))
    except Exception as error:
        reason = " ".join(str(error).split())[:160]
        raise Missing(
            f"its pictures are not compared, {type(processor).__name__} fails on them: {reason}"
        ) from None


def _pixels(images: Images, inputs: Inputs) -> Floats:
    """Prepared values as our vision graph reads them: [3, height, width], or patches [patches, values] with a
    plane of each colour."""
    values = inputs["pixel_values"][0].float().numpy()
    if images.patches is None:
        return values
    count, size = int(inputs["spatial_shapes"][0].prod()), images.patches.size
    return values[:count].reshape(count, size * size, 3).transpose(0, 2, 1).reshape(count, -1)

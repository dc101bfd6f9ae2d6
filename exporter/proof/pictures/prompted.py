"""Prompts with pictures in them beside a class of transformers: token ids, prepared pictures, answers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ....runtime.artifact.images import Images, Kernel
from ....runtime.artifact.manifest import Agreement, Task
from ....runtime.errors import InputError, VerificationError
from ....runtime.inputs.items import Item
from ....runtime.inputs.multimodal.contents import Content, Source
from ....runtime.inputs.multimodal.placeholders import NUMBER
from ....runtime.inputs.preparation import Preparation
from ....runtime.outputs import Floats
from . import drawn
from .beside import COSINE, PIXELS, Missing, distance

DIFFERENCE = 1e-4
"""Largest difference of a probability or logit, as of texts (library_comparison.py)."""
TEXT = "a leaf takes in carbon dioxide"
FORMS: tuple[tuple[str, tuple[tuple[int, int], ...]], ...] = (
    (TEXT, ()),
    ("{}" + TEXT, ((200, 100),)),
    ("{}", ((70, 66),)),
    (TEXT + "{} and {}.", ((40, 70), (300, 100))),
    ("{}{}", ((96, 96), (1, 1))),
)
"""Prompts with `{}` for a picture, and (width, height) of each. None is so tall that Pillow 13 turns the
order of its passes."""


Prompt = tuple[str, Sequence[drawn.Pixels], Item]
"""A text, its pictures, and what poolrt reads of both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One prompt as a class of transformers reads it."""

    ids: list[int]
    pixels: Floats | None
    """What its processor prepared of all pictures, one behind the other: [pictures or tiles, 3, height,
    width], or [patches, values]. None: there are none."""
    hidden: Floats
    """What the class computes, [tokens, width]."""


class Reader(Protocol):
    """A class of transformers with its processor."""

    @property
    def name(self) -> str: ...

    @property
    def processor(self) -> str: ...

    @property
    def kernel(self) -> Kernel:
        """The resize of that processor."""
        ...

    def read(self, text: str, pictures: Sequence[drawn.Pixels]) -> Shown:
        """Args:
        text: with the model's placeholder for each picture.
        """
        ...


def compared(
    source: str,
    prompts: Sequence[Prompt],
    ours: Callable[[Task, Sequence[Item]], Sequence[Floats]],
    reader: Reader,
    theirs: Callable[[Floats], Mapping[Task, Floats]],
) -> list[Agreement]:
    """Returns what agrees.

    Args:
        prompts: of a preparation with the reader's resize.
        ours: (task, items) -> an answer for each item.
        theirs: what the class computes of a prompt -> finished answers by task.

    Raises Missing where there is no prompt with a picture, and VerificationError where the two disagree.
    """
    pixels: list[float] = []
    cosines: dict[Task, list[float]] = {}
    differences: dict[Task, list[float]] = {}
    if not any(pictures for _, pictures, _ in prompts):
        raise Missing("its pictures are not compared, none fits into a prompt")
    for text, pictures, item in prompts:
        shown = reader.read(text, pictures)
        if list(item.ids) != shown.ids:
            raise VerificationError(
                f"{source}: poolrt reads {text!r} with {len(pictures)} pictures as {len(item.ids)} tokens, "
                f"{reader.name} otherwise, as {len(shown.ids)}; please report this checkpoint"
            )
        if shown.pixels is not None:
            values = [picture.arrays["pixel_values"] for picture in item.vision]
            prepared = np.stack(values) if values[0].ndim == 3 else np.concatenate(values)
            pixels.append(_apart(source, prepared, shown.pixels, reader.processor))
        for task, expected in theirs(shown.hidden).items():
            [answer] = ours(task, [item])
            cosines.setdefault(task, []).append(_cosine(answer, expected))
            differences.setdefault(task, []).append(_difference(answer, expected))
    if not cosines:
        raise Missing("its pictures are not compared, no answer of it can be computed from hidden states")
    return [
        Agreement(what="token ids of prompts with pictures", texts=len(prompts)),
        Agreement(
            what="prepared pictures", texts=len(pixels), worst_difference=max(pixels, default=0.0),
            tolerance=PIXELS,
        ),
        *(_judged(source, reader.name, task, cosines[task], differences[task]) for task in cosines),
    ]  # fmt: skip


def forms(images: Images, preparation: Preparation) -> list[Prompt]:
    """Every form that fits into the model, with the model's placeholders.

    Args:
        preparation: poolrt's, with the reader's resize.
    """
    prompts: list[Prompt] = []
    for form, sizes in FORMS:
        if images.most is not None and len(sizes) > images.most:
            continue
        marks = (images.placeholder.replace(NUMBER, str(place)) for place, _ in enumerate(sizes, start=1))
        text = form.format(*marks)
        pictures = [drawn.pattern(*size) for size in sizes]
        media = tuple(Source("image", picture) for picture in pictures)
        with contextlib.suppress(InputError):  # longer than a tiny model's limit
            [item] = preparation.singles([Content(text, media, finished=True)] if media else [text])
            prompts.append((text, pictures, item))
    return prompts


def _apart(source: str, ours: Floats, theirs: Floats, processor: str) -> float:
    """The largest difference of a prepared value. Raises VerificationError."""
    if ours.shape != theirs.shape:
        raise VerificationError(
            f"{source}: poolrt prepares pictures as {list(ours.shape)}, {processor} as {list(theirs.shape)}; "
            "please report this checkpoint"
        )
    apart = distance(ours, theirs)
    if not apart <= PIXELS:
        raise VerificationError(
            f"{source}: poolrt prepares pictures otherwise than {processor}: values {apart:.3g} apart, at "
            f"most {PIXELS:g} is allowed; please report this checkpoint"
        )
    return apart


def _judged(
    source: str, name: str, task: Task, cosines: Sequence[float], differences: Sequence[float]
) -> Agreement:
    """Raises VerificationError beyond the tolerance."""
    vectors = task in ("embed", "token_embed")
    if vectors and not min(cosines) >= COSINE:
        raise VerificationError(
            f"{source}: poolrt computes {task} of pictures otherwise than {name}: cosine {min(cosines):.6f}, "
            f"at least {COSINE} is expected; please report this checkpoint"
        )
    if not vectors and not max(differences) <= DIFFERENCE:
        raise VerificationError(
            f"{source}: poolrt computes {task} of pictures otherwise than {name}: {max(differences):.3g} "
            f"apart, at most {DIFFERENCE:g} is allowed; please report this checkpoint"
        )
    return Agreement(
        what=f"{task} of prompts with pictures",
        texts=len(cosines),
        worst_cosine=min(cosines) if vectors else None,
        worst_difference=max(differences),
        tolerance=COSINE if vectors else DIFFERENCE,
    )


def _cosine(ours: Floats, theirs: Floats) -> float:
    """The least of any row's; -1 where the shapes differ."""
    if ours.shape != theirs.shape:
        return -1.0
    first, second = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)
    return float(((first * second).sum(axis=-1) / np.maximum(lengths, 1e-12)).min())


def _difference(ours: Floats, theirs: Floats) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    return float((np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max())

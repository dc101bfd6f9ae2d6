"""The prompts that every family on Qwen3-VL is compared on, of texts, pictures and a video."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_RNG = np.random.default_rng(0)
SIZES = {"wide": (40, 70), "tall": (200, 100), "strip": (33, 500)}
"""Height and width of the pictures."""
PICTURES = {name: _RNG.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in SIZES.items()}
CLIP = _RNG.integers(0, 256, (7, 64, 96, 3), dtype=np.uint8)
CLIP_FPS = 2.0


@dataclass(frozen=True)
class Prompt:
    text: str
    """With `{}` for each medium."""
    media: tuple[str, ...] = ()
    """Names of pictures, or `clip`."""


PROMPTS = (
    Prompt("the red planet!"),
    Prompt("a"),
    *(Prompt("<|im_start|>user\n{}what is this<|im_end|>\n", (name,)) for name in SIZES),
    Prompt("{} is not {}", ("wide", "tall")),
    Prompt("{}mars", ("clip",)),
    Prompt("{}{}the moon", ("strip", "clip")),
)

SENTENCES = ("the red planet!", "a")

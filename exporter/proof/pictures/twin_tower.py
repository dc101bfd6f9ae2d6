"""The vision half of a twin (proof/twin.py): which of its numbers shrink, and by what.

Its widths are divided by the number that divides the text model's, so that layers between the two halves stay
what they are. Sides of pictures and of patches stay, and so does every prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....runtime.errors import CheckpointError

if TYPE_CHECKING:
    from ...checkpoint import Checkpoint

NAME = re.compile(r"(?:^|\.)(?:visual|vision_model|vision_tower|vision_embed_tokens|vision)\.")
"""In the names of its tensors."""
PATCH = re.compile(r"(?:^|\.)patch_embed")
"""In the names of the layer that reads pixels, of which only the first axis is a width."""
PART = "vision_config"
WIDTH = ("embed_dim", "hidden_size")
"""Qwen2-VL calls the width `embed_dim`, and `hidden_size` is the text model's."""
HEADS = ("num_heads", "num_attention_heads")
DEPTH = ("depth", "num_hidden_layers")
WIDTHS = (*WIDTH, "intermediate_size", "out_hidden_size", "projection_dim")
LEVELS, WHOLE = "deepstack_visual_indexes", "fullatt_block_indexes"
"""Lists of layers: whose states go on as features, and that attend to the whole picture."""
KEPT = 3
"""Layers, so that the last but one is behind another."""
MULTIPLES = (1, 2, 3, 4, 9, 16, 25, 36)
"""Of the width: three projections in one, squares of patches as one row."""
ROTARY = 4
"""The width of a head stays a multiple of it, because rotary angles take a quarter for rows and columns."""
CLIP_HEAD = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """The numbers of a vision half."""

    width: int
    heads: int
    inner: int | None
    depth: int
    levels: int
    """Entries of LEVELS."""

    @property
    def kept(self) -> int:
        """Layers of the twin."""
        return min(self.depth, max(KEPT, self.levels + 1))

    def fewer(self, by: int) -> int | None:
        """By what the number of heads is divided where the width is divided by `by`; None: it cannot be."""
        head = self.width // self.heads
        for fewer in range(1, self.heads + 1):
            narrower = by // fewer
            if by % fewer or self.heads % fewer or head % narrower:
                continue
            if narrower == 1 or (head // narrower) % ROTARY == 0:
                return fewer
        return None

    def sizes(self, by: int) -> dict[int, int]:
        """Axis of a tensor -> axis in the twin."""
        inner = {} if self.inner is None else {self.inner: -(-self.inner // by)}
        return inner | {multiple * self.width: multiple * (self.width // by) for multiple in MULTIPLES}

    def config(self, old: Mapping[str, Any], by: int, sizes: Mapping[int, int]) -> dict[str, Any]:
        """The twin's settings."""
        new = dict(old)
        for key, value in old.items():
            if key in HEADS:
                new[key] = value // (self.fewer(by) or 1)
            elif key in DEPTH:
                new[key] = self.kept
            elif key in WIDTHS and isinstance(value, int):
                new[key] = sizes.get(value, value)
            elif key == LEVELS:
                new[key] = list(range(self.levels))
            elif key == WHOLE:
                new[key] = [1]
        return new


def tower(checkpoint: Checkpoint) -> Tower | None:
    """The vision half of a checkpoint; None: it reads texts only. Raises CheckpointError where its numbers
    are unknown."""
    if checkpoint.family.vision is None:
        return None
    part = checkpoint.config.get(PART)
    stated: Mapping[str, Any] = part if isinstance(part, Mapping) else _of_tensors(checkpoint)
    width, heads, depth = (
        next((stated[name] for name in names if isinstance(stated.get(name), int)), None)
        for names in (WIDTH, HEADS, DEPTH)
    )
    if width is None or heads is None or depth is None or width % heads:
        raise CheckpointError(
            f"{checkpoint.source}: no twin: {PART} does not say width, heads and layers, found {width}, "
            f"{heads} and {depth}"
        )
    inner = stated.get("intermediate_size")
    if inner is None and isinstance(ratio := stated.get("mlp_ratio"), int | float):
        inner = int(width * ratio)
    levels = stated.get(LEVELS)
    count = len(levels) if isinstance(levels, list | tuple) else 0
    return Tower(width=width, heads=heads, inner=inner, depth=depth, levels=count)


def _of_tensors(checkpoint: Checkpoint) -> dict[str, int]:
    """CLIP's numbers by the shapes of its tensors (Phi-3-Vision's config.json does not have them)."""
    shapes = {name: shape for name, shape in checkpoint.weights.shapes.items() if NAME.search(name)}
    width = next((shape[0] for name, shape in shapes.items() if PATCH.search(name)), 0)
    inner = next((shape[0] for name, shape in shapes.items() if name.endswith("mlp.fc1.weight")), 0)
    layers = {match[1] for name in shapes if (match := re.search(r"\.layers\.(\d+)\.", name))}
    known = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": len(layers)}
    return known | {"num_attention_heads": max(width // CLIP_HEAD, 1)} if width and inner and layers else {}

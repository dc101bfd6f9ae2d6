"""CLIP towers over tiles, read at an inner layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ....runtime.errors import CheckpointError
from .tiles import shuffled


def layers_of(tower: Any, pixel_values: torch.Tensor, numbers: Sequence[int]) -> list[torch.Tensor]:
    """The hidden states [batch, 1 + patches, width] of a CLIP vision model behind its layers of those
    numbers, as transformers counts them: 0 are the embeddings, -1 the last layer. No later layer runs."""
    tower = getattr(tower, "vision_model", tower)
    count = len(tower.encoder.layers)
    wanted = [number if number >= 0 else count + 1 + number for number in numbers]
    states = tower.pre_layrnorm(tower.embeddings(pixel_values))
    known = {0: states}
    for number, layer in enumerate(tower.encoder.layers[: max(wanted)], start=1):
        states = layer(states, None)
        states = states[0] if isinstance(states, tuple) else states
        known[number] = states
    return [known[number] for number in wanted]


class LineTower(nn.Module):
    """Tiles -> features of LLaVA-NeXT: the patches at an inner layer, projected, and the end of a line as one
    more row.

    `model`: transformers' LlavaNextModel. `numbers`: of the layers, whose states lie behind one another.
    """

    def __init__(self, model: Any, numbers: Sequence[int]) -> None:
        super().__init__()
        self.tower, self.projector, self.newline = (
            model.vision_tower,
            model.multi_modal_projector,
            model.image_newline,
        )
        self.numbers = numbers

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> [batch, patches + 1, width]"""
        states = torch.cat(layers_of(self.tower, pixel_values, self.numbers), dim=-1)
        rows = self.projector(states[:, 1:])
        end = self.newline.to(rows.dtype).expand(rows.shape[0], 1, -1)
        return torch.cat((rows, end), dim=1)


class BorderTower(nn.Module):
    """Tiles -> features of Phi-3-Vision: squares of four patches at an inner layer, a line's end and the
    border between views as two more rows, all of them projected.

    Args:
        source: named by errors.
        tower: CLIP's.
        number: of the layer.
        weights: of the projection and the two rows, by their stored names.
    """

    def __init__(self, source: str, tower: Any, number: int, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        self.tower, self.number = tower, number
        named = {name.split("vision_embed_tokens.")[-1]: tensor.float() for name, tensor in weights.items()}
        try:
            rows = [named.pop(name).reshape(1, 1, -1) for name in ("sub_GN", "glb_GN")]
            first, last = named["img_projection.0.weight"], named["img_projection.2.weight"]
            self.projection = nn.Sequential(
                nn.Linear(first.shape[1], first.shape[0]), nn.GELU(), nn.Linear(last.shape[1], last.shape[0])
            )
            self.projection.load_state_dict(
                {name.removeprefix("img_projection."): tensor for name, tensor in named.items()}
            )
        except (KeyError, IndexError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(f"{source}: the weights do not fit img_projection: {reason}") from error
        self.rows = nn.Parameter(torch.cat(rows, dim=1))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[batch, channels, height, width] -> [batch, patches / 4 + 2, width]"""
        [states] = layers_of(self.tower, pixel_values, [self.number])
        squares = shuffled(states[:, 1:], 2)
        rows = self.rows.expand(squares.shape[0], 2, -1)
        return self.projection(torch.cat((squares, rows), dim=1))

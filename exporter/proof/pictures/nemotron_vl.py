"""Llama-Nemotron-VL, assembled of transformers' SigLIP and Llama: InternVL's tiles by NVIDIA's score of
grids, its shuffle of pixels, and attention both ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....runtime.outputs import Floats
from . import drawn
from .assembled import Assembled, filled, pieces, scaled, values

PICTURE, BEGIN, END = "<image>", "<img>", "</img>"
TILES = {"llama_nemotron_vl": 6, "llama_nemotron_vl_rerank": 2}
"""Most tiles of a grid where no file says it."""
ENOUGH = 0.6
"""Share of a picture's area above which a grid is not better for having more."""
HALF = (0.5, 0.5, 0.5)


class NemotronVL(Assembled):
    parts = ("SiglipVisionModel", "LlamaModel")

    def open(self, tensors: Mapping[str, Any]) -> None:
        from torch import nn
        from transformers import LlamaConfig, LlamaModel, SiglipVisionConfig, SiglipVisionModel

        own = ("model_type", "architectures", "auto_map")
        text = {key: value for key, value in self.config["llm_config"].items() if key not in own}
        vision: dict[str, Any] = {
            key: value for key, value in self.config["vision_config"].items() if key not in own
        }
        self.language = filled(
            LlamaModel(LlamaConfig(**text)), tensors, "language_model.", without=("lm_head.", "score.")
        )
        tower = SiglipVisionModel(SiglipVisionConfig(**{**vision, "vision_use_head": False}))
        self.tower = filled(tower, tensors, "vision_model.", without=("head.", "vision_model.head."))
        wide, hidden = tensors["mlp1.1.weight"].shape[::-1]
        layers = nn.Sequential(
            nn.LayerNorm(wide), nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden)
        )
        self.projection = filled(layers, tensors, "mlp1.")
        self.side = int(self.config.get("force_image_size") or vision["image_size"])
        settings = self.file("processor_config.json")
        most = self.config.get("max_dynamic_patch") or TILES.get(str(self.config.get("model_type")), 1)
        cuts = settings.get("dynamic_image_size", self.config.get("dynamic_image_size", True))
        self.most = int(settings.get("max_input_tiles", most)) if cuts else 1
        self.overview = bool(settings.get("use_thumbnail", self.config.get("use_thumbnail", True)))

    def tiles(self, pixels: drawn.Pixels) -> tuple[Floats, tuple[int, int]]:
        from PIL import Image

        picture, side = Image.fromarray(pixels), self.side
        rows, columns = self._grid(picture.width, picture.height)
        whole = scaled(picture, columns * side, rows * side, Image.Resampling.BICUBIC)
        tiles = pieces(values(whole, HALF, HALF), side)
        if rows * columns > 1 and self.overview:
            small = scaled(picture, side, side, Image.Resampling.BICUBIC)
            tiles = np.concatenate([tiles, values(small, HALF, HALF)[None]])
        return tiles, (rows, columns)

    def _grid(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns: the grid of the best shape, weighted by how much of the picture's area it has.
        Of equally good ones the smallest."""

        def merit(grid: tuple[int, int]) -> float:
            shape, own = grid[1] / grid[0], width / height
            share = min(grid[0] * grid[1] * self.side**2 / (width * height), ENOUGH)
            return share * min(shape / own, own / shape)

        sides = range(1, self.most + 1)
        grids = [(rows, columns) for rows in sides for columns in sides if rows * columns <= self.most]
        return min(grids, key=lambda grid: (-merit(grid), grid[0] * grid[1]))

    def features(self, tiles: Floats, grid: tuple[int, int]) -> Any:
        import torch

        states = self.tower(pixel_values=torch.from_numpy(np.ascontiguousarray(tiles))).last_hidden_state
        count, patches, width = states.shape
        side = int(patches**0.5)
        factor = round(1 / self.config.get("downsample_ratio", 0.5))
        # InternVL folds columns into the width, then rows, and turns the axes back.
        folded = states.reshape(count, side, side // factor, width * factor).permute(0, 2, 1, 3)
        folded = folded.reshape(count, side // factor, side // factor, width * factor**2)
        rows = folded.permute(0, 2, 1, 3).reshape(count, (side // factor) ** 2, -1)
        return self.projection(rows).flatten(0, 1)

    def ids(self, text: str, counts: Sequence[int]) -> tuple[list[int], int]:
        mark = int(self.config.get("img_context_token_id", 128258))
        token = self.tokenizer.convert_ids_to_tokens(mark)
        first, *others = text.split(PICTURE)
        pictures = (
            f"{BEGIN}{token * count}{END}{other}" for count, other in zip(counts, others, strict=True)
        )
        return self.tokenizer("".join([first, *pictures]))["input_ids"], mark

    def hidden(self, embedded: Any) -> Any:
        import torch

        length = embedded.shape[1]
        # A mask of four axes is taken as it is, so that every token attends to every other.
        both = torch.zeros(1, 1, length, length)
        return self.language(inputs_embeds=embedded, attention_mask=both, use_cache=False)[0][0]

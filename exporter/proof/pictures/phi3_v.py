"""Phi-3-Vision, assembled of transformers' CLIP and Phi-3: the HD transform of its authors, squares of four
patches, and rows for the end of a line and the border between two views."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ....runtime.outputs import Floats
from . import drawn
from .assembled import Assembled, filled, scaled, values

PICTURE = re.compile(r"<\|image_(\d+)\|>")
MARK, MARK_ID = "<|image|>", 32044
PARTS = "vision_embed_tokens."
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WHITE = (255, 255, 255)
HEAD = 64
"""Width of a head of CLIP's towers."""
OWN = ("architectures", "model_type", "auto_map", "embd_layer", "img_processor")
"""Settings that are not Phi-3's."""


class Phi3Vision(Assembled):
    parts = ("CLIPVisionModel", "Phi3Model")

    def open(self, tensors: Mapping[str, Any]) -> None:
        from torch import nn
        from transformers import CLIPVisionConfig, CLIPVisionModel, Phi3Config, Phi3Model

        text = {key: value for key, value in self.config.items() if key not in OWN}
        if scaling := self.config.get("rope_scaling"):  # `su` is its older name
            text["rope_scaling"] = {**scaling, "type": "longrope", "rope_type": "longrope"}
        without = (PARTS, "lm_head.", "score.")
        self.language = filled(Phi3Model(Phi3Config.from_dict(text)), tensors, "", without=without)
        clip = f"{PARTS}img_processor."
        shapes = {
            name.removeprefix(clip).removeprefix("vision_model."): tensor.shape
            for name, tensor in tensors.items()
            if name.startswith(clip)
        }
        width, _, patch, _ = shapes["embeddings.patch_embedding.weight"]
        self.side = patch * math.isqrt(shapes["embeddings.position_embedding.weight"][0] - 1)
        stated = (self.config.get("img_processor") or {}).get("num_attention_heads")
        layers = {int(name.split(".")[2]) for name in shapes if name.startswith("encoder.layers.")}
        tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width, num_hidden_layers=len(layers),
                num_attention_heads=stated or max(width // HEAD, 1),
                intermediate_size=shapes["encoder.layers.0.mlp.fc1.weight"][0], patch_size=patch,
                image_size=self.side, hidden_act="quick_gelu",
            )
        )  # fmt: skip
        self.tower = filled(tower, tensors, clip)
        wide, hidden = tensors[f"{PARTS}img_projection.0.weight"].shape[::-1]
        projection = nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden))
        self.projection = filled(projection, tensors, f"{PARTS}img_projection.")
        self.end, self.border = (tensors[f"{PARTS}{name}"].reshape(1, -1) for name in ("sub_GN", "glb_GN"))
        self.settings = self.file("preprocessor_config.json")

    def tiles(self, pixels: drawn.Pixels) -> tuple[Floats, tuple[int, int]]:
        import torch
        from PIL import Image, ImageOps

        picture, side = Image.fromarray(pixels), self.side
        turned = picture.width < picture.height
        if turned:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        ratio = picture.width / picture.height
        across = 1
        while (across + 1) * math.ceil((across + 1) / ratio) <= self.settings.get("num_crops", 1):
            across += 1
        height = int(across * side / ratio)
        picture = scaled(picture, across * side, height, Image.Resampling.BILINEAR)
        missing = -height % side
        picture = ImageOps.expand(picture, (0, missing // 2, 0, missing - missing // 2), fill=WHITE)
        if turned:
            picture = picture.transpose(Image.Transpose.TRANSPOSE)
        mean, std = (
            self.settings.get(name, usual) for name, usual in (("image_mean", MEAN), ("image_std", STD))
        )
        whole = torch.from_numpy(values(picture, mean, std))
        small = torch.nn.functional.interpolate(whole[None], size=(side, side), mode="bicubic")
        rows, columns = whole.shape[1] // side, whole.shape[2] // side
        strips = (strip.split(side, dim=2) for strip in whole.split(side, dim=1))
        tiles = torch.stack([small[0], *(tile for strip in strips for tile in strip)])
        return tiles.numpy(), (rows, columns)

    def features(self, tiles: Floats, grid: tuple[int, int]) -> Any:
        import torch

        number = int((self.config.get("img_processor") or {}).get("layer_idx", -2))
        states = self.tower(torch.from_numpy(np.ascontiguousarray(tiles)), output_hidden_states=True)
        patches = states.hidden_states[number][:, 1:]
        side = math.isqrt(patches.shape[1])
        # [tiles, side, side, width] -> squares of two by two, the upper two in front of the lower two
        views = patches.reshape(len(patches), side, side, -1)
        corners = (views[:, row::2, column::2] for row in (0, 1) for column in (0, 1))
        squares = torch.cat(list(corners), dim=-1)
        rows, columns = grid
        tall = [torch.cat(list(squares[1 + row * columns :][:columns]), dim=1) for row in range(rows)]
        parts = [self._lines(torch.cat(tall)), self.border, self._lines(squares[0])]
        if (self.config.get("embd_layer") or {}).get("hd_transform_order", "sub_glb") == "glb_sub":
            parts.reverse()
        return self.projection(torch.cat(parts))

    def _lines(self, squares: Any) -> Any:
        """[rows, columns, width] -> [rows * (columns + 1), width], with the end of a line behind each."""
        import torch

        return torch.cat([torch.cat((line, self.end)) for line in squares])

    def ids(self, text: str, counts: Sequence[int]) -> tuple[list[int], int]:
        """The text between two pictures is tokenised by itself, each from its first token on."""
        known = self.tokenizer.convert_tokens_to_ids(MARK)
        mark = MARK_ID if known is None or known == self.tokenizer.unk_token_id else known
        ids: list[int] = []
        for place, part in enumerate(PICTURE.split(text)):
            number = int(part) - 1 if place % 2 else 0
            ids += [mark] * counts[number] if place % 2 else self.tokenizer(part)["input_ids"]
        return ids, mark

    def hidden(self, embedded: Any) -> Any:
        return self.language(inputs_embeds=embedded, use_cache=False)[0][0]

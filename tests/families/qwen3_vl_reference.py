"""transformers' own Qwen3VLModel on prompts with pictures, one prompt at a time: the independent side of the
tests of the families on Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from poolrt.runtime.inputs.media.medium import Medium

from . import natives

Floats = npt.NDArray[np.float32]
PREFIXES = ("base_model.model.", "vlm.", "model.")


def bare(name: str) -> str | None:
    """The name in Qwen3VLModel; None for tensors of heads."""
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name if name.startswith(("visual.", "language_model.")) else None


@dataclass
class Reference:
    """The model of a folder in eager float32."""

    folder: Path
    both_ways: bool = False
    """Nemotron: every token attends to all, and the last norm is left out."""

    def __post_init__(self) -> None:
        self.tensors = natives.tensors(self.folder)
        self.model = natives.build(self.folder, "Qwen3VLModel", rename=bare, model_type="qwen3_vl")
        if self.both_ways:
            language: Any = self.model.language_model
            plain = language.forward
            language.norm = torch.nn.Identity()

            def forward(**inputs: Any) -> Any:
                length = inputs["inputs_embeds"].shape[1]
                # A mask of four axes is taken as it is.
                return plain(**{**inputs, "attention_mask": torch.zeros(1, 1, length, length)})

            language.forward = forward

    def hidden(self, ids: Sequence[int], media: Sequence[Medium] = ()) -> Floats:
        """Hidden states [tokens, width] of one prompt with its pictures and videos in order."""
        config = self.model.config
        tokens = torch.tensor([list(ids)])
        kinds = (tokens == config.image_token_id).long() + 2 * (tokens == config.video_token_id).long()
        inputs: dict[str, Any] = {"input_ids": tokens, "mm_token_type_ids": kinds, "use_cache": False}
        for kind, pixels, grid in (
            ("image", "pixel_values", "image_grid_thw"),
            ("video", "pixel_values_videos", "video_grid_thw"),
        ):
            chosen = [medium for medium in media if medium.kind == kind]
            if chosen:
                rows = [item.arrays["pixel_values"] for medium in chosen for item in medium.items]
                inputs[pixels] = torch.from_numpy(np.concatenate(rows))
                inputs[grid] = torch.tensor([self._grid(medium) for medium in chosen])
        with torch.inference_mode():
            return self.model(**inputs).last_hidden_state[0].numpy()

    def _grid(self, medium: Medium) -> list[int]:
        merge = self.model.config.vision_config.spatial_merge_size
        rows, columns = medium.grids[0]
        return [len(medium.items), rows * merge, columns * merge]

    def projected(self, hidden: Floats, *, dims: int | None = None) -> Floats:
        """The late interaction's vectors of hidden states: the projection with its bias, L2-normalised."""
        named = {
            name.rsplit(".", 1)[-1]: tensor
            for name, tensor in self.tensors.items()
            if "text_proj" in name or "proj_layer" in name
        }
        weight, bias = named["weight"].float().numpy(), named.get("bias")
        values = hidden @ weight.T
        values = values if bias is None else values + bias.float().numpy()
        return normalised(values[:, :dims])


def normalised(values: Floats) -> Floats:
    return values / np.linalg.norm(values, axis=-1, keepdims=True)

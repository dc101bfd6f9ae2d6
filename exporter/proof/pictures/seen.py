"""PyTorch's side of pictures: each through the module that was exported, alone and without padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ....runtime.inputs.items import VisionItem
from ....runtime.outputs import Floats
from ...base.refusals import in_one_sentence

if TYPE_CHECKING:
    from ...graph.tracing import PictureModel


class Seen:
    """The features or embeddings of pictures. Each is computed once, by its digest."""

    def __init__(self, module: PictureModel) -> None:
        self._module = module
        self._known: dict[bytes, Floats] = {}

    def of(self, item: VisionItem) -> Floats:
        """[rows, width], or an embedding [width]. Raises CheckpointError where PyTorch fails."""
        if item.digest not in self._known:
            self._known[item.digest] = self._computed(item)
        return self._known[item.digest]

    def _computed(self, item: VisionItem) -> Floats:
        import torch

        from ...graph.streaming import widened

        pixels = item.arrays["pixel_values"]
        arrays = {"patch_mask": np.ones(len(pixels), np.int64), **item.arrays}
        with (
            in_one_sentence("PyTorch cannot compute a picture"),
            torch.inference_mode(),
            widened(self._module),
        ):
            inputs = (
                torch.from_numpy(np.ascontiguousarray(arrays[name]))[None] for name in self._module.names
            )
            return self._module(*inputs)[0].float().numpy()

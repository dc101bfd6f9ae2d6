"""Readers of models that transformers has no class of: its classes of their parts, and between them what the
models' authors describe, written from their descriptions.

Nothing of exporter/families or the runtime is used here, because both are compared with it.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ....runtime.artifact.images import Kernel
from ....runtime.outputs import Floats
from ...base.quiet import silent_transformers
from ...files import weights
from . import drawn, passes
from .beside import Missing
from .prompted import Shown

OUTER = ("base_model.model.", "model.")
"""What published files put in front of a tensor's name."""


class Assembled:
    """Parts of transformers over one checkpoint's files, in float32.

    Args:
        folder: of config.json, the weights, the tokenizer and the processor.
        config: config.json with overrides.

    Raises Missing where a part does not read the files.
    """

    parts: tuple[str, ...] = ()
    """Names of transformers' classes."""
    processor = (
        "Pillow, transformers has no class of the whole: what stands between its parts is written anew"
    )
    kernel: Kernel = "pillow"

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        import transformers

        self.name = f"transformers {importlib.metadata.version('transformers')} {' and '.join(self.parts)}"
        self.config, self.folder = config, folder
        try:
            with silent_transformers():
                self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(
                    str(folder), local_files_only=True, trust_remote_code=False
                )
                self.open(_tensors(folder))
        except Missing:
            raise
        except Exception as error:  # each means that the parts do not read these files
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self.name} do not open: {reason}") from None

    def open(self, tensors: Mapping[str, Any]) -> None:
        """Loads the parts. `tensors`: without OUTER in their names, in float32."""
        raise NotImplementedError

    def tiles(self, pixels: drawn.Pixels) -> tuple[Floats, tuple[int, int]]:
        """The tiles of a picture [tiles, 3, side, side], and the rows and columns of its grid."""
        raise NotImplementedError

    def features(self, tiles: Floats, grid: tuple[int, int]) -> Any:
        """Rows of features of a picture, [rows, width]."""
        raise NotImplementedError

    def ids(self, text: str, counts: Sequence[int]) -> tuple[list[int], int]:
        """Token ids of a prompt, and the one that stands for a feature. `counts`: features by picture."""
        raise NotImplementedError

    def hidden(self, embedded: Any) -> Any:
        """Hidden states [tokens, width] of embedded tokens [1, tokens, width]."""
        raise NotImplementedError

    def read(self, text: str, pictures: Sequence[drawn.Pixels]) -> Shown:
        """The prompt alone, with hidden states [tokens, width]. Raises Missing where a part fails."""
        import torch

        try:
            with torch.inference_mode():
                cut = [self.tiles(pixels) for pixels in pictures]
                rows = [self.features(*tiles) for tiles in cut]
                ids, mark = self.ids(text, [len(part) for part in rows])
                tokens = torch.tensor([ids])
                embedded = self.language.get_input_embeddings()(tokens)
                if rows:
                    embedded[tokens == mark] = torch.cat(rows)
                hidden = self.hidden(embedded).float().numpy()
        except Exception as error:
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, {self.name} fail on them: {reason}") from None
        pixels = np.concatenate([tiles for tiles, _ in cut]) if cut else None
        return Shown(ids=ids, pixels=pixels, hidden=np.asarray(hidden))

    language: Any

    def logits(self, hidden: Floats) -> Floats:
        """No score of these models is read from the language model's output. Raises Missing."""
        raise Missing("its pictures are not compared, its scores are words of its language model")

    def file(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty where there is none."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _tensors(folder: Path) -> dict[str, Any]:
    opened = weights.open_folder(folder)
    tensors: dict[str, Any] = {}
    for stored in opened:
        name = stored
        while prefix := next((prefix for prefix in OUTER if name.startswith(prefix)), ""):
            name = name.removeprefix(prefix)
        tensors[name] = opened.read(stored).float()
    return tensors


def filled(module: Any, tensors: Mapping[str, Any], prefix: str, *, without: tuple[str, ...] = ()) -> Any:
    """The module with the tensors behind `prefix`, which must be all that it has, and no more.

    `without`: beginnings of names behind `prefix` that are left out.
    """
    inside = {
        name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)
    }
    if any(name.startswith("vision_model.") for name in module.state_dict()) != any(
        name.startswith("vision_model.") for name in inside
    ):  # releases of transformers differ in this part of the names
        inside = {name.removeprefix("vision_model."): tensor for name, tensor in inside.items()}
    module.load_state_dict(
        {name: tensor for name, tensor in inside.items() if not name.startswith(without or ("\0",))}
    )
    return module.eval()


def scaled(picture: Any, width: int, height: int, resample: Any) -> Any:
    """A picture of Pillow in another size."""
    with passes.horizontal_first():
        return picture.resize((width, height), resample)


def values(picture: Any, mean: Sequence[float], std: Sequence[float]) -> Floats:
    """A picture of Pillow, normalised, [3, height, width]."""
    shares = np.asarray(picture, np.float32).transpose(2, 0, 1) / np.float32(255)
    middle, spread = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (mean, std))
    return (shares - middle) / spread


def pieces(array: Floats, side: int) -> Floats:
    """[3, rows * side, columns * side] -> tiles by rows [rows * columns, 3, side, side]."""
    rows, columns = array.shape[1] // side, array.shape[2] // side
    grid = array.reshape(3, rows, side, columns, side).transpose(1, 3, 0, 2, 4)
    return grid.reshape(rows * columns, 3, side, side)

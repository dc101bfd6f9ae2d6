"""A shrunken twin of a checkpoint: the same files with fewer and narrower layers and random weights.

The twin has the config.json keys, tensor names, tokenizer and modules of the original. Where poolrt and the
library read the twin alike, they read the original alike. It is written for a checkpoint that is too large to
be loaded twice. It is also the cheapest test of a recipe or a new family, because only headers and JSON of
the original are read.

    folder = twin.write(checkpoint.read("Qwen/Qwen3-Embedding-8B"), place)
    library_reference.compare(folder)
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..files import weights
from .twin_scale import Scale, scaled

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".h5", ".msgpack")


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes the twin into `folder` (which may exist) and returns it. Raises CheckpointError where
    config.json names no sizes."""
    raw = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    scale = scaled(checkpoint, raw)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _small_files(checkpoint.folder):
        place = folder / path.relative_to(checkpoint.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        if place.name == "config.json" and place.parent != folder:
            _module_config(place, scale)
    (folder / "config.json").write_text(json.dumps(scale.config, indent=2), encoding="utf-8")
    base = getattr(checkpoint.weights, "base", None)
    opened = checkpoint.weights if base is None else base
    _weights(
        opened, scale, folder / "model.safetensors", tied=bool(scale.config.get("tie_word_embeddings", False))
    )
    inside = [path for pattern in ("*/*", "*/*/*") for path in checkpoint.folder.glob(pattern)]
    for place in sorted({path.parent for path in inside if path.name in weights.SINGLES}):
        _weights(
            weights.open_folder(place),
            scale,
            folder / place.relative_to(checkpoint.folder) / "model.safetensors",
        )
    for path in (path for path in inside if path.name == "adapter_model.safetensors"):
        _weights(weights.open_files([path]), scale, folder / path.relative_to(checkpoint.folder))
    for path in checkpoint.folder.glob("*.pt"):
        _pickled(path, scale, folder / path.name)
    return folder


def _small_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and not path.name.endswith((*WEIGHTS, ".index.json")):
            yield path


def _module_config(path: Path, scale: Scale) -> None:
    settings = json.loads(path.read_text(encoding="utf-8"))
    keys = ("in_features", "out_features", "dimension", "word_embedding_dimension", "embedding_dimension")
    path.write_text(
        json.dumps(
            {k: scale.sizes.get(v, v) if k in keys and isinstance(v, int) else v for k, v in settings.items()}
        ),
        encoding="utf-8",
    )


def _weights(opened: weights.Weights, scale: Scale, path: Path, *, tied: bool = False) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, shape in opened.shapes.items():
        stored = opened.places[name][1]
        if scale.has(stored):
            tensors[stored] = _random(name, scale.shape(name, shape), seed=len(tensors))
    table = next(
        (
            name
            for name in tensors
            if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))
        ),
        None,
    )
    for name in tensors if tied and table is not None else ():
        if (
            name.endswith(("lm_head.weight", "predictions.decoder.weight"))
            and tensors[name].shape == tensors[table or ""].shape
        ):
            tensors[name] = tensors[table or ""].clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def _pickled(path: Path, scale: Scale, place: Path) -> None:
    import torch

    tensors = torch.load(path, map_location="cpu", weights_only=True)
    torch.save(
        {
            name: _random(name, scale.shape(name, tuple(tensor.shape)), seed=index)
            for index, (name, tensor) in enumerate(tensors.items())
        },
        place,
    )


def _random(name: str, shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    """Random numbers of a size with which every tensor changes the result: rows of a product keep their
    length, norms are near one, biases are not zero."""
    import torch

    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).expand(shape).contiguous()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    if len(shape) > 1:
        table = re.search(r"embed|wte|wpe|shared", name) is not None
        return noise * (0.5 if table else 1.2 / math.prod(shape[1:]) ** 0.5)
    return 1.0 + 0.3 * noise if name.endswith("weight") else 0.2 * noise

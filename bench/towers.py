"""Vision towers of published sizes with random weights, and how each library computes one: pictures of one
size, from the array of pixels to the features.

Checkpoints are written by the builders that the tests use (tests/families), with the published sizes.
"""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Tower = Literal["siglip", "qwen3-vl"]
ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 480, 640
BATCH = 8
"""Pictures that PyTorch computes at once."""

# google/siglip-base-patch16-224
SIGLIP = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 16,
}  # fmt: skip
# Qwen/Qwen3-VL-2B; the language model behind it is two narrow layers, since the tower is what is measured.
QWEN3_VL = {
    "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
    "num_position_embeddings": 2304, "deepstack_visual_indexes": [5, 11, 17],
}  # fmt: skip
QWEN3_VL_TEXT = {"hidden_size": 2048, "num_hidden_layers": 3}


def write(name: Tower, folder: Path, *, tiny: bool = False) -> Path:
    """Writes a checkpoint, or leaves the one that is there, and returns its folder."""
    place = folder / (f"{name}-tiny" if tiny else name)
    if (place / "complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    sys.path.insert(0, str(ROOT))
    import torch
    import transformers

    if name == "siglip":
        towers: Any = importlib.import_module("tests.families.towers")
        towers.siglip(place, side=32 if tiny else 224, **({} if tiny else {"vision": SIGLIP, "text": {
            "projection_size": 768}}))  # fmt: skip
        kind: Any = transformers.SiglipModel
    else:
        family: Any = importlib.import_module("tests.families.qwen3_vl")
        family.qwen3_vl_embedding(place, **({} if tiny else {"vision": QWEN3_VL, "text": QWEN3_VL_TEXT}))
        kind = transformers.Qwen3VLForConditionalGeneration
    # The tests' weights are large, so that faults show. Twenty layers of them would overflow.
    torch.manual_seed(0)
    config = kind.config_class.from_pretrained(place)
    for path in place.glob("*.safetensors*"):
        path.unlink()
    plain = (place / "config.json").read_bytes()
    kind(config).save_pretrained(place)
    (place / "config.json").write_bytes(plain)
    (place / "complete").touch()
    return place


def picture(seed: str) -> NDArray[np.uint8]:
    """[HEIGHT, WIDTH, 3], smooth as a photo is; another one for each seed."""
    rng = np.random.default_rng(int(seed))
    coarse = rng.integers(0, 256, (HEIGHT // 32 + 1, WIDTH // 32 + 1, 3)).astype(np.float32)
    rows, columns = np.arange(HEIGHT) / 32, np.arange(WIDTH) / 32
    down, right = rows.astype(int), columns.astype(int)
    a, b = (rows - down)[:, None, None], (columns - right)[None, :, None]
    upper = coarse[down][:, right] * (1 - b) + coarse[down][:, right + 1] * b
    lower = coarse[down + 1][:, right] * (1 - b) + coarse[down + 1][:, right + 1] * b
    return (upper * (1 - a) + lower * a).astype(np.uint8)


Encode = Callable[[Sequence[NDArray[np.uint8]]], NDArray[np.float32]]


def poolrt(settings: dict[str, Any], imported: Callable[[], None]) -> tuple[Encode, str]:
    """Features as the worker of pictures returns them, before any of them is kept."""
    sys.path.insert(0, str(ROOT))
    import conftest  # noqa: F401

    load = importlib.import_module("poolrt.runtime.loader").load
    prepared = importlib.import_module("poolrt.runtime.inputs.media.prepared")
    imported()
    model = load(settings["path"], threads=settings["threads"], engine=settings.get("engine", "auto"))
    stage = model._stages.vision

    def encode(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        items = [item for pixels in pictures for item in prepared.image(model.manifest.images, pixels).items]
        rows = stage.worker.submit(items, stage.output).result().rows
        return np.stack([np.asarray(row, dtype=np.float32).reshape(-1) for row in rows])

    assert model.vision_engine is not None
    return encode, f"poolrt with {model.vision_engine.name}"


def transformers(settings: dict[str, Any], imported: Callable[[], None]) -> tuple[Encode, str]:
    """Its own class and picture processor, BATCH pictures at once."""
    import torch

    torch.set_num_threads(settings["threads"])
    library: Any = importlib.import_module("transformers")
    imported()
    dtype = getattr(torch, settings.get("dtype", "float32"))
    model: Any = library.AutoModel.from_pretrained(settings["path"], dtype=dtype).eval()
    processor: Any = library.AutoImageProcessor.from_pretrained(settings["path"])
    is_qwen = json.loads((Path(settings["path"]) / "config.json").read_text())["model_type"] == "qwen3_vl"

    def encode(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        rows: list[NDArray[np.float32]] = []
        for start in range(0, len(pictures), BATCH):
            batch = list(pictures[start : start + BATCH])
            inputs = processor(images=batch, return_tensors="pt")
            pixels = inputs["pixel_values"].to(dtype)
            with torch.inference_mode():
                if is_qwen:
                    tower: Any = model.visual(pixels, grid_thw=inputs["image_grid_thw"], return_dict=True)
                    levels = [tower.pooler_output, *tower.deepstack_features]
                    features = torch.cat(levels, dim=-1).reshape(len(batch), -1)
                else:
                    features = model.vision_model(pixels).pooler_output
            rows.append(features.float().numpy())
        return np.concatenate(rows)

    version = importlib.import_module("importlib.metadata").version
    return encode, f"transformers {version('transformers')}, torch {version('torch')}"

"""Settings of picture processors as the exporter reads them, beside transformers' processors on Pillow."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from poolrt.exporter import checkpoint as checkpoints
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.media import prepared

from tests import pictures
from tests.families import pages, towers

PIXELS = 1e-5
"""Of values up to 255 where nothing divides them: float32 sums in another order, relative to the largest."""
COSINE = 1 - 1e-6
SIZES = ((70, 40), (200, 100), (64, 64), (70, 66))
"""(width, height): none is so tall that Pillow 13 turns the order of its passes."""
SETTINGS = "preprocessor_config.json"
OLD: dict[str, Any] = {"feature_extractor_type": None}
HALVES = {"height": 40, "width": 36}
CLIP: dict[str, dict[str, Any]] = {
    "edge above the cut": {"size": {"shortest_edge": 40}},
    "edge below the cut": {"size": 20},
    "squashed, then cut": {"size": HALVES},
    "squashed": {"size": {"height": 32, "width": 32}, "do_center_crop": False},
    "cut as it is": {"do_resize": False},
    "a square number": {"default_to_square": True},
    "bilinear": {"resample": 2},
    "box": {"resample": 4},
    "hamming": {"resample": 5},
    "another factor": {"rescale_factor": 1 / 127.5},
    "a factor alone": {"rescale_factor": 0.01, "do_normalize": False},
    "no factor": {"do_rescale": False},
    "bytes": {"do_rescale": False, "do_normalize": False},
    "one number": {"image_mean": 0.4, "image_std": 0.3},
    "of transformers 4": {"image_processor_type": "CLIPImageProcessorFast", **OLD},
    "SigLIP's class": {
        "image_processor_type": "SiglipImageProcessor", "size": {"height": 32, "width": 32},
        "crop_size": None, "do_center_crop": None, "image_mean": None, "image_std": None, **OLD,
    },
    "ViT's class": {
        "image_processor_type": "ViTImageProcessor", "size": 32, "crop_size": None, "do_center_crop": None,
        "resample": None, "image_mean": None, "image_std": None, **OLD,
    },
}  # fmt: skip
SIGLIP: dict[str, dict[str, Any]] = {
    "cut": {"size": HALVES, "do_center_crop": True, "crop_size": 32},
    "edge": {"size": {"shortest_edge": 33}, "do_center_crop": True, "crop_size": 32},
}
TILES: dict[str, dict[str, Any]] = {
    "squashed, then cut": {"size": {"height": 100, "width": 140}},
    "as it is": {"do_resize": False},
    "as it is, whole": {"do_resize": False, "do_image_splitting": False},
    "another factor": {"rescale_factor": 1 / 127.5},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two edges": ({"size": {"shortest_edge": 32, "longest_edge": 48}}, "expected height and width, or short"),
    "no cut": ({"do_center_crop": False}, "leaves pictures their shape"),
    "neither": ({"do_center_crop": False, "do_resize": False}, "leaves pictures their shape"),
    "the class's cut": ({"crop_size": None}, "makes pictures of 224 x 224, the vision model reads 32 x 32"),
    "a smaller cut": ({"size": {"height": 32, "width": 32}, "crop_size": 24}, "makes pictures of 24 x 24"),
    "KOSMOS's square": ({"use_square_size": True, "do_center_crop": False}, "makes pictures of 224 x 224"),
    "padded": ({"do_pad": True, "pad_size": {"height": 40, "width": 40}}, "makes pictures of 40 x 40"),
    "no number": ({"rescale_factor": "1/255"}, "no usable rescale_factor"),
    "another class": (
        {"image_processor_type": "BitImageProcessor"},
        "names BitImageProcessor, whose pictures",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`folder("clip")`: a checkpoint, the same one at every call."""
    home, written = tmp_path_factory.mktemp("settings"), dict[str, Path]()
    write: dict[str, Callable[[Path], Path]] = {
        "clip": towers.clip, "siglip": towers.siglip, "tiles": pages.colmodernvbert
    }  # fmt: skip

    def find(name: str) -> Path:
        if name not in written:
            written[name] = write[name](home / name)
            (home / f"{name}.json").write_bytes((home / name / SETTINGS).read_bytes())
        settings = json.loads((home / f"{name}.json").read_text())
        (home / name / SETTINGS).write_text(json.dumps(settings))
        return written[name]

    return find


def changed(folder: Path, file: str = SETTINGS, **changes: Any) -> Path:
    """The folder with other settings; None removes one."""
    settings = json.loads((folder / file).read_text()) | changes
    kept = {key: value for key, value in settings.items() if value is not None}
    (folder / file).write_text(json.dumps(kept))
    return folder


def read(folder: Path) -> Images:
    opened = checkpoints.read(folder, recipe=None)
    assert opened.family.vision is not None
    return opened.family.vision.images(opened)


CASES = [
    *(("clip", name, CLIP[name]) for name in CLIP),
    *(("siglip", name, SIGLIP[name]) for name in SIGLIP),
    *(("tiles", name, TILES[name]) for name in TILES),
]


@pytest.mark.parametrize(
    ("kind", "name", "changes"), CASES, ids=[f"{kind}, {name}" for kind, name, _ in CASES]
)
def test_pictures_are_prepared_as_the_processor_of_the_files_does(
    kind: str, name: str, changes: dict[str, Any], folder: Callable[[str], Path]
) -> None:
    from PIL import Image

    opened = changed(folder(kind), **changes)
    images = dataclasses.replace(read(opened), kernel="pillow")
    processor = transformers.AutoImageProcessor.from_pretrained(opened, backend="pil")
    for size in SIZES:
        pixels = pictures.drawn(*size)
        rows = [item.arrays["pixel_values"] for item in prepared.image(images, pixels).items]
        expected = processor(images=Image.fromarray(pixels), return_tensors="np")["pixel_values"]
        theirs: NDArray[np.float32] = np.asarray(expected, np.float32).reshape(-1, 3, *rows[0].shape[1:])
        np.testing.assert_allclose(np.stack(rows), theirs, rtol=PIXELS, atol=PIXELS * np.abs(theirs).max())


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_the_vision_model_cannot_follow_are_refused(
    name: str, folder: Callable[[str], Path]
) -> None:
    changes, reason = REFUSED[name]
    opened = changed(folder("clip"), **changes)
    with pytest.raises(CheckpointError, match=reason):
        read(opened)


@pytest.mark.parametrize("named", ["CLIPImageProcessorPil", "CLIPImageProcessor"])
def test_the_name_of_a_class_does_not_decide_whose_resize_it_is(
    named: str, folder: Callable[[str], Path]
) -> None:
    """transformers opens either name as its torchvision class where torchvision is there, as vLLM does."""
    assert read(changed(folder("clip"), image_processor_type=named)).kernel == "torchvision"


def test_filters_that_torchvision_lacks_are_pillows(folder: Callable[[str], Path]) -> None:
    assert read(changed(folder("clip"), resample=5)).kernel == "pillow"


def test_settings_inside_the_processors_file_come_first(folder: Callable[[str], Path]) -> None:
    opened = folder("clip")
    settings = json.loads((opened / SETTINGS).read_text()) | {"size": 40}
    (opened / "processor_config.json").write_text(json.dumps({"image_processor": settings}))
    try:
        assert read(opened).shortest_edge == 40
    finally:
        (opened / "processor_config.json").unlink()


def texts(folder: Path, lines: list[str], *, width: int | None = None) -> tuple[Any, Any]:
    """Vectors of texts by our modules, and by transformers' class. `width`: tokens they are padded to."""
    opened = checkpoints.read(folder, recipe=None)
    plan = planning.plan(opened)
    module = tracing.module(opened, plan)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    padding = {"padding": True} if width is None else {"padding": "max_length", "max_length": width}
    known = tokenizer(lines, truncation=True, return_tensors="pt", **padding)
    mask = known.get("attention_mask", torch.ones_like(known["input_ids"]))
    with torch.inference_mode():
        ours = module(known["input_ids"], mask)[0]
        output = model.get_text_features(
            input_ids=known["input_ids"], **({"attention_mask": mask} if width is None else {})
        )
        theirs = getattr(output, "pooler_output", output)
    return ours, theirs


def test_a_text_without_the_end_that_is_stated_is_pooled_as_transformers_does(tmp_path: Path) -> None:
    """A config.json with some keys only has the class's id of that token, which a small tokenizer lacks. All
    texts are alike then."""
    folder = towers.clip(tmp_path / "clip")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"].pop("eos_token_id")
    (folder / "config.json").write_text(json.dumps(config))
    ours, theirs = texts(folder, ["a cat", "two cats sleeping"])
    assert torch.cosine_similarity(ours, theirs).min() > COSINE
    assert torch.cosine_similarity(ours[:1], ours[1:]).min() > COSINE


def test_an_embedding_needs_no_temperature(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = towers.siglip(tmp_path / "siglip")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("logit_")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    ours, theirs = texts(folder, ["a cat"], width=64)
    assert torch.cosine_similarity(ours, theirs).min() > COSINE


def test_siglip_keeps_the_case_where_its_tokenizer_says_so(tmp_path: Path) -> None:
    folder = changed(towers.siglip(tmp_path / "siglip"), "tokenizer_config.json", do_lower_case=False)
    opened, theirs = checkpoints.read(folder, recipe=None), transformers.AutoTokenizer.from_pretrained(folder)
    assert opened.text.tokenizer.encode("A Cat").ids == theirs("A Cat")["input_ids"]
    assert opened.text.tokenizer.encode("A Cat").ids != theirs("a cat")["input_ids"]


def test_siglip_is_padded_to_the_tokens_that_its_tokenizer_allows(tmp_path: Path) -> None:
    folder = changed(towers.siglip(tmp_path / "siglip"), "tokenizer_config.json", model_max_length=24)
    text = planning.plan(checkpoints.read(folder, recipe=None)).text
    assert (text.max_tokens, text.pad_to) == (24, 24)


def test_a_tower_without_a_head_is_refused(tmp_path: Path) -> None:
    folder = towers.siglip(tmp_path / "siglip", vision={"vision_use_head": False})
    with pytest.raises(CheckpointError, match="transformers makes no vectors of its pictures"):
        read(folder)

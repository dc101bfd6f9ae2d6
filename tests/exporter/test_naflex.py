"""SigLIP 2 NaFlex: pictures in their own shape and texts, beside transformers' class and its Pillow
processor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.runtime import load
from poolrt.runtime.errors import CheckpointError, InputError
from poolrt.runtime.inputs.media import patches, prepared
from transformers.models.siglip2 import image_processing_pil_siglip2 as theirs

from tests.conftest import exported
from tests.families import proof, towers
from tests.families.llava import pillow_12
from tests.families.pages import PAGES

COSINE = 1 - 1e-6  # float32 on both sides
TEXTS = ("a photo of a cat", "x", "numbers 1 2 3 " * 30)
PIL = {"backend": "pil"}


def read(folder: Path, page: Any, **more: Any) -> dict[str, Any]:
    """The processor's tensors of a picture [height, width, channels]."""
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings = {key: value for key, value in settings.items() if not key.endswith(("_type", "_class"))}
    # Without do_convert_rgb, grey and transparent pictures do not fit the vision model.
    kind: Any = theirs.Siglip2ImageProcessorPil
    processor = kind(**settings | {"do_convert_rgb": True} | more)
    with pillow_12():
        picture = Image.fromarray(page[..., 0] if page.shape[-1] == 1 else page)
        return dict(processor(images=[picture], return_tensors="pt"))


def ours_of(values: Any, count: int) -> Any:
    """Patches as the vision graph reads them: a plane of each colour."""
    pixels = values[:count].reshape(count, 8, 8, 3)
    return pixels.permute(0, 3, 1, 2).reshape(count, -1).numpy()


def test_texts_and_pictures_of_any_shape_are_those_of_transformers(tmp_path: Path) -> None:
    folder = towers.naflex(tmp_path / "naflex")
    model: Any = transformers.Siglip2Model.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with load(
        exported("naflex", lambda place: towers.naflex(place / "naflex")), mm_processor_kwargs=PIL
    ) as opened:
        images = opened.manifest.images
        assert images is not None
        proof.shown(opened.manifest)
        ours, expected = [], []
        answers = opened.embed([{"image": page} for page in PAGES])
        for page, answer in zip(PAGES, answers, strict=True):
            inputs = read(folder, page)
            [item] = prepared.image(images, page, options=PIL).items
            rows, columns = inputs["spatial_shapes"][0].tolist()
            count = rows * columns
            assert item.arrays["patch_positions"][0, 2:].tolist() == [rows, columns]
            np.testing.assert_array_equal(
                item.arrays["pixel_values"], ours_of(inputs["pixel_values"][0], count)
            )
            with torch.inference_mode():
                expected.append(model.get_image_features(**inputs).pooler_output[0].numpy())
            ours.append(np.asarray(answer.outputs.embedding))
        for text, answer in zip(TEXTS, opened.embed(list(TEXTS), truncate_prompt_tokens=-1), strict=True):
            inputs = tokenizer(
                text.lower(), padding="max_length", max_length=64, truncation=True, return_tensors="pt"
            )
            with torch.inference_mode():
                output = model.get_text_features(input_ids=inputs["input_ids"])
            expected.append(output.pooler_output[0].numpy())
            ours.append(np.asarray(answer.outputs.embedding))
        assert proof.cosines(ours, expected).min() > COSINE

        few = prepared.image(images, PAGES[0], options=PIL | {"max_num_patches": 6})
        shape = read(folder, PAGES[0], max_num_patches=6)["spatial_shapes"][0].tolist()
        assert few.items[0].arrays["patch_positions"][0, 2:].tolist() == shape
        with pytest.raises(InputError, match="'max_pixels' changes nothing here"):
            prepared.image(images, PAGES[0], options={"max_pixels": 64})


def test_every_shape_has_the_size_that_the_processor_computes() -> None:
    sides = [1, 2, 7, 15, 16, 17, 33, 70, 223, 224, 500, 3000, 65535]
    for height in sides:
        for width in sides:
            for most in (1, 20, 256, 1024):
                expected = theirs.get_image_size_for_max_num_patches(height, width, 16, most)
                assert patches.counted(height, width, 16, most) == expected


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"image_processor_type": "SiglipImageProcessor"}, "makes no patches of pictures in their own shape"),
        ({"patch_size": 16}, "cuts patches of 16 pixels"),
        ({"do_resize": False}, "do_resize is false"),
    ],
    ids=["class", "patches", "resize"],
)
def test_processors_that_are_not_known_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    folder = towers.naflex(tmp_path / "strange")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(CheckpointError, match=reason):
        planning.plan(checkpoint.read(folder, recipe=None))

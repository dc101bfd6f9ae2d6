"""Models that read pictures: two graphs behind the calls of one model, compared with the graphs in numpy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from poolrt.runtime import load
from poolrt.runtime.errors import InputError
from poolrt.runtime.model import Model

from . import picture_models as tiny

SAME = 1e-5  # unit vectors in float32; measured 1e-7
RED = np.full((40, 70, 3), (250, 10, 10), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (33, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(tiny.write(tmp_path_factory.mktemp("pictures")), threads=1) as opened:
        yield opened


def vectors(model: Model, *prompts: object) -> np.ndarray:
    """[prompts, dim]: what numpy computes of the items of prompts."""
    rows = np.stack([tiny.read(item).mean(axis=0) for item in model.preparation.singles(prompts)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_prompt_may_be_a_picture_text_or_both(model: Model) -> None:
    prompts = [Image.fromarray(RED), {"text": "a red page", "image": RED}, "a red page", NOISE]
    outputs = model.embed(prompts)
    np.testing.assert_allclose(np.asarray(outputs), vectors(model, *prompts), atol=SAME)


def test_vllms_form_is_the_same_prompt(model: Model) -> None:
    placeholder = tiny.PICTURES.placeholder
    own = {"text": "a red page", "image": [RED, NOISE]}
    parts = [
        {"type": "image", "image": RED},
        {"type": "image_pil", "image_pil": Image.fromarray(NOISE)},
        {"type": "text", "text": "a red page"},
    ]
    forms = [
        {"prompt": f"{placeholder}{placeholder}a red page", "multi_modal_data": {"image": [RED, NOISE]}},
        {"prompt": "a red page", "multi_modal_data": {"image": [RED, NOISE]}},
        {"content": parts},
    ]
    outputs = np.asarray(model.embed([own, *forms]))
    np.testing.assert_allclose(outputs, np.tile(outputs[:1], (4, 1)), atol=SAME)
    assert not np.allclose(
        outputs[0], np.asarray(model.embed({"text": "a red page", "image": [NOISE, RED]}))[0]
    )


def test_a_text_model_refuses_pictures_as_before(tmp_path: Path) -> None:
    with load(tiny.write(tmp_path, images=None), threads=1) as model:
        with pytest.raises(InputError, match="this model reads text only, found multi_modal_data"):
            model.embed({"prompt": "a", "multi_modal_data": {"image": RED}})
        with pytest.raises(InputError, match="expected text, token ids"):
            model.embed(Image.fromarray(RED))

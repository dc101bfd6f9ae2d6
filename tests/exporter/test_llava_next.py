"""LLaVA-NeXT: prompts, tiles and numbers beside transformers' class and its Pillow processor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.files import recipe
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime import PoolingParams, load
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs import templates
from poolrt.runtime.inputs.media import prepared

from tests.checkpoints import HIDDEN, configure, rewrite_weights
from tests.conftest import exported
from tests.families import llava, proof
from tests.families.natives import tensors
from tests.painted import painted

COSINE = 1 - 1e-6  # float32 on both sides
SIZES = [(70, 40), (200, 100), (33, 120), (64, 48), (1, 1), (28, 28), (61, 59), (77, 200), (1, 300)]
PAGES = [painted(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("name", ["e5_v", pytest.param("llava_next_new", marks=pytest.mark.slow)])
def test_pages_and_words_become_the_vectors_of_the_authors_class(name: str, tmp_path: Path) -> None:
    theirs = llava.Reference(llava.ALL[name](tmp_path / name))
    artifact = exported(f"llava-{name}", lambda folder: llava.ALL[name](folder / name))
    with load(artifact, mm_processor_kwargs={"backend": "pil"}) as model:
        images = model.manifest.images
        assert images is not None
        proof.shown(model.manifest)
        ours, expected = [], []
        for text in ("what is the capital of france", "red"):
            [answer] = model.embed([text])
            assert answer.prompt_token_ids == theirs.ids(text)
            ours.append(np.asarray(answer.outputs.embedding))
            expected.append(theirs.last(theirs.ids(text)).numpy())
        for page in PAGES:
            medium = prepared.image(images, page, options={"backend": "pil"})
            pixels = theirs.pixels(page)["pixel_values"][0].numpy()
            for item, tile in zip(medium.items, pixels, strict=True):
                np.testing.assert_array_equal(item.arrays["pixel_values"], tile)
            prompt = {"prompt": "red <image> paris", "multi_modal_data": {"image": page}}
            [answer] = model.embed([prompt])
            ids = theirs.ids("red <image> paris", tokens=medium.tokens)
            assert answer.prompt_token_ids == ids
            ours.append(np.asarray(answer.outputs.embedding))
            expected.append(theirs.last(ids, page).numpy())
        assert proof.cosines(ours, expected).min() > COSINE


def test_two_pictures_of_one_prompt_keep_their_places(tmp_path: Path) -> None:
    theirs = llava.Reference(llava.e5_v(tmp_path / "e5_v"))
    artifact = exported("llava-e5_v", lambda folder: llava.e5_v(folder / "e5_v"))
    first, second = PAGES[0], PAGES[1]
    with load(artifact, mm_processor_kwargs={"backend": "pil"}) as model:
        prompt = {"prompt": "<image> red <image>", "multi_modal_data": {"image": [first, second]}}
        [answer] = model.embed([prompt])
        torch = theirs.torch
        with torch.inference_mode():
            hidden = theirs.model.model(
                input_ids=torch.tensor([list(answer.prompt_token_ids)]),
                use_cache=False,
                **theirs.pixels(first, second),
            ).last_hidden_state[0, -1]
        assert proof.cosines([np.asarray(answer.outputs.embedding)], [hidden.numpy()])[0] > COSINE


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"vision_feature_select_strategy": "full"}, "strategy 'full', whose features are no square"),
        ({"image_grid_pinpoints": [[28, 56]]}, "has other image_grid_pinpoints than config.json"),
    ],
    ids=["strategy", "resolutions"],
)
def test_settings_that_are_not_known_are_refused(
    tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    folder = llava.e5_v(tmp_path / "strange")
    configure(folder, **settings)
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=reason):
        tracing.module(read, planning.plan(read))


@pytest.mark.parametrize(
    ("text", "media", "asked"),
    [
        ("a cat", "", "a cat\nSummary above sentence in one word: "),
        ("", "<image>", "<image>\nSummary above image in one word: "),
        ("a cat", "<image>", "<image>\na cat\nSummary above image in one word: "),
    ],
)
def test_e5_v_sums_its_input_up_in_one_word(text: str, media: str, asked: str) -> None:
    known = recipe.find("royokong/e5-v")
    assert known is not None
    user, assistant = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
    for side in known.sides().values():
        assert side.template is not None
        written = templates.render(side.template, {"text": text, "media": media})
        assert written == f"{user}{asked}<|eot_id|>{assistant} \n"


@pytest.mark.slow
def test_a_converted_classifier_gives_the_logits_of_its_labels(tmp_path: Path) -> None:
    def write(folder: Path) -> Path:
        weight = torch.randn(3, HIDDEN, generator=torch.Generator().manual_seed(1)) / 4
        rewrite_weights(llava.e5_v(folder), lambda name: name, add={"score.weight": weight})
        configure(folder, id2label={"0": "page", "1": "photo", "2": "chart"})
        return folder

    theirs = llava.Reference(llava.e5_v(tmp_path / "scored"))
    weight = tensors(write(tmp_path / "scored"))["score.weight"].numpy()
    artifact = exported("llava-scored", lambda folder: write(folder / "scored"), convert="classify")
    with load(artifact, mm_processor_kwargs={"backend": "pil"}) as model:
        proof.shown(model.manifest)
        assert model.manifest.heads["classify"].labels == ("page", "photo", "chart")
        ours, expected = [], []
        for page in (None, *PAGES[:2]):
            prompt: Any = {"prompt": "red <image> paris", "multi_modal_data": {"image": page}}
            prompt = "red" if page is None else prompt
            [answer] = model.classify([prompt], pooling_params=PoolingParams(use_activation=False))
            ours.append(np.asarray(answer.outputs.probs, np.float32))
            expected.append(weight @ theirs.last(list(answer.prompt_token_ids), page).numpy())
        assert proof.differences(ours, expected) < proof.DIFFERENCE

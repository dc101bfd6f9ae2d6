"""Phi-3-Vision: prompts, tiles and numbers beside transformers' classes of its parts."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.files import recipe
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime import load
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.errors import CheckpointError, InputError
from poolrt.runtime.inputs import templates
from poolrt.runtime.inputs.media import prepared

from tests.conftest import exported
from tests.families import phi3v, proof
from tests.painted import painted

COSINE = 1 - 1e-6  # float32 on both sides
BICUBIC = 2e-6  # of normalised values up to 3: torch adds the four taps in another order
ONE_BY_ONE = 1e-5  # of features up to 10: CLIP sees the tiles one by one, and adds in another order
SIZES = [(70, 40), (200, 100), (33, 120), (64, 48), (1, 1), (56, 56), (61, 59), (77, 200)]
PAGES = [painted(*size, seed) for seed, size in enumerate(SIZES)]
TEXTS = (
    "red",
    "what is the capital of france and of all its neighbours in the world today, tell me every one",
)


@pytest.mark.parametrize("name", ["vlm2vec", pytest.param("phi3v_other", marks=pytest.mark.slow)])
def test_pages_and_words_become_the_vectors_of_the_authors_classes(name: str, tmp_path: Path) -> None:
    theirs = phi3v.Reference(phi3v.ALL[name](tmp_path / name))
    artifact = exported(f"phi3v-{name}", lambda folder: phi3v.ALL[name](folder / name))
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        proof.shown(model.manifest)
        ours, expected = [], []

        def compare(prompt: str, *pages: Any) -> None:
            content: Any = {"prompt": prompt, "multi_modal_data": {"image": list(pages)}} if pages else prompt
            [answer] = model.embed([content])
            ids, hidden = theirs.last(prompt, list(pages))
            assert answer.prompt_token_ids == ids
            ours.append(np.asarray(answer.outputs.embedding))
            expected.append(hidden.numpy())

        for text in TEXTS:
            compare(text)
        for page in PAGES:
            tiles, rows, columns = theirs.pixels(page)
            medium = prepared.image(images, page)
            assert len(medium.items) == 1 + rows * columns
            first, *rest = [item.arrays["pixel_values"] for item in medium.items]
            np.testing.assert_allclose(first, tiles[0], atol=BICUBIC)
            np.testing.assert_array_equal(np.stack(rest), tiles[1:])
            compare("<|image_1|> Represent the given image.", page)
        compare("red <|image_2|> or <|image_1|>", PAGES[0], PAGES[1])
        assert proof.cosines(ours, expected).min() > COSINE
        compare_places(theirs, PAGES[7])
        compare_crops(images, theirs)


def compare_places(theirs: phi3v.Reference, page: Any) -> None:
    """Every token is where the authors' classes put it: each square of four patches is looked up by its place
    in the scaled picture, and no array is turned round."""
    torch, side = theirs.torch, theirs.side
    canvas, (whole, *_) = theirs.canvas(page), theirs.pixels(page)[0]
    tower = theirs.tower.config
    edge = side // tower.patch_size

    def square(pixels: Any, row: int, column: int) -> Any:
        """What CLIP's last layer but one says of four patches, in reading order; its first row is of none."""
        states = seen(pixels)
        places = [(2 * row + down) * edge + 2 * column + across for down in (0, 1) for across in (0, 1)]
        return torch.cat([states[1 + place] for place in places])

    @functools.cache
    def seen(pixels: Any) -> Any:
        return theirs.tower(pixels[None], output_hidden_states=True).hidden_states[-2][0]

    def read(tiles: list[list[Any]]) -> list[Any]:
        """The lines of a picture cut into rows of tiles, an end behind each."""
        half, rows = edge // 2, []
        for line in range(half * len(tiles)):
            for place in range(half * len(tiles[0])):
                rows.append(square(tiles[line // half][place // half], line % half, place % half))
            rows.append(theirs.line.flatten())
        return rows

    tiles = [
        [canvas[:, top : top + side, left : left + side] for left in range(0, canvas.shape[2], side)]
        for top in range(0, canvas.shape[1], side)
    ]
    with torch.inference_mode():
        views = [read(tiles), [theirs.border.flatten()], read([[whole]])]
        if theirs.config["embd_layer"]["hd_transform_order"] == "glb_sub":
            views.reverse()
        rows = theirs.projection(torch.stack([row for view in views for row in view]))
        np.testing.assert_allclose(theirs.features(page), rows, atol=ONE_BY_ONE)


def compare_crops(images: Images, theirs: phi3v.Reference) -> None:
    """vLLM's example of VLM2Vec-Full sets the number of tiles."""
    for crops in (1, 9):
        theirs.crops = crops
        for page in PAGES[:4]:
            tiles, _, _ = theirs.pixels(page)
            first, *rest = prepared.image(images, page, options={"num_crops": crops}).items
            np.testing.assert_allclose(first.arrays["pixel_values"], tiles[0], atol=BICUBIC)
            np.testing.assert_array_equal(np.stack([item.arrays["pixel_values"] for item in rest]), tiles[1:])


def test_pictures_are_numbered(tmp_path: Path) -> None:
    artifact = exported("phi3v-vlm2vec", lambda folder: phi3v.vlm2vec(folder / "vlm2vec"))
    with load(artifact) as model:
        two = {"image": PAGES[:2]}
        [numbered] = model.embed([{"prompt": "<|image_1|><|image_2|>red", "multi_modal_data": two}])
        [bare] = model.embed([{"prompt": "red", "multi_modal_data": two}])
        assert bare.prompt_token_ids == numbered.prompt_token_ids
        [talk] = model.embed(
            [{"prompt": "<|image_1|><|image_2|>red", "multi_modal_data": two}], add_special_tokens=False
        )
        assert talk.prompt_token_ids == numbered.prompt_token_ids  # a conversation too begins with its token
        for prompt in ("<|image_1|><|image_1|>", "<|image_1|><|image_3|>"):
            with pytest.raises(InputError, match="twice or beyond the number of its images"):
                model.embed([{"prompt": prompt, "multi_modal_data": two}])
        with pytest.raises(InputError, match=r"Found more '<\|image_1\|>' placeholders"):
            model.embed([{"prompt": "<|image_1|><|image_2|>", "multi_modal_data": {"image": PAGES[0]}}])


@pytest.mark.parametrize(
    ("text", "media", "side", "written"),
    [
        ("a cat", "", "query", "Find me an everyday image that matches the given caption: a cat"),
        ("", "<|image_1|>", "document", "<|image_1|> Represent the given image."),
        ("who?", "<|image_1|>", "document",
         "<|image_1|> Represent the given image with the following question: who?"),
        ("a cat", "", "document", "a cat"),
    ],
)  # fmt: skip
def test_vlm2vec_prompts_both_sides(text: str, media: str, side: str, written: str) -> None:
    known = recipe.find("TIGER-Lab/VLM2Vec-Full")
    assert known is not None
    template = known.sides()[side].template
    assert template is not None
    assert templates.render(template, {"text": text, "media": media}) == written


@pytest.mark.parametrize(
    ("file", "settings", "reason"),
    [
        ("config.json", {"embd_layer": {"use_hd_transform": False}}, "use_hd_transform False of embd_layer"),
        ("config.json", {"embd_layer": {"hd_transform_order": "sub"}}, "hd_transform_order 'sub'; expected"),
        ("preprocessor_config.json", {"num_img_tokens": 144},
         "counts 144 tokens of a tile, the vision model gives 4"),
    ],
    ids=["layout", "order", "tokens"],
)  # fmt: skip
def test_settings_that_are_not_known_are_refused(
    tmp_path: Path, file: str, settings: dict[str, Any], reason: str
) -> None:
    folder = phi3v.vlm2vec(tmp_path / "strange")
    content = json.loads((folder / file).read_text(encoding="utf-8")) | settings
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=reason):
        tracing.module(read, planning.plan(read))

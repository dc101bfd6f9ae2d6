"""Models that read pictures: two graphs behind the calls of one model, compared with the graphs in numpy."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from poolrt.runtime import LLM, load
from poolrt.runtime.artifact.manifest import Role
from poolrt.runtime.commands import cli
from poolrt.runtime.errors import InputError, UnknownOption
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.multimodal import media_reading
from poolrt.runtime.model import Model

from . import picture_models as tiny

SAME = 1e-5  # unit vectors and probabilities in float32; measured 1e-7
RED = np.full((40, 70, 3), (250, 10, 10), np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (33, 90, 3), dtype=np.uint8)
SMALL = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PLACEHOLDER = tiny.PICTURES.placeholder
Open = Callable[..., Model]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with load(tiny.write(tmp_path_factory.mktemp("pictures")), threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Open]:
    """`opened(roles=..., load={...})`: a tiny model with this manifest, closed at the end."""
    models: list[Model] = []

    def make(*, options: dict[str, Any] | None = None, **facts: Any) -> Model:
        folder = tiny.write(tmp_path_factory.mktemp("pictures"), **facts)
        models.append(load(folder, threads=1, **(options or {})))
        return models[-1]

    yield make
    for each_model in models:
        each_model.close(10)


def vectors(model: Model, *prompts: object, **options: Any) -> NDArray[np.float32]:
    """[prompts, dim]: what numpy computes of the items of prompts."""
    rows = np.stack([tiny.read(item).mean(axis=0) for item in model.preparation.singles(prompts, **options)])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def tokens(model: Model, prompt: object, **options: Any) -> list[str]:
    [item] = model.preparation.singles([prompt], **options)
    return model.preparation.encoder.pieces(item.ids)


def collapsed(pieces: Sequence[str]) -> str:
    """The tokens as text, with each run of picture tokens as one and its length."""
    runs: list[list[Any]] = []
    for piece in pieces:
        if runs and piece in (tiny.IMAGE, tiny.VIDEO) and runs[-1][0] == piece:
            runs[-1][1] += 1
        else:
            runs.append([piece, 1])
    return " ".join(
        f"{piece}*{count}" if piece in (tiny.IMAGE, tiny.VIDEO) else piece for piece, count in runs
    )


def features(picture: NDArray[np.uint8]) -> int:
    return prepared.image(tiny.PICTURES, picture).tokens


# Forms of a prompt


def test_a_prompt_may_be_a_picture_text_or_both(model: Model) -> None:
    prompts = [Image.fromarray(RED), {"text": "a red page", "image": RED}, "a red page", NOISE, [10, 11, 12]]
    outputs = model.embed(prompts)
    np.testing.assert_allclose(np.asarray(outputs), vectors(model, *prompts), atol=SAME)
    assert [output.prompt_tokens for output in outputs] == [
        2 + 2 + features(RED),  # usage counts picture tokens
        2 + 2 + features(RED) + 3,
        5,
        2 + 2 + features(NOISE),
        3,
    ]


def test_one_picture_is_one_prompt_and_a_batch_of_pictures_several(model: Model) -> None:
    assert len(model.embed(Image.fromarray(RED))) == 1
    assert len(model.embed(RED)) == 1
    assert len(model.embed(np.stack([RED, RED]))) == 2
    assert len(model.embed([RED, Image.fromarray(RED)])) == 2
    assert len(model.embed(np.array([[10, 11], [12, 13]]))) == 2  # token ids
    grey = RED[..., :1].copy()
    np.testing.assert_allclose(*np.asarray(model.embed([grey, grey.repeat(3, axis=2)])), atol=SAME)


def test_pictures_come_as_pillow_arrays_bytes_or_files(model: Model, tmp_path: Path) -> None:
    image = Image.fromarray(NOISE)
    data = io.BytesIO()
    image.save(data, "PNG")
    path = tmp_path / "noise.png"
    path.write_bytes(data.getvalue())
    url = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    forms = [
        image, NOISE, path, {"image": str(path)}, {"image": data.getvalue()}, {"image": image},
        {"content": [{"type": "image_url", "image_url": {"url": url}}]},
        {"content": [{"image_url": url}]},
        {"content": [{"type": "image_pil", "image_pil": image}, {"type": "input_text", "text": ""}]},
        {"multi_modal_data": {"image": [image]}}, {"prompt": "", "multi_modal_data": {"image": image}},
        {"prompt": PLACEHOLDER, "multi_modal_data": {"image": np.stack([NOISE])}},
    ]  # fmt: skip
    rows = np.asarray(model.embed(forms))
    np.testing.assert_allclose(rows, np.tile(vectors(model, NOISE), (len(forms), 1)), atol=SAME)


def test_pictures_stand_where_their_placeholders_stand(model: Model) -> None:
    data = {"image": [RED, SMALL]}
    first, second = features(RED), features(SMALL)
    one, two = (f"{tiny.START} {tiny.IMAGE}*{count} {tiny.END}" for count in (first, second))
    front = f"<s> {one} {two} a page </s>"
    assert collapsed(tokens(model, {"text": "a page", **data})) == front
    assert collapsed(tokens(model, {"prompt": "a page", "multi_modal_data": data})) == front
    between = {"prompt": f"a {PLACEHOLDER} red {PLACEHOLDER} page", "multi_modal_data": data}
    assert collapsed(tokens(model, between)) == (f"<s> a {one} red {two} page </s>")
    bare = {"prompt": f"a {tiny.IMAGE} red {tiny.IMAGE} page", "multi_modal_data": data}
    assert collapsed(tokens(model, bare)) == f"<s> a {tiny.IMAGE}*{first} red {tiny.IMAGE}*{second} page </s>"
    rows = np.asarray(
        model.embed([between, {"prompt": between["prompt"], "multi_modal_data": {"image": [SMALL, RED]}}])
    )
    assert np.abs(rows[0] - rows[1]).max() > 0.01  # the order of two pictures matters


def test_token_ids_with_a_token_for_each_picture(model: Model) -> None:
    image = tiny.SPECIAL.index(tiny.IMAGE)
    data = {"image": [RED, SMALL]}
    first, second = features(RED), features(SMALL)
    ids = [2, 10, image, 11, image, 3]
    whole = [2, 10, *[image] * first, 11, *[image] * second, 3]
    for prompt in (ids, whole):
        [item] = model.preparation.singles([{"prompt_token_ids": prompt, "multi_modal_data": data}])
        assert item.ids == whole
    [item] = model.preparation.singles([{"prompt_token_ids": [10, 3], "multi_modal_data": data}])
    start, end = tiny.SPECIAL.index(tiny.START), tiny.SPECIAL.index(tiny.END)
    assert item.ids == [start, *[image] * first, end, start, *[image] * second, end, 10, 3]
    with pytest.raises(InputError, match="Expected there to be 2 prompt placeholders"):
        model.embed({"prompt_token_ids": [2, image, 3], "multi_modal_data": data})


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"prompt": PLACEHOLDER * 2, "multi_modal_data": {"image": RED}},
         "Found more '<|vision_start|><|image_pad|><|vision_end|>' placeholders in input prompt than actual "
         "multimodal data items"),
        ({"prompt": PLACEHOLDER, "multi_modal_data": {"image": [RED, RED]}},
         "Expected there to be 2 prompt placeholders corresponding to 2 image items, but instead found 1"),
        ({"text": "a", "picture": RED}, "unknown 'picture'; known are text, image"),
        ({"picture": RED}, "an object needs one of the keys 'text', 'image'"),
        ({"prompt": "a", "multi_modal_data": {"audio": RED}}, "found audio"),
        ({"prompt": "a", "multi_modal_data": RED}, "multi_modal_data: expected an object, found ndarray"),
        ({"text": 5, "image": RED}, "expected text, found int"),
        ({"image": "nowhere.png"}, "input 0: image 0: nowhere.png: cannot be read"),
        ({"image": b"<svg/>"}, "input 0: image 0: cannot identify image file"),
        ({"image": RED, "mm_processor_kwargs": {"pixels": 1}}, "'pixels' changes nothing here"),
        ({"image": RED, "mm_processor_kwargs": 5}, "mm_processor_kwargs: expected an object"),
        ({"image": [None]}, "it is None, and has no uuid"),
        ({"image": RED, "multi_modal_uuids": {"image": ["a", "b"]}}, "2 names of images, and there are 1"),
        ({"content": [{"type": "audio_url", "audio_url": {}}]},
         "Unsupported chat content part type: 'audio_url'"),
        ({"content": [{"foo": 1}]}, "Missing 'type' field"),
        ({"content": [{"type": "text"}]}, "needs `text`, a string"),
        ({"content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
         "'https' is not opened"),
        ({"content": [{"type": "image_url", "image_url": {"url": "ftp://x/y.png"}}]},
         "The URL must be either a HTTP, data or file URL."),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,=!"}}]},
         "not base64"),
        ({"video": np.zeros((3, 3), np.uint8)}, "video 0"),
        ({"video": np.zeros((3, 8, 8, 3), np.uint8), "fps": "2"}, "fps is '2', expected frames per second"),
        ({"video": (np.zeros((3, 8, 8, 3), np.uint8), {"fps": 0})}, "fps is 0, expected frames per second"),
        ({"content": [{"type": "image_url", "image_url": {"url": 5}}]}, "`image_url` needs `url`, a string"),
        ({"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64"}}]}, "has a comma"),
        ({"content": 5}, "content must be text or a list of parts"),
        ({"content": [5]}, "expected text or an object, found int"),
        ({"prompt_token_ids": "a", "multi_modal_data": {"image": RED}}, "text goes under 'prompt'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_name(model: Model, prompt: Any, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        model.embed(["a", prompt] if "input 0" not in message else prompt)
    assert message in str(refusal.value)


def test_a_text_with_the_models_own_picture_tokens_is_refused_beside_a_picture(model: Model) -> None:
    [item] = model.preparation.singles(
        [f"a {tiny.IMAGE} page"]
    )  # without a picture it is a token as any other
    assert item.feature_places is None
    ids = [tiny.SPECIAL.index(tiny.IMAGE)] * (features(RED) + 1)
    with pytest.raises(InputError, match="placeholders in input prompt than actual"):
        model.embed({"prompt_token_ids": ids, "multi_modal_data": {"image": RED}})


def test_a_text_model_refuses_pictures_as_before(opened: Open) -> None:
    model = opened(images=None)
    with pytest.raises(InputError, match="this model reads text only, found multi_modal_data"):
        model.embed({"prompt": "a", "multi_modal_data": {"image": RED}})
    with pytest.raises(InputError, match="expected text, token ids"):
        model.embed(Image.fromarray(RED))
    with pytest.raises(InputError, match="expected text, or an object with a list `content`"):
        model.score("a", {"image": RED})
    with pytest.raises(InputError, match="this model's roles take none"):
        model.embed("a", instruction="b")


# Videos, positions


def test_a_video_is_groups_of_frames_with_their_times(model: Model) -> None:
    frames = np.stack([SMALL, NOISE[:16, :16]] * 4)
    text = collapsed(tokens(model, {"text": "a page", "video": frames, "fps": 4}))
    group = f"{tiny.START} {tiny.VIDEO}*4 {tiny.END}"
    assert text.count(group) == 2  # four of eight frames, two a group
    assert text.endswith("a page </s>")
    assert "seconds" in text
    both = collapsed(tokens(model, {"text": "a page", "image": RED, "video": frames, "fps": 4}))
    assert both.index(tiny.VIDEO) < both.index(tiny.IMAGE)  # videos come first
    prompts = [
        {"video": (frames, {"fps": 4}), "text": "a"},
        {"prompt": "a", "multi_modal_data": {"video": [(frames, {"fps": 4})]}},
        {"content": [{"type": "video", "video": frames, "fps": 4}, {"type": "text", "text": "a"}]},
        {"video": frames, "fps": 4, "text": "a"},
    ]
    rows = np.asarray(model.embed(prompts))
    np.testing.assert_allclose(rows, np.tile(vectors(model, prompts[0]), (4, 1)), atol=SAME)
    assert len(tokens(model, {"video": frames, "fps": 1})) > len(tokens(model, {"video": frames, "fps": 4}))


def test_positions_follow_the_grid_of_a_picture(model: Model) -> None:
    [item] = model.preparation.singles([{"text": "a red page", "image": SMALL}])
    assert item.positions is not None
    # <s> <start> 2x2 <end> a red page </s>
    assert item.positions.tolist() == [
        [0, 1, 2, 2, 2, 2, 4, 5, 6, 7, 8],
        [0, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 2, 3, 4, 5, 6, 7, 8],
    ]
    [text] = model.preparation.singles(["a"])
    assert text.positions is None


# Roles


ROLES = {
    "query": Role(prefix="query : ", suffix="</s></s>"),
    "document": Role(template=tiny.TEMPLATE),
}


def test_a_roles_template_writes_texts_and_pictures(opened: Open) -> None:
    model = opened(roles=ROLES, instruction="Represent input", prompts={"judge": "judge yes no"})
    rows, picture = features(RED), f"{tiny.START} {tiny.IMAGE}*{features(RED)} {tiny.END}"
    assert rows
    written = "<s> <|im_start|> system {} <|im_end|> <|im_start|> user {} <|im_end|> </s>"
    cases: list[tuple[Any, dict[str, Any], str]] = [
        ("a page", {}, "<s> a page </s>"),
        ("a page", {"role": "document"}, written.format("Represent input", "a page")),
        (RED, {"role": "document"}, written.format("Represent input", f"{picture} no text")),
        ({"text": "a page", "image": RED}, {"role": "document", "instruction": "yes"},
         written.format("yes", f"{picture} a page")),
        ("a page", {"role": "document", "prompt_name": "judge"}, written.format("judge yes no", "a page")),
        ({"text": "a page", "image": RED}, {"role": "query"}, f"<s> query : {picture} a page </s> </s> </s>"),
        ("a page", {"role": "query"}, "<s> query : a page </s> </s> </s>"),
        ({"prompt": "a page"}, {"role": "document"}, written.format("Represent input", "a page")),
        ("a page", {"role": "document", "add_special_tokens": False}, "a page"),
        ([10, 11], {"role": "document"}, " ".join(tiny.WORDS[:2])),
    ]  # fmt: skip
    for prompt, options, expected in cases:
        assert collapsed(tokens(model, prompt, **options)) == expected, (prompt, options)
        np.testing.assert_allclose(
            np.asarray(model.embed(prompt if isinstance(prompt, list) else [prompt], **options)),
            vectors(model, prompt, **options),
            atol=SAME,
        )


def test_a_default_roles_template_leaves_finished_prompts_alone(opened: Open) -> None:
    model = opened(roles=ROLES, default_role="document", instruction="Represent input")
    assert "system" in tokens(model, "a page")
    assert "system" in tokens(model, {"text": "a page", "image": RED})
    assert "system" not in tokens(model, {"prompt": "a page", "multi_modal_data": {"image": RED}})
    assert "system" not in tokens(model, "a page", add_special_tokens=False)
    assert model.tokenize("a page") == model.preparation.encoder.tokenize("a page")


# Truncation


def test_truncation_cuts_text_around_pictures(model: Model) -> None:
    rows = features(SMALL)
    text = " ".join(["a", "red", "blue", "green"] * 4)
    front = f"<s> {tiny.START} {tiny.IMAGE}*{rows} {tiny.END}"
    prompt = {"text": text, "image": SMALL}
    [item] = model.preparation.singles([prompt], limits=limits(rows + 6))
    assert item.truncated
    assert collapsed(model.preparation.encoder.pieces(item.ids)) == f"{front} a red </s>"
    assert collapsed(tokens(model, prompt, limits=limits(rows + 6, "left"))) == (
        f"<s> {tiny.START} {tiny.IMAGE}*{rows} {tiny.END} blue green </s>"
    )
    assert collapsed(tokens(model, prompt, limits=limits(rows + 6, "right"))) == f"{front} a red blue"
    behind = {"prompt": f"{text} {PLACEHOLDER}", "multi_modal_data": {"image": SMALL}}
    assert collapsed(tokens(model, behind, limits=limits(rows + 6))) == (
        f"<s> a red {tiny.START} {tiny.IMAGE}*{rows} {tiny.END} </s>"
    )
    with pytest.raises(
        InputError, match=f"its pictures and what stands around them need {rows + 4} tokens, and 6"
    ):
        model.embed(prompt, truncate_prompt_tokens=6)
    with pytest.raises(InputError, match="maximum context length is 256 tokens, found"):
        model.embed({"text": "a " * 300, "image": SMALL})
    assert (
        len(model.embed({"text": "a " * 300, "image": SMALL}, truncate_prompt_tokens=-1)[0].prompt_token_ids)
        == 256
    )


def test_truncation_keeps_a_template_whole(opened: Open) -> None:
    model = opened(roles=ROLES, instruction="judge")
    rows = features(SMALL)
    fixed = 11 + rows
    prompt = {"text": "a red blue green page", "image": SMALL}
    for most, words in (
        (fixed + 2, "a red"),
        (fixed + 4, "a red blue green"),
        (fixed + 5, "a red blue green page"),
    ):
        assert collapsed(tokens(model, prompt, limits=limits(most), role="document")) == (
            f"<s> <|im_start|> system judge <|im_end|> <|im_start|> user {tiny.START} {tiny.IMAGE}*{rows} "
            f"{tiny.END} {words} <|im_end|> </s>"
        )
    assert collapsed(tokens(model, prompt, limits=limits(fixed + 2, "left"), role="document")).endswith(
        f"{tiny.END} green page <|im_end|> </s>"
    )
    with pytest.raises(InputError, match="need"):
        tokens(model, prompt, limits=limits(fixed - 1), role="document")
    assert collapsed(tokens(model, "a red blue", limits=limits(10), role="document")).endswith(
        "user a <|im_end|> </s>"
    )
    assert collapsed(tokens(model, "a red blue", limits=limits(7), role="query")) == (
        "<s> query : a </s> </s> </s>"
    )


def limits(most: int, side: Any = None) -> Any:
    from poolrt.runtime.inputs.items import TokenLimits

    return TokenLimits(truncate_prompt_tokens=most, truncation_side=side)


# Limits, options, uuids, features


def test_media_are_counted_before_they_are_decoded(opened: Open) -> None:
    model = opened(options={"limit_mm_per_prompt": {"image": 1, "video": {"count": 0}}})
    with pytest.raises(InputError) as refusal:
        model.embed({"image": [b"broken", b"too"]})
    assert str(refusal.value).startswith("At most 1 image(s) may be provided in one prompt.")
    assert refusal.value.field == "image"
    with pytest.raises(InputError, match=r"At most 0 video\(s\)"):
        model.embed({"video": np.zeros((2, 16, 16, 3), np.uint8)})
    with pytest.raises(InputError, match=r"At most 1 image\(s\)"):
        model.score("a", [{"image": [RED, RED]}])
    assert len(model.embed({"image": RED})) == 1
    frames = np.stack([SMALL] * 4)
    assert len(opened(options={"limit_mm_per_prompt": {"image": 0}}).embed({"video": frames})) == 1
    with pytest.raises(InputError, match=r"At most 1 image\(s\) may be provided in one prompt\.$"):
        opened(images=tiny.APART, options={"limit_mm_per_prompt": {"image": 5}}).embed({"image": [RED, RED]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_mm_per_prompt": {"picture": 1}}, "unknown kind 'picture'"),
        ({"limit_mm_per_prompt": {"image": -1}}, "image is -1, expected a whole number from 0"),
        ({"limit_mm_per_prompt": 3}, "expected an object, found int"),
        ({"mm_processor_kwargs": {"pixels": 3}}, "'pixels' changes nothing here"),
        ({"mm_processor_kwargs": {"max_pixels": "many"}}, "max_pixels is 'many'"),
        ({"mm_processor_kwargs": 3}, "mm_processor_kwargs: expected an object, found int"),
        ({"media_io_kwargs": {"image": {"mode": "L"}}}, "'mode' is not followed here"),
        ({"media_io_kwargs": {"video": {"fps": 1, "backend": "x"}}}, "'backend' is not followed here"),
        ({"media_io_kwargs": {"image": {"fps": 1}}}, "'fps' is not followed here"),
        ({"media_io_kwargs": {"video": 3}}, "video: expected an object, found int"),
        ({"mm_processor_cache_gb": -1}, "mm_processor_cache_gb is -1"),
        ({"mm_processor_cache_gb": True}, "mm_processor_cache_gb is True"),
    ],
)
def test_wrong_options_of_load_are_named(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tiny.write(tmp_path), **options)


def test_options_of_a_text_model(tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, images=None)
    load(folder, limit_mm_per_prompt={"image": 1}, mm_processor_cache_gb=0).close()  # as in vLLM's scripts
    with pytest.raises(InputError, match="this model reads text only"):
        load(folder, mm_processor_kwargs={"max_pixels": 64})


def test_mm_processor_kwargs_of_the_model_and_of_a_prompt(opened: Open) -> None:
    model = opened(options={"mm_processor_kwargs": {"max_pixels": 64 * 4}})
    picture = f"{tiny.START} {tiny.IMAGE}*{{}} {tiny.END}"
    assert picture.format(4) in collapsed(tokens(model, SMALL[:16, :16].repeat(3, axis=0).repeat(3, axis=1)))
    assert picture.format(9) in collapsed(
        tokens(
            model, {"image": SMALL.repeat(3, 0).repeat(3, 1), "mm_processor_kwargs": {"max_pixels": 64 * 9}}
        )
    )
    video = opened(options={"media_io_kwargs": {"video": {"num_frames": 2}}})
    frames = np.stack([SMALL] * 8)
    assert collapsed(tokens(video, {"video": frames})).count(tiny.VIDEO) == 1


def test_a_uuid_names_a_picture_that_was_sent_before(opened: Open) -> None:
    model = opened()
    data = {"prompt": "a page", "multi_modal_data": {"image": RED}, "multi_modal_uuids": {"image": ["red"]}}
    again = {
        "prompt": "a page",
        "multi_modal_data": {"image": [None]},
        "multi_modal_uuids": {"image": ["red"]},
    }
    alone = {"prompt": "a page", "multi_modal_uuids": {"image": "red"}}
    message = "Cache miss for image at index 0 but data is not provided."
    with pytest.raises(InputError, match=message):
        model.embed(again)
    first = np.asarray(model.embed(data))
    np.testing.assert_allclose(np.asarray(model.embed([again, again])), np.tile(first, (2, 1)), atol=SAME)
    np.testing.assert_allclose(np.asarray(model.embed({**alone, "multi_modal_data": {}})), first, atol=SAME)
    part = {
        "content": [
            {"type": "image_url", "image_url": None, "uuid": "red"},
            {"type": "text", "text": "a page"},
        ]
    }
    np.testing.assert_allclose(np.asarray(model.embed(part)), first, atol=SAME)
    statistics = model.statistics()
    assert statistics.vision_items == 1
    forgetful = opened(options={"mm_processor_cache_gb": 0})
    forgetful.embed(data)
    with pytest.raises(InputError, match=message):
        forgetful.embed(again)


def test_uuids_of_long_prompts_are_forgotten_earlier(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    model = opened()
    [longest] = [len(prepared.image(tiny.PICTURES, RED).text)]
    monkeypatch.setattr(media_reading, "NAMED_CHARACTERS", 2 * longest + 1)
    for name in ("first", "second", "second", "third"):
        data = {"multi_modal_data": {"image": RED}, "multi_modal_uuids": {"image": [name]}}
        model.embed({"prompt": "a page", **data})
    for name in ("second", "third"):
        model.embed({"prompt": "a page", "multi_modal_data": {}, "multi_modal_uuids": {"image": [name]}})
    with pytest.raises(InputError, match="Cache miss"):
        model.embed({"prompt": "a page", "multi_modal_data": {}, "multi_modal_uuids": {"image": ["first"]}})


def test_pictures_beyond_the_longest_prompt_are_not_prepared(model: Model) -> None:
    # The last one is broken, and is never read.
    pictures = [RED] * 100 + [b"no picture"]
    message = r"input 0: the first \d+ of its 101 pictures and videos need \d+ tokens, and it may have"
    for kept in (None, -1, 20):
        with pytest.raises(InputError, match=message):
            model.embed({"image": pictures}, truncate_prompt_tokens=kept)
        with pytest.raises(InputError, match=message):
            model.score("a page", [{"image": pictures}], truncate_prompt_tokens=kept)


def test_features_that_the_caller_computed(model: Model) -> None:
    [item] = model.preparation.singles([{"text": "a page", "image": RED}])
    values = np.concatenate([tiny.seen(picture) for picture in item.vision])
    grid = item.vision[0].arrays["patch_positions"][0, 2:]
    embeds = {"image_embeds": values, "image_grid_thw": [1, *grid.tolist()]}
    expected = vectors(model, {"text": "a page", "image": RED})
    before = model.statistics().vision_items
    np.testing.assert_allclose(
        np.asarray(model.embed({"prompt": "a page", "multi_modal_data": {"image": embeds}})),
        expected,
        atol=SAME,
    )
    assert model.statistics().vision_items == before
    batched = {"prompt": "a page", "multi_modal_data": {"image": {**embeds, "image_embeds": values[None]}}}
    np.testing.assert_allclose(np.asarray(model.embed(batched)), expected, atol=SAME)
    for wrong, message in (
        ({**embeds, "image_embeds": values[:, 1:]}, r"expected \[rows, 8\]"),
        ({**embeds, "image_embeds": values[1:]}, "patches are"),
        ({"image_embeds": values}, "image_grid_thw is missing"),
        ({**embeds, "image_embeds": values * np.nan}, "not finite"),
        ({**embeds, "image_embeds": "abc"}, r"shape \[0\]"),
        ({**embeds, "image_embeds": [[10**400] * 8] * len(values)}, r"shape \[0\]"),
        (
            {**embeds, "image_grid_thw": [1, *(-grid).tolist()]},
            "expected .* whole numbers and multiples of 2",
        ),
        ({**embeds, "image_grid_thw": [2, *grid.tolist()]}, r"expected \[1, rows, columns\]"),
        ({**embeds, "image_grid_thw": [1, *(grid + 1).tolist()]}, "multiples of 2"),
        ({**embeds, "image_grid_thw": [1, 2**70, 4]}, r"expected \[1, rows, columns\]"),
        ({**embeds, "image_grid_thw": [[1, 2], [3]]}, r"expected \[1, rows, columns\]"),
        ({**embeds, "image_grid_thw": list(range(9999))}, r"\.\.\.\], expected"),
        ({**embeds, "image_grid_thw": [1, 2]}, r"expected \[1, rows, columns\]"),
        ({"embeds": values}, "expected a picture or"),
    ):
        with pytest.raises(InputError, match=message):
            model.embed({"image": wrong})


def test_features_of_repeated_pictures_are_kept(opened: Open) -> None:
    model = opened()
    for _ in range(2):
        model.embed([RED, {"text": "a", "image": [RED, NOISE]}, np.asarray(RED).copy()])
    statistics = model.statistics()
    assert statistics.vision_items == 2
    assert statistics.vision_shared + statistics.vision_hits == 6
    assert statistics.vision_cache_bytes == 4 * tiny.WIDTH * (features(RED) + features(NOISE))
    assert statistics.vision_slots >= statistics.vision_items
    assert model.warm_up() > 0
    assert model.statistics().vision_items == 3  # both graphs are warmed up


# Conversations


PARTS = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {% for part in message.content %}"
    "{% if part.type == 'image' %}" + PLACEHOLDER + "{% elif part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}<|im_end|>{% endfor %}"
)
STRINGS = (
    "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}<|im_end|>{% endfor %}"
)
MESSAGES = [
    {"role": "system", "content": "judge"},
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "a red"},
            {"type": "image", "image": RED},
            {"type": "text", "text": "page"},
            {"type": "image_pil", "image_pil": Image.fromarray(SMALL)},
        ],
    },
]


def test_a_conversation_becomes_a_prompt_with_its_pictures(opened: Open) -> None:
    model = opened(chat_template=PARTS)
    prompt = model.chat(MESSAGES)
    assert isinstance(prompt, dict)
    assert prompt["prompt"] == (
        f"<|im_start|>system judge<|im_end|><|im_start|>user a red{PLACEHOLDER}page{PLACEHOLDER}<|im_end|>"
    )
    outputs = model.embed(prompt, add_special_tokens=False)
    np.testing.assert_allclose(
        np.asarray(outputs), vectors(model, prompt, add_special_tokens=False), atol=SAME
    )
    assert model.tokenize(prompt, add_special_tokens=False) == outputs[0].prompt_token_ids
    assert model.chat(MESSAGES[:1]) == "<|im_start|>system judge<|im_end|>"
    assert "multi_modal_uuids" not in prompt
    named = model.chat([{"role": "user", "content": [{"image": RED}, {"image": SMALL, "uuid": "small"}]}])
    assert isinstance(named, dict)
    assert named["multi_modal_uuids"] == {"image": [None, "small"]}
    assert len(model.embed(named)) == 1


def test_a_template_of_strings_has_placeholders_in_front(opened: Open) -> None:
    model = opened(chat_template=STRINGS)
    user = "<|im_start|>system judge<|im_end|><|im_start|>user {}<|im_end|>"
    front = model.chat(MESSAGES)
    assert isinstance(front, dict)
    assert front["prompt"] == user.format(f"{PLACEHOLDER}\n{PLACEHOLDER}\na red\npage")
    between = model.chat(MESSAGES, interleave_mm_strings=True)
    assert isinstance(between, dict)
    assert between["prompt"] == user.format(f"a red\n{PLACEHOLDER}\npage\n{PLACEHOLDER}")
    own = [{"role": "user", "content": [{"type": "text", "text": f"a {PLACEHOLDER}"}, {"image": RED}]}]
    written = model.chat(own)
    assert isinstance(written, dict)
    assert written["prompt"] == f"<|im_start|>user a {PLACEHOLDER}<|im_end|>"
    own[0]["content"][0]["text"] *= 2  # pyright: ignore[reportArgumentType, reportIndexIssue]
    with pytest.raises(InputError, match="Found more '"):
        model.chat(own)
    with pytest.raises(InputError, match="message 0: expected an object with a `role`"):
        model.chat([{"content": "a"}])


# Scores


def cosine(left: NDArray[Any], right: NDArray[Any]) -> float:
    return float(left @ right / np.linalg.norm(left) / np.linalg.norm(right))


def test_a_bi_encoder_scores_texts_and_pictures(opened: Open) -> None:
    model = opened(roles=ROLES, instruction="Represent input")
    documents = [RED, Image.fromarray(NOISE), "a red page", {"text": "blue", "image": [SMALL, RED]}]
    styles: tuple[tuple[Any, Any, Any], ...] = (("model", "query", "document"), ("vllm", None, None))
    for style, query_role, document_role in styles:
        outputs = model.score({"text": "a", "image": RED}, documents, preparation=style)
        [query] = vectors(
            model.model_of(style) if False else model, {"text": "a", "image": RED}, role=query_role
        )
        rows = vectors(model, *documents, role=document_role)
        np.testing.assert_allclose(
            np.asarray(outputs), [cosine(query, row) for row in rows], atol=SAME, err_msg=style
        )
    judged = model.score("a", [RED], instruction="judge")
    assert float(np.asarray(judged)[0]) == pytest.approx(
        cosine(
            vectors(model, "a", role="query")[0], vectors(model, RED, role="document", instruction="judge")[0]
        ),
        abs=SAME,
    )


def test_reranking_returns_the_documents_as_they_came(model: Model) -> None:
    documents = [NOISE, {"text": "a red page", "image": RED}, "a red page"]
    ranking = model.rerank({"content": [{"type": "text", "text": "a red page"}]}, documents)
    scores = np.asarray(model.score("a red page", documents))
    assert [ranked.index for ranked in ranking] == np.argsort(-scores, kind="stable").tolist()
    assert all(ranked.document is documents[ranked.index] for ranked in ranking)
    assert ranking[0].index == 2
    assert model.rerank(Image.fromarray(RED), documents)[0].index == 1
    assert len(model.rerank("a", RED)) == 1


def test_late_interaction_sums_over_the_querys_tokens(opened: Open) -> None:
    model = opened(scoring="late-interaction", roles=ROLES, instruction="Represent input")

    def rows(prompt: Any, role: Any) -> NDArray[np.float32]:
        [item] = model.preparation.singles([prompt], role=role)
        values = tiny.read(item)
        return values / np.linalg.norm(values, axis=1, keepdims=True)

    documents = [RED, {"text": "a page", "image": NOISE}, "a page"]
    expected = [(rows("a red", "query") @ rows(one, "document").T).max(axis=1).sum() for one in documents]
    np.testing.assert_allclose(np.asarray(model.score("a red", documents)), expected, rtol=SAME)
    vectors_of = model.token_embed(RED, role="document")[0].outputs.data
    np.testing.assert_allclose(vectors_of, rows(RED, "document"), atol=SAME)


SCORE_STRINGS = (
    "<|im_start|>system {{ instruction or 'judge' }}<|im_end|><|im_start|>user query : "
    "{{ messages[0].content }} document : {{ messages[1].content }}<|im_end|>"
)
SCORE_PARTS = (
    "{% macro side(content) %}{% for part in content %}{% if part.type == 'image' %}"
    + PLACEHOLDER
    + "{% else %}{{ part.text }}{% endif %}{% endfor %}{% endmacro %}"
    "<|im_start|>system {{ instruction or 'judge' }}<|im_end|><|im_start|>user query : "
    "{{ side(messages[0].content) }} document : {{ side(messages[1].content) }}<|im_end|>"
)
BACKWARDS = "document : {{ messages[1].content }} query : {{ messages[0].content }}"


@pytest.mark.parametrize("template", [SCORE_STRINGS, SCORE_PARTS], ids=["strings", "parts"])
def test_a_cross_encoder_reads_pairs_with_pictures(opened: Open, template: str) -> None:
    model = opened(scoring="cross-encoder", score_template=template)
    queries = ["a red page", {"text": "a", "image": SMALL}]
    documents = [RED, {"text": "blue", "image": [NOISE, SMALL]}, "a page"]
    for query in queries:
        outputs = model.score(query, documents, instruction="yes")
        for output, document in zip(outputs, documents, strict=True):
            assert float(output.outputs.score) == pytest.approx(pair_score(model, query, document), abs=SAME)
    both = collapsed(
        model.preparation.encoder.pieces(model.score(queries[1], documents[1])[0].prompt_token_ids)
    )
    small, noise = (f"{tiny.START} {tiny.IMAGE}*{features(one)} {tiny.END}" for one in (SMALL, NOISE))
    assert both == (
        f"<s> <|im_start|> system judge <|im_end|> <|im_start|> user query : {small} a "
        f"document : {noise} {small} "
        "blue <|im_end|> </s>"
    )
    [text] = model.score(queries[0], "a page")
    assert float(text.outputs.score) == pytest.approx(
        pair_score(model, queries[0], "a page", "judge"), abs=SAME
    )


def pair_score(model: Model, query: Any, document: Any, instruction: str = "yes") -> float:
    """The pair as one prompt that is written by hand."""
    sides = [
        one if isinstance(one, dict) else {"text": one} if isinstance(one, str) else {"image": one}
        for one in (query, document)
    ]
    pictures: list[Any] = []
    texts: list[str] = []
    for side in sides:
        own = side.get("image", [])
        own = own if isinstance(own, list) else [own]
        pictures += own
        texts.append(PLACEHOLDER * len(own) + side.get("text", ""))
    text = (
        f"<|im_start|>system {instruction}<|im_end|><|im_start|>user query : {texts[0]} document : {texts[1]}"
        "<|im_end|>"
    )
    [item] = model.preparation.singles([{"prompt": text, "multi_modal_data": {"image": pictures}}])
    return float(1 / (1 + np.exp(-(tiny.read(item).mean(axis=0) @ tiny.LOGIT)[0])))


def test_a_template_may_write_the_document_first(opened: Open) -> None:
    model = opened(scoring="cross-encoder", score_template=BACKWARDS)
    [output] = model.score({"image": SMALL, "text": "a"}, {"image": RED, "text": "blue"})
    small, red = (f"{tiny.START} {tiny.IMAGE}*{features(one)} {tiny.END}" for one in (SMALL, RED))
    assert collapsed(model.preparation.encoder.pieces(output.prompt_token_ids)) == (
        f"<s> document : {red} blue query : {small} a </s>"
    )
    text = f"document : {PLACEHOLDER}blue query : {PLACEHOLDER}a"
    [item] = model.preparation.singles([{"prompt": text, "multi_modal_data": {"image": [RED, SMALL]}}])
    expected = 1 / (1 + np.exp(-(tiny.read(item).mean(axis=0) @ tiny.LOGIT)[0]))
    assert output.outputs.score == pytest.approx(float(expected), abs=SAME)


def test_a_template_with_fewer_places_than_pictures_is_refused(opened: Open) -> None:
    model = opened(scoring="cross-encoder", score_template="{{ messages[0].content }} document")
    with pytest.raises(InputError, match="Expected there to be 1 prompt placeholders"):
        model.score("a", RED)


@pytest.mark.parametrize("pair", ["separator", "concatenate"])
def test_pairs_without_a_template(opened: Open, pair: str) -> None:
    model = opened(scoring="cross-encoder", pair=pair)
    [output] = model.score({"text": "a", "image": SMALL}, {"text": "blue", "image": RED})
    small, red = (f"{tiny.START} {tiny.IMAGE}*{features(one)} {tiny.END}" for one in (SMALL, RED))
    between = " </s>" if pair == "separator" else ""
    assert collapsed(model.preparation.encoder.pieces(output.prompt_token_ids)) == (
        f"<s> {small} a{between} {red} blue </s>"
    )


def test_a_long_pair_loses_text_of_the_document_only(opened: Open) -> None:
    model = opened(scoring="cross-encoder", score_template=SCORE_STRINGS)
    document = {"text": "a red blue green page", "image": SMALL}
    whole = model.score("what", document)[0]
    assert not whole.truncated
    cut = model.score("what", document, truncate_prompt_tokens=whole.prompt_tokens - 2)[0]
    assert cut.truncated
    pieces = model.preparation.encoder.pieces(cut.prompt_token_ids)
    assert collapsed(pieces).endswith(f"{tiny.END} a red blue <|im_end|> </s>")
    shorter = model.score("what", document, max_tokens_per_doc=2)[0]
    assert shorter.truncated
    assert collapsed(model.preparation.encoder.pieces(shorter.prompt_token_ids)).endswith(
        "a red <|im_end|> </s>"
    )
    with pytest.raises(InputError, match="need"):
        model.score("what", document, truncate_prompt_tokens=8)
    with pytest.raises(InputError, match="maximum context length"):
        model.score("what", {"text": "a " * 300, "image": SMALL})


# Pictures apart


def test_a_picture_is_embedded_apart(opened: Open) -> None:
    model = opened(images=tiny.APART)
    outputs = model.embed(
        [
            RED,
            "a red page",
            {"image": Image.fromarray(NOISE)},
            {"prompt": "", "multi_modal_data": {"image": RED}},
        ]
    )
    for output, picture in ((outputs[0], RED), (outputs[2], NOISE), (outputs[3], RED)):
        pixels = prepared.image(tiny.APART, picture).items[0].arrays["pixel_values"]
        row = pixels.reshape(-1) @ tiny.EYE
        np.testing.assert_allclose(output.outputs.data, row / np.linalg.norm(row), atol=SAME)
        assert output.prompt_tokens == 1
    scores = np.asarray(model.score("a red page", [RED, NOISE, "a red page"]))
    rows = np.asarray(outputs)
    np.testing.assert_allclose(scores, [cosine(rows[1], rows[0]), cosine(rows[1], rows[2]), 1.0], atol=SAME)
    assert model.warm_up() > 0


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"text": "a", "image": RED},
         "CLIP accepts text-only or image-only inputs, not both! You must pass an image with an empty token "
         "prompt."),
        ({"prompt_token_ids": [5], "multi_modal_data": {"image": RED}}, "not both!"),
        ({"image": [RED, RED]}, r"At most 1 image\(s\) may be provided in one prompt\."),
        ({"video": np.zeros((2, 8, 8, 3), np.uint8)}, r"At most 0 video\(s\)"),
    ],
)  # fmt: skip
def test_a_picture_apart_has_no_text(opened: Open, prompt: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        opened(images=tiny.APART).embed(prompt)


# vLLM's class


def test_vllms_class_takes_pictures(tmp_path: Path) -> None:
    llm = LLM(
        str(tiny.write(tmp_path)),
        limit_mm_per_prompt={"image": 1},
        mm_processor_kwargs={"max_pixels": 256},
        mm_processor_cache_gb=0,
        trust_remote_code=True,
    )
    prompt = {"prompt": f"{PLACEHOLDER}a page", "multi_modal_data": {"image": Image.fromarray(RED)}}
    [output] = llm.embed(prompt, use_tqdm=False)
    assert (
        len(output.prompt_token_ids)
        == 2 + 2 + 2 + prepared.image(tiny.PICTURES, RED, options={"max_pixels": 256}).tokens
    )
    url = io.BytesIO()
    Image.fromarray(RED).save(url, "PNG")
    encoded = "data:image/png;base64," + base64.b64encode(url.getvalue()).decode()
    content = {
        "content": [{"type": "image_url", "image_url": {"url": encoded}}, {"type": "text", "text": "a page"}]
    }
    [score] = llm.score("a page", content, use_tqdm=False)
    text = llm.embed("a page", use_tqdm=False)[0].outputs.embedding
    assert score.outputs.score == pytest.approx(cosine(text, output.outputs.embedding), abs=SAME)
    with pytest.raises(InputError, match=r"At most 1 image\(s\)"):
        llm.embed({"prompt": "a", "multi_modal_data": {"image": [RED, RED]}})
    with pytest.raises(UnknownOption, match="interleave"):
        llm.embed("a", interleave=True)  # pyright: ignore[reportCallIssue]
    llm.model.close()


# Commands


def poolrt(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_commands_take_files_of_pictures(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = tiny.write(tmp_path, roles=ROLES, instruction="judge")
    red, noise = tmp_path / "red.png", tmp_path / "noise.PNG"
    Image.fromarray(RED).save(red)
    Image.fromarray(NOISE).save(noise)
    code, out, _ = poolrt(capsys, "embed", folder, red, "a red page", "--image", noise, "--json")
    assert code == 0
    rows = [row["embedding"] for row in json.loads(out)["data"]]
    with load(folder, threads=1) as model:
        np.testing.assert_allclose(rows, vectors(model, RED, "a red page", NOISE), atol=SAME)
        scores = np.asarray(model.score("a red page", [NOISE, "a red.png", RED]))
        best = model.rerank(RED, [NOISE, RED])[0]
    code, out, _ = poolrt(capsys, "score", folder, "a red page", noise, "a red.png", "--image", red, "--json")
    assert code == 0
    np.testing.assert_allclose([row["score"] for row in json.loads(out)["data"]], scores, atol=SAME)
    code, out, _ = poolrt(capsys, "rerank", folder, red, "--image", noise, "--image", red, "--json")
    assert json.loads(out)["results"][0]["document"] == {"image": str((noise, red)[best.index])}
    code, out, _ = poolrt(capsys, "rerank", folder, red, noise, red)
    assert "red.png" in out
    code, out, _ = poolrt(capsys, "inspect", folder)
    shown = (
        "patches of 4 x 4 pixels, 1 to 32 tokens a picture; bicubic as torchvision resizes",
        "document: template",
        f"in a prompt: {PLACEHOLDER}",
        "videos: 2 frames a second",
        "vision, fp32",
        "suffix '</s></s>'",
    )
    for part in shown:
        assert part in out
    code, out, _ = poolrt(capsys, "inspect", tiny.write(tmp_path, images=tiny.APART, name="apart"))
    assert "fixed: 8 x 8 pixels, squashed; bicubic" in out
    assert "not both" in out
    text = tiny.write(tmp_path, images=None, name="text")
    code, _, err = poolrt(capsys, "embed", text, "--image", red)
    assert (code, "this model reads text only" in err) == (2, True)
    assert poolrt(capsys, "embed", text, red)[0] == 0  # a text as any other
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    code, _, err = poolrt(capsys, "embed", folder, "--image", broken)
    assert (code, "cannot identify image file" in err) == (2, True)


def test_a_name_of_a_picture_that_does_not_exist_is_no_text(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tiny.write(tmp_path)
    for name in ("nowhere.png", "nowhere/page.JPG", "./film.mp4", "./page.heic", f"{tmp_path}/a.svg"):
        code, _, err = poolrt(capsys, "embed", folder, "a red page", name)
        assert (code, err.count(name), "no such file" in err) == (2, 1, True), err
    code, _, err = poolrt(capsys, "rerank", folder, "nowhere.png", "a")
    assert (code, "nowhere.png: no such file" in err) == (2, True)
    drawing = tmp_path / "a.svg"
    drawing.write_text("<svg/>")
    code, _, err = poolrt(capsys, "embed", folder, drawing)
    assert (code, "cannot identify image file" in err) == (2, True)
    for text in ("it is in page.png", "red/blue", "see /v1/score", "/v1/score", "a.b", "page.png."):
        assert poolrt(capsys, "embed", folder, text)[0] == 0
    words = tiny.write(tmp_path, images=None, name="words")
    assert poolrt(capsys, "embed", words, "nowhere.png")[0] == 0

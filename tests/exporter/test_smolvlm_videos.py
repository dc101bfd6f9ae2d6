"""SmolVLM's videos from the files of its repositories: settings, prompts and vectors beside transformers'
classes. tests/goldens/record_smolvlm.py recorded what its processors make of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.runtime import Model, load
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.commands import inspection
from poolrt.runtime.errors import CheckpointError, InputError
from poolrt.runtime.inputs.media import prepared

from tests.conftest import exported
from tests.families import idefics, proof
from tests.goldens.record_smolvlm import CLIPS, FILES, MESSAGES, PATH, PROMPTS, short
from tests.pictures import clip_of_frames, digest, drawn

COSINE = 1 - 1e-6  # float32 on both sides; worst measured 1 - 3e-7
RECORDED = json.loads(PATH.read_text(encoding="utf-8"))
SOURCES = ("processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return idefics.smolvlm(tmp_path_factory.mktemp("smolvlm") / "checkpoint")


@pytest.fixture
def with_files(written: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Images]:
    """Reads the checkpoint with other files of its processors."""

    def read(files: dict[str, Any]) -> Images:
        folder = Path(shutil.copytree(written, tmp_path / "checkpoint"))
        for name in SOURCES:
            (folder / name).unlink(missing_ok=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        opened = checkpoint.read(folder, recipe=None, convert="embed")
        plan = planning.plan(opened)
        assert plan.vision is not None
        return plan.vision.images

    return read


@pytest.fixture(scope="module")
def model() -> Model:
    return load(
        exported("converted-smolvlm", lambda folder: idefics.smolvlm(folder / "smolvlm"), convert="embed")
    )


@pytest.mark.parametrize("name", [name for name in FILES if "512" not in json.dumps(FILES[name])])
def test_settings_of_each_layout_are_those_of_transformers(
    with_files: Callable[[dict[str, Any]], Images], name: str
):
    images = with_files(FILES[name])
    for (width, height, frames, fps), recorded in zip(CLIPS, RECORDED["files"][name], strict=False):
        medium = prepared.video(images, clip_of_frames(width, height, frames), fps=fps)
        assert short(medium.text) == recorded["text"]
        assert digest(np.stack([item.arrays["pixel_values"] for item in medium.items])) == recorded["pixels"]


PUBLISHED = FILES["published"]["preprocessor_config.json"]
SAMPLING = PUBLISHED["video_sampling"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_image_size": {"longest_edge": 56}}, "frames of 56 pixels a side of a video, the "),
        ({"do_resize": False}, "frames of any pixels a side of a video, the vision model reads tiles of 42"),
        ({"size": {"shortest_edge": 9}}, "scales frames of a video to {'shortest_edge': 9}; exp"),
        ({"video_sampling": SAMPLING | {"fps": "1"}}, "reads '1' frames for each second of a video; exp"),
        ({"video_sampling": SAMPLING | {"max_frames": 0}}, "no usable max_frames: found 0, expected a count"),
    ],
    ids=["tile", "no resize", "size", "rate", "frames"],
)  # fmt: skip
def test_frames_that_the_model_cannot_read_are_refused(
    with_files: Callable[[dict[str, Any]], Images], settings: dict[str, Any], message: str
):
    files = {"preprocessor_config.json": PUBLISHED, "video_preprocessor_config.json": PUBLISHED | settings}
    with pytest.raises(CheckpointError, match=message):
        with_files(files)


def test_without_settings_of_videos_none_are_read(
    with_files: Callable[[dict[str, Any]], Images], tmp_path: Path
):
    images = with_files({"preprocessor_config.json": {**PUBLISHED, "video_sampling": None}})
    idefics3 = checkpoint.read(idefics.idefics3(tmp_path / "idefics3"), recipe=None, convert="classify")
    assert idefics3.family.vision is not None
    for known in (images, idefics3.family.vision.images(idefics3)):
        assert known.videos is None
        with pytest.raises(InputError, match="this model reads no videos"):
            prepared.video(known, clip_of_frames(8, 8, 2))


def test_words_pictures_and_videos_become_the_vectors_of_transformers(model: Model, written: Path):
    import transformers

    proof.shown(model.manifest)
    kind = transformers.SmolVLMForConditionalGeneration
    theirs = kind.from_pretrained(written, dtype=torch.float32, attn_implementation="eager").eval()
    images = model.manifest.images
    assert images is not None
    ours, expected = [], []
    for (text, pictures, videos), recorded in zip(PROMPTS, RECORDED["prompts"], strict=True):
        shown = [drawn(120, 60, number) for number in range(pictures)]
        clips = [clip_of_frames(96, 64, 20 + number) for number in range(videos)]
        data: dict[str, Any] = {"image": shown, "video": [(clip, {"fps": 10.0}) for clip in clips]}
        [answer] = model.embed([{"prompt": text, "multi_modal_data": data}])
        ids = [int(number) for number in recorded["ids"].split()]
        assert answer.prompt_token_ids == ids
        rows = [prepared.image(images, picture) for picture in shown]
        assert [digest(values(row)) for row in rows] == [recorded["tiles"]] * pictures
        rows += [prepared.video(images, clip, fps=10.0) for clip in clips]
        with torch.inference_mode():
            hidden = theirs.model(
                input_ids=torch.tensor([ids]),
                pixel_values=torch.from_numpy(np.concatenate([values(row) for row in rows]))[None],
            ).last_hidden_state
        ours.append(np.asarray(answer.outputs.embedding))
        expected.append(hidden[0, -1].numpy())
    assert proof.cosines(ours, expected).min() > COSINE


def values(medium: Any) -> np.ndarray:
    return np.stack([item.arrays["pixel_values"] for item in medium.items])


def test_a_conversation_with_a_video_is_written_by_transformers_own_template(model: Model):
    clip, picture = clip_of_frames(20, 12, 3), drawn(30, 40)
    filled = {"video": {"type": "video", "video": clip}, "image": {"type": "image", "image": picture}}
    for messages, text in zip(MESSAGES, RECORDED["conversations"], strict=True):
        prompt: Any = model.chat(
            [with_media(message, filled) for message in messages], add_generation_prompt=True
        )
        assert prompt["prompt"] == text
        assert len(prompt["multi_modal_data"]["video"]) == 1
    plain = model.chat([{"role": "user", "content": [{"type": "text", "text": "red"}]}])
    assert plain == "<|im_start|>User:red<end_of_utterance>\n"
    both: Any = model.chat([{"role": "user", "content": "red"}, with_media(MESSAGES[1][1], filled)])
    assert both["prompt"].startswith("<|im_start|>User: red<end_of_utterance>\nUser:<image>red<video>")


def with_media(message: dict[str, Any], media: dict[str, Any]) -> dict[str, Any]:
    return {**message, "content": [media.get(part["type"], part) for part in message["content"]]}


def test_inspection_says_how_videos_are_read(model: Model):
    assert model.manifest.images is not None
    shown = "\n".join(inspection._pictures(model.manifest.images))
    assert "videos: 1 frames a second, 1 to 64, 42 x 42 pixels, 9 tokens each; in a prompt: <video>" in shown


def test_a_picture_and_a_video_have_tokens_of_their_own_in_front_of_a_text(model: Model):
    clip, picture = clip_of_frames(20, 12, 3), drawn(30, 20)
    apart = model.embed([{"text": "red", "image": picture, "video": clip}])[0].prompt_token_ids
    written = model.embed(
        [{"prompt": "<video><image>red", "multi_modal_data": {"image": picture, "video": [clip]}}]
    )
    assert apart == written[0].prompt_token_ids
    again = model.embed(
        [{"prompt_token_ids": apart, "multi_modal_data": {"image": picture, "video": [clip]}}]
    )
    assert again[0].prompt_token_ids == apart
    images = model.manifest.images
    assert images is not None
    number = model.preparation.encoder.tokenizer.token_to_id(images.token)
    data = {"image": picture, "video": [clip]}
    with pytest.raises(
        InputError, match="Expected there to be 1 prompt placeholders corresponding to 1 video"
    ):
        model.embed([{"prompt_token_ids": [5, number, 6], "multi_modal_data": data}])
    with pytest.raises(InputError, match="Found more '<video>' placeholders"):
        model.embed([{"prompt": "<video><image>red", "multi_modal_data": {"image": picture}}])

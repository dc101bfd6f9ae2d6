"""Prompts, pixel budgets and heads of the published checkpoints on Qwen3-VL, by their names."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.exporter.heads.planning import Plan
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs import templates

from tests.families import qwen3_vl as tiny

FILLER = "<|endoftext|>" * 10
MEDIA = "<|vision_start|><|image_pad|><|vision_end|>"


def planned(write: Callable[..., Path], folder: Path, **arguments: Any) -> Plan:
    return planning.plan(checkpoint.read(write(folder, **arguments)))


def written(
    plan: Plan, role: str, text: str, *, images: int = 0, videos: int = 0, instruction: str = ""
) -> str:
    template = plan.text.roles[role].template
    assert template is not None
    return templates.render(template, {
        "text": text, "media": MEDIA * (images + videos), "images": images, "videos": videos,
        "instruction": instruction or plan.text.instruction,
    })  # fmt: skip


def test_qwen3_vl_embedding(tmp_path: Path):
    plan = planned(tiny.qwen3_vl_embedding, tmp_path / "Qwen3-VL-Embedding-2B")
    begin, end = "<|im_start|>system\n", "<|im_end|>\n<|im_start|>assistant\n"
    user = "<|im_end|>\n<|im_start|>user\n"
    start = f"{begin}Represent the user's input.{user}"
    for role in ("query", "document"):
        assert written(plan, role, "two cats") == f"{start}two cats{end}"
        assert written(plan, role, "") == f"{start}NULL{end}"
        assert written(plan, role, "two", images=1) == f"{start}{MEDIA}two{end}"
    assert written(plan, "query", "a", instruction=" Find it ") == f"{begin}Find it.{user}a{end}"
    assert written(plan, "query", "a", instruction="找到它。") == f"{begin}找到它。{user}a{end}"
    assert plan.vision is not None
    assert plan.vision.images.patches is not None
    assert (plan.vision.images.patches.min_pixels, plan.vision.images.patches.max_pixels) == (4096, 1843200)
    assert plan.heads["embed"].any_dimension


def test_qwen3_vl_reranker(tmp_path: Path):
    plan = planned(tiny.qwen3_vl_reranker, tmp_path / "Qwen3-VL-Reranker-8B", tied=False)
    assert (plan.tasks[0], plan.scoring) == ("classify", "cross-encoder")
    assert plan.heads["classify"].activation == "sigmoid"
    template = plan.files["score_template.jinja"].decode()

    def pair(query: str, document: str, **variables: Any) -> str:
        messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
        return templates.conversation(template, messages, variables=variables)

    judge = (
        "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
        'Note that the answer can only be "yes" or "no".'
    )
    task = "Given a search query, retrieve relevant candidates that answer the query."
    start, end = f"<|im_start|>system\n{judge}<|im_end|>\n<|im_start|>user\n<Instruct>: ", "<|im_end|>\n"
    end += "<|im_start|>assistant\n"
    assert pair("a", f"{MEDIA}b") == f"{start}{task}<Query>:a\n<Document>:{MEDIA}b{end}"
    assert pair("a", "", instruction="Find.") == f"{start}Find.<Query>:a\n<Document>:NULL{end}"


def test_tomoro(tmp_path: Path):
    plan = planned(tiny.colqwen3, tmp_path / "tomoro-colqwen3-embed-4b")
    assert (plan.tasks, plan.scoring) == (("token_embed",), "late-interaction")
    seen = f"<|im_start|>user\n{MEDIA}Describe the "
    for role in ("query", "document"):
        assert written(plan, role, " what is it ") == f"what is it{FILLER}"
        assert written(plan, role, "", images=1) == f"{seen}image.<|im_end|><|endoftext|>"
        assert written(plan, role, " x", images=1) == f"{seen}image. x<|im_end|><|endoftext|>"
        assert written(plan, role, "", videos=1) == f"{seen}video.<|im_end|><|endoftext|>"
    assert plan.vision is not None
    assert plan.vision.images.patches is not None
    assert plan.vision.images.videos is not None
    assert plan.vision.images.patches.max_pixels == 1280 * 32 * 32
    assert plan.vision.images.videos.max_pixels == 2 * 1280 * 32 * 32


def test_a_prefix_of_tomoro_s_processor_stands_before_texts_alone(tmp_path: Path):
    folder = tiny.colqwen3(tmp_path / "tuned")
    (folder / "processor_config.json").write_text(json.dumps({"query_prefix": 'say "it": '}))
    plan = planning.plan(checkpoint.read(folder))
    assert written(plan, "query", "a") == f'say "it": a{FILLER}'
    assert written(plan, "query", "a", images=1).startswith("<|im_start|>user\n")


def test_ops(tmp_path: Path):
    plan = planned(tiny.ops_colqwen3, tmp_path / "Ops-Colqwen3-4B", dims=48)
    assert plan.heads["token_embed"].dim == 48
    assert plan.heads["token_embed"].any_dimension
    assert written(plan, "query", "what") == f"Query: what{FILLER}"
    end = "<|im_end|><|im_start|>assistant\n<|endoftext|>"
    assert written(plan, "document", "", images=1) == f"<|im_start|>user\n{MEDIA}Describe the image.{end}"


def test_nemotron(tmp_path: Path):
    plan = planned(tiny.nemotron_colembed, tmp_path / "nemotron-colembed-vl-4b-v2")
    begin, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert written(plan, "query", "what") == f"{begin}Query: query: what{end}"
    assert written(plan, "document", "", images=1) == f"{begin}{MEDIA}passage: {end}"
    assert written(plan, "document", "a page", images=1) == f"{begin}{MEDIA}passage: a page{end}"
    assert (plan.text.roles["query"].max_tokens, plan.text.roles["document"].max_tokens) == (512, 4096)
    assert plan.vision is not None
    assert plan.vision.images.videos is None


@pytest.mark.parametrize("name", ["Qwen3-VL-Embedding-2B-tuned", "checkpoint"])
def test_another_name_has_no_recipe(name: str, tmp_path: Path):
    plan = planned(tiny.qwen3_vl_embedding, tmp_path / name)
    assert plan.text.roles == {}
    assert plan.vision is not None
    assert plan.vision.images.patches is not None
    assert plan.vision.images.patches.max_pixels == 1310720


@pytest.mark.parametrize(
    ("file", "settings", "message"),
    [
        ("preprocessor_config.json", {"patch_size": 14}, "says patch_size 14, config.json's vision_config"),
        ("video_preprocessor_config.json", {"merge_size": 4}, "says merge_size 4"),
        ("preprocessor_config.json", {"do_resize": False}, "says do_resize False, which poolrt"),
        ("video_preprocessor_config.json", {"do_sample_frames": False}, "do_sample_frames False, which"),
        ("video_preprocessor_config.json", {"num_frames": 8}, "says num_frames 8, which poolrt"),
        ("video_preprocessor_config.json", {"fps": None}, "says fps None, which poolrt"),
    ],
)  # fmt: skip
def test_processors_of_another_model_are_refused(
    file: str, settings: dict[str, Any], message: str, tmp_path: Path
):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    known = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(known | settings), encoding="utf-8")
    with pytest.raises(CheckpointError, match=message):
        planning.plan(checkpoint.read(folder))


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        (tiny.qwen3_vl_embedding, "Qwen3-VL-Embedding-2B"),
        (tiny.qwen3_vl_reranker, "Qwen3-VL-Reranker-8B"),
    ],
)
def test_videos_are_sampled_as_the_authors_do(builder: Callable[[Path], Path], name: str, tmp_path: Path):
    plan = planned(builder, tmp_path / name)
    assert plan.vision is not None
    videos = plan.vision.images.videos
    assert videos is not None
    assert (videos.fps, videos.min_frames, videos.max_frames) == (1.0, 4, 64)
    # 768 tokens of 32 x 32 pixels for two frames, 7680 for all pairs of them
    assert (videos.frame_pixels, videos.max_pixels) == (768 * 32 * 32, 2 * 7680 * 32 * 32)


def changed(folder: Path, file: str, **settings: Any) -> planning.Plan:
    """The plan of a checkpoint with other settings in one of its files."""
    known = json.loads((folder / file).read_text(encoding="utf-8"))
    (folder / file).write_text(json.dumps(known | settings), encoding="utf-8")
    return planning.plan(checkpoint.read(folder, recipe=None))


def test_videos_have_the_settings_of_their_own_processor(tmp_path: Path):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    plan = changed(
        folder, "video_preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], resample=2, fps=4,
        cap_pixels_per_frame=True, max_video_tokens=10,
    )  # fmt: skip
    assert plan.vision is not None
    images, videos = plan.vision.images, plan.vision.images.videos
    assert videos is not None
    assert (images.mean, images.resample) == ((0.5, 0.5, 0.5), "bicubic")
    assert (videos.mean, videos.std, videos.resample) == ((0.1, 0.2, 0.3), None, "bilinear")
    assert (videos.fps, videos.frame_pixels) == (4.0, 10 * 32 * 32)


def test_without_a_file_of_their_own_videos_have_the_settings_of_pictures(tmp_path: Path):
    """As transformers' AutoVideoProcessor reads them; Nemotron's processor has no videos."""
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    (folder / "video_preprocessor_config.json").unlink()
    plan = changed(folder, "preprocessor_config.json", size={"shortest_edge": 2048, "longest_edge": 65536})
    assert plan.vision is not None
    assert plan.vision.images.videos is not None
    assert (plan.vision.images.videos.min_pixels, plan.vision.images.videos.max_pixels) == (2048, 65536)

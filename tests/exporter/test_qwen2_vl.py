"""The families on Qwen2-VL and Qwen2.5-VL beside transformers' own classes, through exported artifacts, from
raw pictures and videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import PoolingParams, load
from poolrt.runtime.answers import pair_scores
from poolrt.runtime.answers.score_request import ScoreRequest
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.multimodal.media_reading import MediaReading
from poolrt.runtime.inputs.multimodal.preparation import MultimodalPreparation

from tests.conftest import exported
from tests.families import proof
from tests.families import qwen2_vl as tiny
from tests.families.pictured import Prompt, pictured
from tests.families.qwen2_vl import Reference
from tests.families.qwen3_vl_prompts import CLIP as RECORDED_CLIP
from tests.families.qwen3_vl_prompts import CLIP_FPS as RECORDED_FPS
from tests.families.qwen3_vl_prompts import PICTURES, PROMPTS
from tests.goldens import record_qwen2_vl
from tests.painted import painted

COSINE = 1 - 1e-6  # float32 on both sides
SCORE = 1e-5  # of probabilities
SIZES = [(70, 40), (200, 100), (33, 500), (1, 1)]
PAGES: list[Any] = [painted(*size, seed) for seed, size in enumerate(SIZES)]
CLIP = np.random.default_rng(5).integers(0, 256, (7, 64, 96, 3), dtype=np.uint8)
CLIP_FPS = 4.0
SECONDS = 2 / (CLIP_FPS * 4 / 7)
"""Between groups of two frames: of 7 frames, 4 are read."""
MARK, VIDEO = "<|vision_start|><|image_pad|><|vision_end|>", "<|vision_start|><|video_pad|><|vision_end|>"
BODIES: dict[str, dict[str, Any]] = {
    "qwen2_vl": {},
    "qwen2_5_vl": {"newer": True},
}


@pytest.mark.parametrize("name", ["qwen2_5_vl", pytest.param("qwen2_vl", marks=pytest.mark.slow)])
def test_prompts_become_the_vectors_of_transformers_classes(name: str, tmp_path: Path):
    def write(folder: Path) -> Path:
        return tiny.qwen2_vl(folder / name, **BODIES[name])

    artifact = exported(f"qwen2-vl-{name}", write)
    reference = Reference(write(tmp_path))
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        proof.shown(model.manifest)
        pages = [prepared.image(images, page) for page in PAGES]
        clip = prepared.video(images, CLIP, fps=CLIP_FPS)
        rows: list[tuple[dict[str, Any], list[Any]]] = [
            ({"prompt": "the red planet!"}, []),
            *(
                ({"prompt": f"{MARK}what is this", "multi_modal_data": {"image": page}}, [medium])
                for page, medium in zip(PAGES, pages, strict=True)
            ),
            (
                {"prompt": f"{MARK} is not {MARK}", "multi_modal_data": {"image": PAGES[:2]}},
                pages[:2],
            ),
            (
                {"prompt": f"{VIDEO}mars", "multi_modal_data": {"video": [(CLIP, {"fps": CLIP_FPS})]}},
                [clip],
            ),
        ]
        outputs = model.embed([prompt for prompt, _ in rows])
        theirs = [
            reference.hidden(output.prompt_token_ids, media, seconds=SECONDS)[-1]
            for output, (_, media) in zip(outputs, rows, strict=True)
        ]
        ours = [np.asarray(output.outputs.embedding) for output in outputs]
        assert proof.cosines(ours, theirs).min() > COSINE


SIDES: list[tuple[Any, Any]] = [
    ("the red planet", "mars"),
    ("the red planet", {"image": PAGES[0]}),
    ("the red planet", {"image": PAGES[2], "text": "mars"}),
    ({"image": PAGES[1]}, "mars"),
    ({"image": PAGES[1]}, {"image": PAGES[0]}),
    ("", {"image": PAGES[3]}),
]


def test_pairs_become_the_scores_of_transformers_model_and_two_layers(tmp_path: Path):
    artifact = exported("qwen2-vl-jina_m0", lambda folder: tiny.jina_m0(folder / "jina_m0"))
    reference = tiny.JinaReference(tiny.jina_m0(tmp_path / "jina_m0"))
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        assert images.videos is None
        proof.shown(model.manifest)
        for query, document in SIDES:
            [answer] = model.score(query, [document])
            ids, media = reference.prompt(images, query, document)
            assert answer.prompt_token_ids == ids
            expected = reference.score(ids, media)
            assert proof.differences([np.array([answer.outputs.score])], [np.array([expected])]) < SCORE
        # Whatever the style, as the prompt is a part of the model.
        [plain] = model.score("the red planet", ["mars"], preparation="vllm")
        assert plain.prompt_token_ids == reference.prompt(images, *SIDES[0])[0]


def test_a_pair_that_is_cut_keeps_its_last_token(tmp_path: Path):
    artifact = exported("qwen2-vl-jina_m0", lambda folder: tiny.jina_m0(folder / "jina_m0"))
    with load(artifact) as model:
        for document in ("mars " * 40, {"image": PAGES[0], "text": "mars " * 40}):
            [whole] = model.score("the red planet", [document])
            [cut] = model.score("the red planet", [document], truncate_prompt_tokens=48)
            assert len(whole.prompt_token_ids) > len(cut.prompt_token_ids) == 48
            assert cut.prompt_token_ids[-12:] == whole.prompt_token_ids[-12:]
            assert cut.prompt_token_ids[-1] == tiny.SCORE_TOKEN


def test_the_text_of_a_document_is_cut_before_its_pair_is_written():
    """As by the authors' code: 512 tokens less than a pair has, whatever the query needs."""
    artifact = exported("qwen2-vl-jina_m0", lambda folder: tiny.jina_m0(folder / "jina_m0"))
    request = ScoreRequest(limits=TokenLimits(), params=PoolingParams())
    with load(artifact) as model:
        assert model.manifest.images is not None
        reading = MediaReading(model.manifest.images)
        manifest = replace(model.manifest, text=replace(model.manifest.text, pair_document_tokens=9))
        cut = MultimodalPreparation(artifact, manifest, reading)
        words = "mars is the red planet and it is far away from here"
        first = model.preparation.encoder.tokenizer.encode(words, add_special_tokens=False)
        for query in ("red", "red " * 40):
            for document in (words, {"image": PAGES[0], "text": words}):
                sides = [cut.side(side, "side") for side in (query, document)]
                prepared = pair_scores.prepare(model.manifest, cut, sides[:1], sides[1:], request)
                [item] = [item for step in prepared.steps for item in step.values()]
                written = document if isinstance(document, str) else document["text"]
                shorter = words[: first.offsets[8][1]]
                same = shorter if written is document else {"image": PAGES[0], "text": shorter}
                [expected] = model.score(query, [same])
                assert (item.ids, item.truncated) == (list(expected.prompt_token_ids), True)
        # vLLM cuts none.
        assert (cut.document_tokens, cut.in_style("vllm").document_tokens) == (9, 0)


def test_scores_of_pairs_are_those_of_vllm():
    artifact = exported("qwen2-vl-jina_m0", lambda folder: tiny.jina_m0(folder / "jina_m0"))
    recorded = np.load(record_qwen2_vl.FOLDER / "jina_m0.npz")

    def side(value: str) -> Any:
        return {"image": PICTURES[value.removesuffix(".png")]} if value.endswith(".png") else value

    with load(artifact) as model:
        proof.shown(model.manifest)
        for index, (query, document) in enumerate(record_qwen2_vl.PAIRS):
            [answer] = model.score(side(query), [side(document)])
            assert list(answer.prompt_token_ids) == recorded[f"ids_{index}"].tolist()
            score = np.array([answer.outputs.score])
            assert proof.differences([score], [recorded[f"score_{index}"].reshape(1)]) < SCORE


@pytest.mark.parametrize("name", record_qwen2_vl.EMBEDDERS)
def test_vectors_of_prompts_are_those_of_vllm(name: str, tmp_path: Path):
    """It reads all frames of an array. Text goes on behind the last of them."""
    of = pictured(tiny.qwen2_vl(tmp_path / name, **record_qwen2_vl.EMBEDDERS[name]))
    assert of.plan.vision is not None
    images = of.plan.vision.images
    media = {key: prepared.image(images, picture) for key, picture in PICTURES.items()}
    media["clip"] = prepared.video(
        images, RECORDED_CLIP, fps=RECORDED_FPS, options={"do_sample_frames": False}
    )
    assert media["clip"].times == ((0, 2, 4, 6) if name == "qwen2_5_vl" else (0, 1, 2, 3))
    rows = [Prompt(prompt.text, tuple(media[key] for key in prompt.media)) for prompt in PROMPTS]
    recorded = np.load(record_qwen2_vl.FOLDER / f"{name}.npz")
    for index, row in enumerate(rows):
        assert of.item(row).ids == recorded[f"ids_{index}"].tolist()
    theirs = [recorded[f"embed_{index}"] for index in range(len(rows))]
    assert proof.cosines(of.answers("embed", rows), theirs).min() > COSINE


QUESTION = "what is this"


@pytest.mark.parametrize("name", tiny.LATE)
def test_pages_and_questions_become_the_vectors_of_transformers_model_and_a_projection(
    name: str, tmp_path: Path
):
    artifact = exported(f"qwen2-vl-{name}", lambda folder: tiny.LATE[name](folder / name))
    reference = Reference(tiny.LATE[name](tmp_path / name))
    weights = tiny.tensors(reference.folder)
    stored = "embedding_proj_layer" if name == "colqwen2" else "custom_text_proj"
    weight, bias = (weights[f"{stored}.{end}"].numpy() for end in ("weight", "bias"))
    filler = "<|endoftext|>" * 10
    question = f"Query: {QUESTION}{filler}\n" if name == "colqwen2" else QUESTION + filler
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        proof.shown(model.manifest)
        assert images.background == ("white" if name == "colqwen2" else "none")
        [query] = model.token_embed([QUESTION], role="query")
        pages = model.token_embed([{"image": page} for page in PAGES], role="document")
        media = [prepared.image(images, page) for page in PAGES]
        tokenizer = model.preparation.encoder.tokenizer
        assert query.prompt_token_ids == tokenizer.encode(question).ids
        for page, medium in zip(pages, media, strict=True):
            text = f"<|im_start|>user\n{medium.text}Describe the image.<|im_end|><|endoftext|>"
            assert page.prompt_token_ids == tokenizer.encode(text).ids
        hidden = [reference.hidden(query.prompt_token_ids)] + [
            reference.hidden(page.prompt_token_ids, [medium])
            for page, medium in zip(pages, media, strict=True)
        ]
        theirs = [tiny.normalised(values @ weight.T + bias) for values in hidden]
        ours = [np.asarray(output.outputs.data) for output in (query, *pages)]
        assert proof.cosines(ours, theirs).min() > COSINE
        scores = [
            output.outputs.score for output in model.score(QUESTION, [{"image": page} for page in PAGES])
        ]
        expected = [(theirs[0] @ page.T).max(axis=1).sum() for page in theirs[1:]]
        np.testing.assert_allclose(scores, expected, atol=1e-4)


LAYOUTS: dict[str, dict[str, Any]] = {
    "newer names, newer body": {"newer": True, "modern": True, "dtype": "bfloat16"},
    "newer names, older body": {"modern": True, "dtype": "bfloat16", "text": {"num_key_value_heads": 1}},
    "older names, newer body": {"newer": True, "vision": {"window_size": 56, "fullatt_block_indexes": [0]}},
    "sliding": {"text": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_as_transformers_reads_it(layout: str, tmp_path: Path):
    folder = tiny.qwen2_vl(tmp_path / "layout", **LAYOUTS[layout])
    of, reference = pictured(folder), Reference(folder)
    assert of.plan.vision is not None
    [first, second] = [prepared.image(of.plan.vision.images, page) for page in PAGES[1:3]]
    rows = [Prompt("the red planet!", ()), Prompt("{}{}what is this", (first, second))]
    theirs = [reference.hidden(of.item(row).ids, row.media)[-1] for row in rows]
    assert proof.cosines(of.answers("embed", rows), theirs).min() > COSINE

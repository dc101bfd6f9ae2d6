"""Prompts and pixel budgets of the published checkpoints on Qwen2-VL, by their names, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import library_reference
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs import templates
from poolrt.runtime.inputs.media import prepared

from tests.checkpoints import configure, rewrite_weights
from tests.families import proof
from tests.families import qwen2_vl as tiny
from tests.families.pictured import Prompt, pictured
from tests.painted import painted

from .test_qwen3_vl_recipes import MEDIA, planned, written

SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
PAGES: list[Any] = [painted(70, 40, 0), painted(200, 100, 1)]
END = "<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"


def pixels(plan: planning.Plan) -> tuple[int, int]:
    assert plan.vision is not None
    assert plan.vision.images.patches is not None
    return plan.vision.images.patches.min_pixels, plan.vision.images.patches.max_pixels


def test_gme(tmp_path: Path):
    plan = planned(tiny.qwen2_vl, tmp_path / "gme-Qwen2-VL-2B-Instruct")
    for role in ("query", "document"):
        assert written(plan, role, "a car") == f"{SYSTEM}a car{END}"
        assert written(plan, role, "a car", images=1) == f"{SYSTEM}{MEDIA}a car{END}"
    assert written(plan, "query", "a car", instruction="Find it.").startswith(
        "<|im_start|>system\nFind it.<|im_end|>\n"
    )
    assert pixels(plan) == (256 * 28 * 28, 1280 * 28 * 28)
    assert plan.vision is not None
    assert plan.vision.images.videos is not None
    assert plan.vision.images.videos.max_pixels == 1280 * 28 * 28
    assert plan.tasks[0] == "embed"


def test_dse(tmp_path: Path):
    plan = planned(tiny.qwen2_vl, tmp_path / "dse-qwen2-2b-mrl-v1")
    assert written(plan, "query", "a car", images=1) == f"{SYSTEM}{MEDIA}Query: a car{END}"
    assert written(plan, "document", "", images=1) == f"{SYSTEM}{MEDIA}What is shown in this image?{END}"
    assert written(plan, "document", "a", images=1) == f"{SYSTEM}{MEDIA}Document: a{END}"
    assert pixels(plan) == (4 * 28 * 28, 2560 * 28 * 28)
    assert plan.heads["embed"].any_dimension


def test_vlm2vec(tmp_path: Path):
    plan = planned(tiny.qwen2_vl, tmp_path / "VLM2Vec-Qwen2VL-2B")
    page = "<|image_pad|> Represent the given image"
    asked = f"{page} with the following question: what is it"
    for role in ("query", "document"):
        assert written(plan, role, "what is it", images=1) == asked
        assert written(plan, role, "", images=1) == f"{page}."
    caption = "Find me an everyday image that matches the given caption: "
    assert written(plan, "query", "a car") == f"{caption}a car"
    assert written(plan, "document", "a car") == "a car"


@pytest.mark.parametrize("name", ["gme-Qwen2-VL-2B-Instruct", "dse-qwen2-2b-mrl-v1"])
def test_the_export_compares_pictures_in_the_bounds_of_a_recipe(name: str, tmp_path: Path):
    reading = library_reference.compare(tiny.qwen2_vl(tmp_path / name))
    compared = {agreement.what: agreement.worst_cosine for agreement in reading.agreements}
    assert (compared["embed of prompts with pictures"] or 0.0) > 1 - 1e-6


@pytest.mark.parametrize("kind", ["retrieval", "code", "text-matching"])
def test_jina_embeddings_v4(kind: str, tmp_path: Path):
    folder = tiny.qwen2_vl(tmp_path / f"jina-embeddings-v4-vllm-{kind}", newer=True)
    plan = planning.plan(checkpoint.read(folder))
    passage = "Query" if kind == "text-matching" else "Passage"
    assert written(plan, "query", "a car") == "Query: a car"
    assert written(plan, "document", "a car") == f"{passage}: a car"
    page = f"<|im_start|>user\n{MEDIA}Describe the image.<|im_end|>\n"
    assert {written(plan, role, "", images=1) for role in ("query", "document")} == {page}
    assert plan.heads["embed"].pool == "mean"


def test_jina_embeddings_v4_takes_the_mean_of_a_text_or_of_a_pictures_own_tokens(tmp_path: Path):
    folder = tiny.qwen2_vl(tmp_path / "v4", newer=True, single_vector_pool_strategy="mean")
    of, reference = pictured(folder), tiny.Reference(folder)
    assert of.plan.vision is not None
    first, second = (prepared.image(of.plan.vision.images, page) for page in PAGES[:2])
    rows = [
        Prompt("Query: the red planet", ()), Prompt("a {}b", (first,)), Prompt("{}", (second,)),
        Prompt("{}{}c", (second, first)), Prompt("<|vision_end|>a", ()), Prompt("a<|vision_start|>", ()),
    ]  # fmt: skip
    expected = []
    for row in rows:
        ids = of.item(row).ids
        hidden = reference.hidden(ids, row.media)
        if row.media:
            pieces = [of.tokenizer.id_to_token(token) for token in ids]
            hidden = hidden[pieces.index("<|vision_start|>") : pieces.index("<|vision_end|>") + 1]
        expected.append(hidden.mean(0))
    assert proof.cosines(of.answers("embed", rows), expected).min() > 1 - 1e-6


def test_another_strategy_of_jina_embeddings_v4_is_refused(tmp_path: Path):
    folder = tiny.qwen2_vl(tmp_path / "v4", newer=True, single_vector_pool_strategy="max")
    with pytest.raises(CheckpointError, match="single_vector_pool_strategy 'max'"):
        checkpoint.read(folder)


def test_jina_reranker_m0(tmp_path: Path):
    """In the layout of transformers 5, under the name that vLLM has for it."""
    more: dict[str, Any] = {"modern": True, "name": "JinaVLForSequenceClassification"}
    plan = planned(tiny.jina_m0, tmp_path / "jina-reranker-m0", **more)
    assert (plan.tasks[0], plan.scoring) == ("classify", "cross-encoder")
    head = plan.heads["classify"]
    assert (head.activation, head.logit_mean, head.pool, plan.text.pair_end) == ("sigmoid", 2.65, "last", 100)
    assert plan.text.pair_document_tokens == 9728
    assert plan.vision is not None
    assert plan.vision.images.videos is None
    messages = [{"role": "query", "content": "a"}, {"role": "document", "content": f"{MEDIA}b"}]
    template = plan.files["score_template.jinja"].decode()
    assert templates.conversation(template, messages) == f"**Document**:\n{MEDIA}b\n**Query**:\na"


def test_a_page_prompt_without_a_picture_is_refused(tmp_path: Path):
    folder = tiny.colqwen2(tmp_path / "pages")
    (folder / "processor_config.json").write_text('{"visual_prompt_prefix": "Describe."}', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"visual_prompt_prefix 'Describe\.'; expected <\|vision_start"):
        planning.plan(checkpoint.read(folder))


@pytest.mark.parametrize("how", ["convert", "named"])
def test_a_classifier_scores_the_last_token(how: str, tmp_path: Path):
    """As vLLM converts a language model: one layer `score`."""
    named = "Qwen2_5_VLForSequenceClassification" if how == "named" else ""
    head: dict[str, tuple[int, ...]] = {"score.weight": (3, 128)}
    folder = tiny.qwen2_vl(
        tmp_path / "judge",
        newer=True,
        name=named,
        head=head,
        id2label={str(row): "abc"[row] for row in range(3)},
    )
    of = pictured(folder, convert="classify" if how == "convert" else "auto")
    reference = tiny.Reference(folder)
    rows = [Prompt("the red planet!", ()), Prompt("a", ())]
    weight = tiny.tensors(folder)["score.weight"].numpy()
    logits = np.stack([weight @ reference.hidden(of.item(row).ids)[-1] for row in rows])
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.stack(of.answers("classify", rows)), chances, atol=1e-5)


@pytest.mark.parametrize(
    ("pictures", "config", "message"),
    [
        ({"patch_size": 16}, {}, "says patch_size 16, config.json's vision_config patch_size 14"),
        ({"do_resize": False}, {}, "says do_resize False, which poolrt"),
        ({"num_frames": 8}, {}, "says num_frames 8, which poolrt"),
        ({"fps": 0}, {}, "says fps 0, which poolrt"),
        ({}, {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rotary positions of type 'dynamic'"),
    ],
    ids=["patch", "resize", "frames", "rate", "rotary"],
)
def test_settings_that_are_not_known_are_refused(
    pictures: dict[str, Any], config: dict[str, Any], message: str, tmp_path: Path
):
    folder = tiny.qwen2_vl(tmp_path / "strange", pictures=pictures)
    configure(folder, **config)
    with pytest.raises(CheckpointError, match=message):
        pictured(folder)


def test_tensors_without_a_place_are_refused(tmp_path: Path):
    folder = tiny.qwen2_vl(tmp_path / "more")
    rewrite_weights(folder, lambda name: name.replace("visual.merger", "tower.merger"))
    read = checkpoint.read(folder, recipe=None)
    with pytest.raises(CheckpointError, match=r"no place for: tower\.merger"):
        read.family.load(read)

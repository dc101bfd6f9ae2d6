"""jina-embeddings-v4's own repository: three tasks in one file of adapters, one vector and many, beside its
published arithmetic over transformers' Qwen2.5-VL."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.base import large
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import library_reference
from poolrt.runtime import PoolingParams, load
from poolrt.runtime.artifact.manifest import Task
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.medium import Medium
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from tests.conftest import exported
from tests.families import jina_v4 as tiny
from tests.families import proof
from tests.families.jina_v4 import TASKS, jina_v4
from tests.families.pictured import Prompt, pictured
from tests.families.qwen2_vl import Floats
from tests.painted import painted

from .test_qwen3_vl_recipes import MEDIA, written

COSINE = 1 - 1e-6  # float32 on both sides
SCORE = 1e-4  # of a sum over some ten tokens
PAGES: list[Any] = [painted(70, 40, 0), painted(200, 100, 1)]
PAGE = "<|im_start|>user\n{}Describe the image.<|im_end|>\n"
TEXTS = ["the red planet!", "mars"]
FILES = {"model.safetensors", "adapters/adapter_config.json", "adapters/adapter_model.safetensors"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read-only by agreement."""
    return jina_v4(tmp_path_factory.mktemp("jina") / "v4")


def by_task(reference: tiny.JinaV4) -> tuple[tuple[Task, Callable[..., Floats]], ...]:
    return (("embed", reference.single), ("token_embed", reference.multi))


def test_texts_and_pictures_become_one_vector_and_many(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Streamed: the adapters' changes reach weights that stay in their files, and the projection."""
    monkeypatch.setenv(large.SETTING, "0")
    asked: dict[str, Any] = {"hf_overrides": {"jina_task": "code"}, "pooler_config": {"task": "token_embed"}}
    artifact = exported("jina-v4-of-code", lambda place: jina_v4(place / "v4"), recipe=None, **asked)
    reference = tiny.JinaV4(folder, "code")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    with load(artifact) as model:
        images = model.manifest.images
        assert images is not None
        assert images.videos is None
        assert set(model.manifest.source.weights) == FILES
        assert model.manifest.reading is not None
        assert model.manifest.reading.twin
        proof.shown(model.manifest)
        media: list[list[Medium]] = [[], [], *([prepared.image(images, page)] for page in PAGES)]
        prompts = [*(f"Passage: {text}" for text in TEXTS)]
        prompts += [PAGE.format(medium.text) for [medium] in media[2:]]
        ids = [tokenizer.encode(prompt).ids for prompt in prompts]
        for task, compute in by_task(reference):
            outputs = model.encode([*TEXTS, *PAGES], role="document", pooling_task=task)
            assert [list(output.prompt_token_ids) for output in outputs] == ids
            ours = [np.asarray(output.outputs.data) for output in outputs]
            theirs = [compute(tokens, pictures) for tokens, pictures in zip(ids, media, strict=True)]
            assert proof.cosines(ours, theirs).min() > COSINE
        for width in (16, 64):
            [short] = model.embed(PAGES[:1], pooling_params=PoolingParams(dimensions=width), role="document")
            expected = reference.single(ids[2], media[2], width=width)
            assert proof.cosines([np.asarray(short.outputs.embedding)], [expected]).min() > COSINE
        question = reference.multi(tokenizer.encode(f"Query: {TEXTS[0]}").ids)
        scores = model.score(TEXTS[0], [TEXTS[1], {"image": PAGES[0]}])
        for score, index in zip(scores, (1, 2), strict=True):
            best = (question @ reference.multi(ids[index], media[index]).T).max(axis=1)
            assert abs(score.outputs.score - float(best.sum())) < SCORE


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_chosen_at_export(task: str, folder: Path, tmp_path: Path):
    """Of rank-stabilised adapters too, whose scale is alpha / √r."""
    if task == "code":
        folder = jina_v4(tmp_path / "v4", peft={"use_rslora": True})
    of, reference = pictured(folder, hf_overrides={"jina_task": task}), tiny.JinaV4(folder, task)
    assert of.plan.vision is not None
    page = prepared.image(of.plan.vision.images, PAGES[1])
    rows = [Prompt("Query: the red planet"), Prompt(PAGE, (page,)), Prompt("{}mars", (page,))]
    ids = [of.item(row).ids for row in rows]
    for kind, compute in by_task(reference):
        theirs = [compute(tokens, row.media) for tokens, row in zip(ids, rows, strict=True)]
        assert proof.cosines(of.answers(kind, rows), theirs).min() > COSINE
    passage = "Query" if task == "text-matching" else "Passage"
    assert written(of.plan, "query", "a car") == "Query: a car"
    assert written(of.plan, "document", "a car") == f"{passage}: a car"
    assert {written(of.plan, role, "", images=1) for role in ("query", "document")} == {PAGE.format(MEDIA)}


def test_the_export_compares_vectors_of_tokens_with_peft_over_transformers_class(folder: Path):
    reading = library_reference.compare(folder, recipe=None)
    compared = {agreement.what: agreement.worst_cosine for agreement in reading.agreements}
    assert (compared["token_embed of prompts with pictures"] or 0.0) > COSINE


def test_widths_are_those_of_config_json(folder: Path, tmp_path: Path):
    plan = planning.plan(checkpoint.read(folder, hf_overrides={"truncate_dim": 32}))
    assert plan.heads["embed"].matryoshka == tuple(tiny.WIDTHS)
    assert (plan.heads["embed"].dim, plan.heads["embed"].dimensions) == (128, 32)
    assert (plan.heads["token_embed"].dim, plan.heads["token_embed"].dimensions) == (tiny.DIMS, None)
    with pytest.raises(CheckpointError, match=r"truncate_dim of config\.json is 33; expected one of 16"):
        planning.plan(checkpoint.read(folder, hf_overrides={"truncate_dim": 33}))


def _without_adapters(folder: Path) -> None:
    (folder / "adapters" / "adapter_config.json").unlink()


def _with_a_whole_tensor(folder: Path) -> None:
    path = folder / "adapters" / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "base_model.model.multi_vector_projector.bias": torch.zeros(tiny.DIMS)}, path)


def _of_another_model(folder: Path) -> None:
    path = folder / "adapters" / "adapter_model.safetensors"
    save_file(
        {name.replace("layers.1.", "layers.9."): value for name, value in load_file(path).items()}, path
    )


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (None, {"hf_overrides": {"jina_task": "summarise"}}, "'summarise'; .* retrieval, text"),
        (None, {"hf_overrides": {"single_vector_pool_strategy": "max"}}, "single_vector_pool_strategy 'max'"),
        (None, {"adapter": "adapters"}, "its own adapter .* is a part of the model"),
        (_without_adapters, {}, "adapters: no adapter_config.json; the model is not whole without"),
        (_with_a_whole_tensor, {}, "adapters: multi_vector_projector.bias; expected lora_A and lora_B"),
        (_of_another_model, {}, r"layers\.9\.self_attn\.\w_proj\.weight has no place in the checkpoint"),
    ],
    ids=["task", "strategy", "two adapters", "no adapters", "whole tensor", "another model"],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(
    change: Callable[[Path], None] | None, options: dict[str, Any], reason: str, folder: Path, tmp_path: Path
):
    if change is not None:
        change(folder := jina_v4(tmp_path / "v4"))
    if "adapter" in options:
        options = {"adapter": folder / options["adapter"]}
    with pytest.raises(CheckpointError, match=reason):
        checkpoint.read(folder, **options)


def test_the_recipe_describes_the_published_model(tmp_path: Path):
    found = checkpoint.read(jina_v4(tmp_path / "jina-embeddings-v4"))
    assert found.recipe is not None
    assert json.loads((tmp_path / "jina-embeddings-v4" / "config.json").read_text())["task_names"] == list(
        TASKS
    )
    assert found.recipe.hf_overrides == {}

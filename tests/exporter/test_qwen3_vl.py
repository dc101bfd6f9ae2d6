"""The families on Qwen3-VL, their graphs beside transformers' own class on pictures, videos and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.medium import Medium

from tests.families import qwen3_vl as tiny
from tests.families.pictured import Pictured, Prompt, pictured
from tests.families.qwen3_vl_prompts import CLIP, CLIP_FPS, PICTURES, PROMPTS
from tests.families.qwen3_vl_reference import Reference, normalised
from tests.goldens import record_qwen3_vl

# fp32 against fp32, vectors; worst measured 1 - 3e-7 (other orders of sums, in four blocks and four layers)
COSINE = 1 - 2e-6
SCORE = 2e-5  # of probabilities; worst measured 3e-6


def media(of: Pictured) -> dict[str, Medium]:
    """Prepared pictures by name, and the clip where the model reads videos."""
    assert of.plan.vision is not None
    images = of.plan.vision.images
    known = {name: prepared.image(images, picture) for name, picture in PICTURES.items()}
    return known | ({"clip": prepared.video(images, CLIP, fps=CLIP_FPS)} if images.videos is not None else {})


def prompts(of: Pictured) -> list[Prompt]:
    known = media(of)
    return [
        Prompt(prompt.text, tuple(known[name] for name in prompt.media))
        for prompt in PROMPTS
        if set(prompt.media) <= set(known)
    ]


def expected(of: Pictured, reference: Reference, rows: Sequence[Prompt]) -> list[Any]:
    return [reference.hidden(of.item(row).ids, row.media) for row in rows]


def close(ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        cosines = (normalised(np.atleast_2d(one)) * normalised(np.atleast_2d(other))).sum(-1)
        assert cosines.min() > COSINE, cosines.min()


def test_both_graphs_compute_what_transformers_model_does(tmp_path: Path):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    of, reference = pictured(folder, tmp_path), Reference(folder)
    rows = prompts(of)
    hidden = expected(of, reference, rows)
    close(of.answers("embed", rows), [values[-1] for values in hidden])
    close(of.answers("token_embed", rows), hidden)
    together = np.stack(of.answers("embed", rows))
    alone = np.concatenate([of.answers("embed", [row]) for row in rows])
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1, "modern": True, "dtype": "bfloat16", "shard": "200KB", "tied": False},
        {"text": {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 48, "hidden_size": 48},
         "vision": {"out_hidden_size": 48, "hidden_size": 60, "num_heads": 5, "num_position_embeddings": 49}},
        {"vision": {"depth": 5, "deepstack_visual_indexes": [1, 4], "num_heads": 4}},
        {"rename": tiny.behind("base_model.model.")},
    ],
    ids=["bfloat16 in shards", "sizes", "two levels", "another prefix"],
)  # fmt: skip
def test_other_checkpoints_of_the_family(settings: dict[str, Any], tmp_path: Path):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding", **settings)
    of, reference = pictured(folder), Reference(folder)
    rows = prompts(of)[2:7]
    close(of.answers("embed", rows), [values[-1] for values in expected(of, reference, rows)])


@pytest.mark.parametrize(
    "arguments", [{}, {"legacy": True, "dims": 24}], ids=["today's names", "older names"]
)
def test_colqwen3_projects_with_its_bias(arguments: dict[str, Any], tmp_path: Path):
    folder = tiny.colqwen3(tmp_path / "colqwen3", **arguments)
    of, reference = pictured(folder), Reference(folder)
    rows = prompts(of)
    close(of.answers("token_embed", rows), list(map(reference.projected, expected(of, reference, rows))))


@pytest.mark.parametrize(
    "arguments", [{}, {"dims": 40}, {"outer": "base_model.model."}], ids=["whole", "cut", "prefix of drafts"]
)
def test_ops_colqwen3_normalises_the_first_values(arguments: dict[str, Any], tmp_path: Path):
    folder = tiny.ops_colqwen3(tmp_path / "ops", **arguments)
    of, reference = pictured(folder), Reference(folder)
    rows = prompts(of)
    hidden = expected(of, reference, rows)
    dims = arguments.get("dims", 64)
    close(of.answers("token_embed", rows), [reference.projected(values, dims=dims) for values in hidden])


def test_nemotron_attends_both_ways_and_leaves_the_last_norm_out(tmp_path: Path):
    folder = tiny.nemotron_colembed(tmp_path / "nemotron")
    of, reference = pictured(folder), Reference(folder, both_ways=True)
    rows = prompts(of)
    assert all(medium.kind == "image" for row in rows for medium in row.media)
    close(of.answers("token_embed", rows), list(map(normalised, expected(of, reference, rows))))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("how", ["modules", "overrides"])
def test_a_reranker_compares_yes_with_no(tied: bool, how: str, tmp_path: Path):
    folder = tiny.qwen3_vl_reranker(tmp_path / "reranker", sentence=how == "modules", tied=tied)
    of = pictured(folder, hf_overrides=tiny.RERANKER if how == "overrides" else None)
    reference = Reference(folder)
    rows = prompts(of)
    hidden = np.stack([values[-1] for values in expected(of, reference, rows)])
    table = "model.language_model.embed_tokens.weight" if tied else "lm_head.weight"
    yes, no = (reference.tensors[table][of.tokenizer.token_to_id(word)].numpy() for word in ("yes", "no"))
    logits = np.stack([hidden @ no, hidden @ yes], axis=-1)
    chances = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(np.concatenate(of.answers("classify", rows)), chances[:, 1], atol=SCORE)


@pytest.mark.parametrize("name", record_qwen3_vl.WANTED)
def test_answers_are_those_of_vllm(name: str, tmp_path: Path):
    """Token counts, too. The projections have no bias here, because vLLM leaves biases out."""
    builder, arguments, tasks, reranks = record_qwen3_vl.WANTED[name]
    folder = getattr(tiny, builder)(tmp_path / name, **arguments)
    of = pictured(folder, hf_overrides=tiny.RERANKER if reranks else None)
    rows = prompts(of)
    recorded = np.load(record_qwen3_vl.FOLDER / f"{name}.npz")
    for index, row in enumerate(rows):
        assert of.item(row).ids == recorded[f"ids_{index}"].tolist()
    for task in tasks:
        theirs = [recorded[f"{task}_{index}"] for index in range(len(rows))]
        if task == "classify":
            np.testing.assert_allclose(of.answers(task, rows), theirs, atol=SCORE)
        else:
            close(of.answers(task, rows), theirs)

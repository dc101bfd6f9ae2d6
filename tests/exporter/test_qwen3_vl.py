"""The families on Qwen3-VL, their graphs beside transformers' own class on pictures, videos and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.base import large
from poolrt.runtime import load
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs import templates
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.media.medium import Medium

from tests import adapters
from tests.families import proof
from tests.families import qwen3_vl as tiny
from tests.families.pictured import Pictured, Prompt, pictured
from tests.families.qwen3_vl_prompts import CLIP, CLIP_FPS, PICTURES, PROMPTS, SENTENCES
from tests.families.qwen3_vl_reference import Reference, normalised
from tests.goldens import record_qwen3_vl
from tests.serve.picture_cases import artifact

PICTURE_MARK = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO_MARK = "<|vision_start|><|video_pad|><|vision_end|>"
# fp32 against fp32, vectors: other orders of sums, in four blocks and four layers
COSINE = 1 - 2e-6
HALF = 0.9999  # products in float16, sums in float32
INT8 = 0.98  # the promise for vectors; the worst seen is 0.993
SCORE = 2e-5  # of probabilities in float32


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
    assert proof.cosines(ours, theirs).min() > COSINE


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with Sentence Transformers' files, and its artifact."""

    return tiny.qwen3_vl_sentence(tmp_path_factory.mktemp("qwen3_vl")), artifact("qwen3_vl_embedding")


def test_an_artifact_embeds_as_transformers_model_does(embedding: tuple[Path, Path]):
    folder, artifact = embedding
    of, reference = pictured(folder), Reference(folder)
    rows = prompts(of)
    hidden = expected(of, reference, rows)
    with load(artifact) as model:
        proof.shown(model.manifest)
        raw = [raw_prompt(prompt) for prompt in PROMPTS]
        together = np.asarray(model.embed(raw))
        close(list(together), [values[-1] for values in hidden])
        close([output.outputs.data for output in model.token_embed(raw)], hidden)
        alone = np.concatenate([model.embed([one]) for one in raw])
        np.testing.assert_allclose(together, alone, atol=1e-5)


def raw_prompt(prompt: Any) -> dict[str, Any]:
    """A prompt in vLLM's form, with its placeholders."""
    marks = [VIDEO_MARK if name == "clip" else PICTURE_MARK for name in prompt.media]
    data = {
        "image": [PICTURES[name] for name in prompt.media if name != "clip"],
        "video": [(CLIP, {"fps": CLIP_FPS}) for name in prompt.media if name == "clip"],
    }
    return {
        "prompt": prompt.text.format(*marks),
        "multi_modal_data": {kind: values for kind, values in data.items() if values},
    }


def test_roles_of_an_artifact_are_those_of_sentence_transformers(embedding: tuple[Path, Path]):
    recorded = np.load(record_qwen3_vl.FOLDER / "sentence_transformers.npz")
    inputs = [
        *SENTENCES,
        *({"image": picture} for picture in PICTURES.values()),
        {"image": PICTURES["wide"], "text": SENTENCES[0]},
    ]
    with load(embedding[1]) as model:
        close(list(np.asarray(model.embed(inputs, role="query"))), recorded["query"])
        close(list(np.asarray(model.embed(inputs, role="document"))), recorded["document"])
        [vector] = np.asarray(model.embed(SENTENCES[:1], role="document", instruction="Find it."))
        close([vector], [recorded["prompt"]])


def test_pairs_are_scored_as_sentence_transformers_does(tmp_path: Path):
    folder = tiny.qwen3_vl_reranker(tmp_path / "reranker", sentence=True)
    of = pictured(folder)
    known = media(of)
    documents: list[tuple[str, str]] = [
        *(("", text) for text in SENTENCES), *((name, "") for name in PICTURES), ("wide", SENTENCES[0])
    ]  # fmt: skip
    pairs = [(("", SENTENCES[0]), document) for document in documents] + [(("tall", ""), ("strip", ""))]
    template = of.plan.files["score_template.jinja"].decode()

    def side(role: str, name: str, text: str) -> dict[str, Any]:
        parts = [{"type": "image"}] if name else []
        return {"role": role, "content": [*parts, *([{"type": "text", "text": text}] if text else [])]}

    rows = []
    for query, document in pairs:
        written = templates.conversation(template, [side("query", *query), side("document", *document)])
        pictures = tuple(known[name] for name, _ in (query, document) if name)
        rows.append(Prompt(written.replace(PICTURE_MARK, "{}"), pictures))
    recorded = np.load(record_qwen3_vl.FOLDER / "sentence_transformers.npz")
    np.testing.assert_allclose(np.concatenate(of.answers("classify", rows)), recorded["scores"], atol=SCORE)


def test_a_score_module_is_found_beside_a_wrong_path(tmp_path: Path):
    """As Qwen3-VL-Reranker-8B is published."""
    folder = tiny.qwen3_vl_reranker(tmp_path / "reranker", sentence=True, path="1_LogitScores")
    read = checkpoint.read(folder, recipe=None)
    assert read.kind == "classify"
    assert read.sentence is not None
    assert read.sentence.answers is not None
    assert read.text.token(read.sentence.answers.true) == "yes"


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


@pytest.mark.slow
def test_a_checkpoint_too_large_for_memory_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Both graphs are traced on fake tensors; their weights are read while they are written."""
    monkeypatch.setenv(large.SETTING, "0")
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding", seed=8, dtype="bfloat16", shard="200KB")
    pipeline.export(folder, out=tmp_path / "artifacts", recipe=None, precision="fp16")
    monkeypatch.delenv(large.SETTING)
    of, reference = pictured(folder), Reference(folder)
    hidden = [values[-1] for values in expected(of, reference, prompts(of))]
    with load(tmp_path / "artifacts" / "embedding") as model:
        assert [graph.role for graph in model.manifest.graphs] == ["text", "vision"]
        assert model.manifest.reading is not None
        assert model.manifest.reading.twin
        assert "embed of prompts with pictures" in {
            agreement.what for agreement in model.manifest.reading.agreements
        }
        vectors = np.asarray(model.embed([raw_prompt(prompt) for prompt in PROMPTS]))
    cosines = (vectors * normalised(np.stack(hidden))).sum(-1)
    assert cosines.min() > HALF, cosines.min()


def test_an_adapter_of_both_towers_is_merged(tmp_path: Path):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding")
    kind = "Qwen3VLForConditionalGeneration"
    modules = ["q_proj", "down_proj", "qkv", "linear_fc1"]
    adapter = adapters.adapted(folder, tmp_path / "adapter", kind=kind, target_modules=modules)
    of, reference = pictured(folder, adapter=adapter), Reference(folder)
    rows = prompts(of)[:4]
    before = of.answers("embed", rows)
    reference.model = adapters.reference(folder, adapter, kind=kind).base_model.model.model
    close(before, [values[-1] for values in expected(of, reference, rows)])


def test_tensors_without_a_place_are_named(tmp_path: Path):
    folder = tiny.qwen3_vl_embedding(tmp_path / "embedding", head={"model.audio.weight": (2, 2)})
    with pytest.raises(CheckpointError, match=r"has no place for: model\.audio\.weight; expected visual"):
        pictured(folder)


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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_vl_embedding", "colqwen3"])
def test_int8_lowers_both_halves_and_proves_pictures(name: str, tmp_path: Path):
    folder = getattr(tiny, name)(tmp_path / name)
    report = pipeline.export(folder, out=tmp_path / "artifacts", recipe=None, precision="int8")
    assert any("the vision graph" in note for note in report.notes)
    with load(tmp_path / "artifacts" / name) as model:
        lowered = {graph.role: graph for graph in model.manifest.graphs}
        rows = [row for row in model.manifest.evidence if row.shape in ("pictures", "two pictures")]
    assert lowered["text"].precision == "int8"
    assert {row.engine for row in rows} == {f"onnxruntime:{lowered['vision'].file}"}
    assert min(row.worst_cosine or 0.0 for row in rows) > INT8


ODD: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 2, "rope_theta": 1e4}
PAGES: dict[str, dict[str, Any]] = {
    "colqwen3": {"text": ODD, "dtype": "bfloat16", "tied": False, "dims": 24},
    "ops_colqwen3": {"text": ODD, "dims": 40, "vision": {"deepstack_visual_indexes": [3, 1]}},
    "nemotron_colembed": {"text": ODD, "dtype": "bfloat16", "shard": "200KB", "videos": True},
}
"""Tiny checkpoint of late interaction -> settings of one that no other test has."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_an_artifact_of_late_interaction_answers_as_transformers_model_does(name: str, tmp_path: Path):
    """From raw pictures through the runtime: vectors of prompts, of both roles, and scores."""
    folder = getattr(tiny, name)(tmp_path / name, **PAGES[name])
    pipeline.export(folder, out=tmp_path / "artifacts", recipe=None)
    of, both_ways = pictured(folder), name == "nemotron_colembed"
    reference, known = Reference(folder, both_ways=both_ways), media(of)

    def vectors(output: Any, names: Sequence[str]) -> Any:
        hidden = reference.hidden(output.prompt_token_ids, [known[name] for name in names])
        return normalised(hidden) if both_ways else reference.projected(hidden, dims=PAGES[name].get("dims"))

    with load(tmp_path / "artifacts" / name) as model:
        proof.shown(model.manifest)
        outputs = model.token_embed([raw_prompt(prompt) for prompt in PROMPTS])
        close(
            [output.outputs.data for output in outputs],
            [vectors(output, prompt.media) for output, prompt in zip(outputs, PROMPTS, strict=True)],
        )
        pages = [{"image": PICTURES["wide"]}, {"image": PICTURES["tall"], "text": "mars"}]
        [query] = model.token_embed(SENTENCES[:1], role="query")
        documents = model.token_embed(pages, role="document")
        sides = [vectors(query, ()), vectors(documents[0], ["wide"]), vectors(documents[1], ["tall"])]
        close([output.outputs.data for output in (query, *documents)], sides)
        scores = [output.outputs.score for output in model.score(SENTENCES[0], pages)]
    expected = [(sides[0] @ side.T).max(axis=1).sum() for side in sides[1:]]
    np.testing.assert_allclose(scores, expected, atol=1e-4)


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
    assert proof.differences([np.concatenate(of.answers("classify", rows))], [chances[:, 1]]) < SCORE


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

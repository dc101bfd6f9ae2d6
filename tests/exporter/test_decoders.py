"""Decoder families, padded in one batch through our module, against transformers'
classes on one text at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.families import TEXTS, find, natives
from tests.families.natives import build, hidden, logits, without
from tests.families.proof import COSINE, DIFFERENCE, Proved, cosines, differences, prove

QWEN3_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
MXBAI_OVERRIDES = {
    "architectures": ["Qwen2ForSequenceClassification"],
    "classifier_from_token": ["0", "1"],
    "method": "from_2_way_softmax",
}
GEMMA_OVERRIDES = {
    "architectures": ["GemmaForSequenceClassification"],
    "classifier_from_token": ["Yes"],
    "method": "no_post_processing",
}


def proved(name: str, tmp_path: Path, **asked: Any) -> Proved:
    return prove(find(name)(tmp_path / name), **asked)


def texts(proof: Proved) -> tuple[str, ...]:
    return tuple(text for text in TEXTS if proof.item(text).ids)


HEADS = ("lm_head.", "score.")
EMBEDDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_embedding": ("Qwen3Model", {}),
    "qwen3_embedding_prefixed": ("Qwen3Model", {}),
    "gte_qwen2": ("Qwen2Model", {}),
    "qwen2_ssmits": ("Qwen2Model", {}),
    "e5_mistral": ("MistralModel", {}),
    "llama3_causal": ("LlamaModel", {}),
    "nemotron_embed": ("LlamaModel", {"model_type": "llama", "is_causal": False}),
    "gemma2_embedder": ("Gemma2Model", {}),
    "embedding_gemma": ("Gemma3TextModel", {}),
}


@pytest.mark.parametrize("name", EMBEDDERS)
def test_hidden_states_are_those_of_transformers(name: str, tmp_path: Path):
    proof = proved(name, tmp_path)
    kind, settings = EMBEDDERS[name]
    expected = hidden(
        build(tmp_path / name, kind, rename=without(*HEADS), **settings), proof.ids(texts(proof))
    )
    with torch.inference_mode():
        items = [proof.item(text) for text in texts(proof)]
        shape = (len(items), max(len(item.ids) for item in items))
        ids, mask = torch.full(shape, proof.plan.text.pad_id), torch.zeros(shape, dtype=torch.int64)
        for row, item in enumerate(items):
            ids[row, : len(item.ids)], mask[row, : len(item.ids)] = torch.tensor(item.ids), 1
        found = proof.module.backbone(input_ids=ids, attention_mask=mask).numpy()
    assert cosines([found[row, : len(item.ids)] for row, item in enumerate(items)], expected).min() > COSINE


@pytest.mark.parametrize("name", ["qwen3_embedding", "e5_mistral", "gemma2_embedder", "gte_qwen2"])
def test_the_vector_of_a_text_is_that_of_its_last_token(name: str, tmp_path: Path):
    proof = proved(name, tmp_path)
    tokens = proof.answers("token_embed", texts(proof))
    assert cosines(proof.answers("embed", texts(proof)), [rows[-1] for rows in tokens]).min() > COSINE


def test_embedding_gemma_is_that_of_sentence_transformers(tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    proof = proved("embedding_gemma", tmp_path)
    model = SentenceTransformer(str(tmp_path / "embedding_gemma"), device="cpu").eval()
    expected = model.encode([text.strip() for text in TEXTS], batch_size=1)
    assert cosines(proof.answers("embed", [text.strip() for text in TEXTS]), list(expected)).min() > COSINE


@pytest.mark.parametrize("name", ["qwen3_seq_cls", "qwen2_apeach"])
def test_a_decoder_classifies_by_its_last_token(name: str, tmp_path: Path):
    proof = proved(name, tmp_path)
    model = build(
        tmp_path / name,
        {"qwen3_seq_cls": "Qwen3", "qwen2_apeach": "Qwen2"}[name] + "ForSequenceClassification",
    )
    # One text without a pad inside: transformers looks for the last token that is not a pad id.
    assert (
        differences(proof.raw("classify", texts(proof)), logits(model, proof.ids(texts(proof)))) < DIFFERENCE
    )


def test_a_decoder_labels_every_token(tmp_path: Path):
    proof = proved("qwen3_tokens", tmp_path)
    model = build(tmp_path / "qwen3_tokens", "Qwen3ForTokenClassification")
    assert (
        differences(proof.raw("token_classify", texts(proof)), logits(model, proof.ids(texts(proof))))
        < DIFFERENCE
    )


@pytest.mark.parametrize(
    ("name", "kind", "overrides", "answers"),
    [
        ("qwen3_reranker", "Qwen3ForCausalLM", QWEN3_OVERRIDES, ("yes", "no")),
        ("mxbai_rerank", "Qwen2ForCausalLM", MXBAI_OVERRIDES, ("1", "0")),
        ("bge_gemma", "GemmaForCausalLM", GEMMA_OVERRIDES, ("Yes",)),
    ],
    ids=["qwen3", "mxbai", "gemma"],
)
def test_a_language_model_reranks_by_the_logit_of_its_answer(
    name: str, kind: str, overrides: dict[str, Any], answers: tuple[str, ...], tmp_path: Path
):
    proof = proved(name, tmp_path, hf_overrides=overrides)
    model = build(tmp_path / name, kind)
    ids = [proof.checkpoint.text.id(answer) for answer in answers]
    last = [rows[-1] for rows in logits(model, proof.ids(texts(proof)))]
    expected = [row[ids[0]] - (row[ids[1]] if len(ids) > 1 else 0.0) for row in last]
    assert differences([row[0] for row in proof.raw("classify", texts(proof))], expected) < DIFFERENCE
    probabilities = [1 / (1 + np.exp(-value)) for value in expected]
    assert (
        differences([row[0] for row in proof.answers("classify", texts(proof))], probabilities) < DIFFERENCE
    )
    assert proof.plan.scoring == "cross-encoder"


@pytest.mark.parametrize("name", ["qwen2_reward", "qwen2_process_reward"])
def test_reward_models_judge_every_token_of_qwen2(name: str, tmp_path: Path):
    proof = proved(name, tmp_path, pooler_config={"step_tag_id": 100})
    known = natives.tensors(tmp_path / name)
    states = hidden(build(tmp_path / name, "Qwen2Model", rename=without(*HEADS)), proof.ids(texts(proof)))
    inner = [
        np.maximum(rows @ known["score.0.weight"].numpy().T + known["score.0.bias"].numpy(), 0)
        for rows in states
    ]
    expected = [rows @ known["score.2.weight"].numpy().T + known["score.2.bias"].numpy() for rows in inner]
    assert differences(proof.raw("token_classify", texts(proof)), expected) < DIFFERENCE


def test_a_process_reward_is_read_behind_each_step(tmp_path: Path):
    proof = proved("qwen2_process_reward", tmp_path)
    assert proof.plan.heads["token_classify"].step_tag_id == 151651  # <extra_0> of the published vocabulary
    tag = 65
    text = [60, 61, tag, 62, tag, 63]
    [found] = proof.answers("token_classify", [text], step_tag_id=tag)
    [logit] = proof.raw("token_classify", [text])
    raised = np.exp(logit[[2, 4]])
    np.testing.assert_allclose(found, raised / raised.sum(-1, keepdims=True), atol=DIFFERENCE)


def test_a_reward_is_raw_unless_asked(tmp_path: Path):
    proof = proved("qwen2_reward", tmp_path)
    [raw] = proof.raw("token_classify", [[60, 61, 62]])
    [found] = proof.answers("token_classify", [[60, 61, 62]])
    [asked] = proof.answers("token_classify", [[60, 61, 62]], use_activation=True)
    np.testing.assert_allclose(found, raw, atol=DIFFERENCE)
    np.testing.assert_allclose(asked, 1 / (1 + np.exp(-raw)), atol=DIFFERENCE)


@pytest.mark.parametrize("name", ["e5_mistral", "gte_qwen2", "qwen3_embedding", "gemma2_embedder"])
def test_every_text_of_a_last_token_model_ends_with_its_end_token(name: str, tmp_path: Path):
    """e5-mistral's and gte-Qwen2's tokenizer.json forget it; tokenizer_config.json asks for it."""
    proof = proved(name, tmp_path)
    ends = proof.plan.text.ends_with
    assert ends is not None
    assert all(ids[-1] == ends for ids in proof.ids(TEXTS))
    if name == "e5_mistral":
        assert all(ids[0] == 1 for ids in proof.ids(TEXTS))  # and the begin token stays


def test_gte_qwen2_attends_both_ways_because_its_config_says_so(tmp_path: Path):
    proof = proved("gte_qwen2", tmp_path)
    causal = build(tmp_path / "gte_qwen2", "Qwen2Model", rename=without(*HEADS), is_causal=True)
    [ids] = proof.ids(TEXTS[2:3])
    assert cosines(proof.raw("token_embed", TEXTS[2:3]), hidden(causal, [ids]), of="").min() < 0.99


def test_the_window_of_embedding_gemma_is_halved_once(tmp_path: Path):
    proof = proved("embedding_gemma", tmp_path)
    inner: Any = proof.module.backbone
    assert inner.model.config.sliding_window == 9  # 16 is stored; 8 // 2 + 1 would be 5


def test_capped_scores_of_gemma2_are_felt(tmp_path: Path):
    proof = proved("gemma2_embedder", tmp_path)
    uncapped = build(tmp_path / "gemma2_embedder", "Gemma2Model", attn_logit_softcapping=None)
    [ids] = proof.ids(TEXTS[2:3])
    assert cosines(proof.raw("token_embed", TEXTS[2:3]), hidden(uncapped, [ids]), of="").min() < 0.9999


def test_ssmits_is_a_mean_that_is_not_normalised_when_asked(tmp_path: Path):
    proof = proved("qwen2_ssmits", tmp_path, pooler_config={"pooling_type": "MEAN", "use_activation": False})
    states = hidden(build(tmp_path / "qwen2_ssmits", "Qwen2Model"), proof.ids(texts(proof)))
    assert differences(proof.answers("embed", texts(proof)), [rows.mean(0) for rows in states]) < DIFFERENCE


def test_nemotron_divides_its_logit_by_the_temperature(tmp_path: Path):
    proof = proved("nemotron_rerank", tmp_path)
    folder = tmp_path / "nemotron_rerank"
    model = build(folder, "LlamaModel", rename=without(*HEADS), model_type="llama", is_causal=False)
    score = natives.tensors(folder)["score.weight"].numpy()
    expected = [rows.mean(0) @ score.T / 0.25 for rows in hidden(model, proof.ids(TEXTS))]
    # Divided by a quarter
    assert differences(proof.answers("classify", TEXTS, use_activation=False), expected) < 4 * DIFFERENCE
    assert (
        differences(proof.answers("classify", TEXTS), [1 / (1 + np.exp(-value)) for value in expected])
        < DIFFERENCE
    )


@pytest.mark.parametrize(("asked", "pool"), [("avg", "mean"), ("cls", "cls"), ("last", "last")])
def test_nemotron_pools_as_its_config_says(asked: str, pool: str, tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning

    from tests.families.decoders import nemotron_embed

    folder = nemotron_embed(tmp_path / asked, pooling=asked)
    (folder / "modules.json").unlink()
    assert planning.plan(checkpoint.read(folder, recipe=None)).heads["embed"].pool == pool


def test_nemotron_without_a_pooling_is_refused(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.runtime.errors import CheckpointError

    from tests.checkpoints import configure
    from tests.families.decoders import nemotron_embed

    folder = nemotron_embed(tmp_path / "none")
    configure(folder, pooling=None)
    with pytest.raises(CheckpointError, match="pooling None"):
        checkpoint.read(folder, recipe=None)


def test_a_classifier_without_its_score_is_refused(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning
    from poolrt.runtime.errors import CheckpointError

    folder = find("qwen3_reranker")(tmp_path / "checkpoint")
    read = checkpoint.read(
        folder, recipe=None, hf_overrides={"architectures": ["Qwen3ForSequenceClassification"]}
    )
    with pytest.raises(CheckpointError, match=r"missing score\.weight"):
        planning.plan(read)


def test_an_answer_that_is_not_one_token_is_refused(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning
    from poolrt.runtime.errors import CheckpointError

    folder = find("qwen3_reranker")(tmp_path / "checkpoint")
    read = checkpoint.read(
        folder, recipe=None, hf_overrides={**QWEN3_OVERRIDES, "classifier_from_token": ["no", "certainly"]}
    )
    with pytest.raises(CheckpointError, match="'certainly'"):
        planning.plan(read)


def test_a_length_stretched_by_yarn_counts(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning

    folder = find("qwen3_embedding")(tmp_path / "checkpoint")
    scaling = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 64}
    read = checkpoint.read(folder, recipe=None, hf_overrides={"rope_parameters": scaling})
    assert planning.plan(read).text.max_tokens == 256


def test_any_decoder_classifies_by_conversion(tmp_path: Path):
    from tests.checkpoints import configure

    folder = find("qwen2_apeach")(tmp_path / "checkpoint")
    configure(folder, architectures=["Qwen2ForCausalLM"])
    proof = prove(folder, convert="classify")
    model = build(folder, "Qwen2ForSequenceClassification")
    assert (
        differences(proof.raw("classify", texts(proof)), logits(model, proof.ids(texts(proof)))) < DIFFERENCE
    )


EXPORTED = ["qwen3_embedding", "nemotron_rerank"]
SLOW = [
    "gte_qwen2",
    "e5_mistral",
    "llama3_causal",
    "gemma2_embedder",
    "embedding_gemma",
    "qwen2_process_reward",
    "bge_gemma",
]


@pytest.mark.parametrize("name", [*EXPORTED, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_the_graph_answers_as_the_module(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / name)
    graph = prove(folder, tmp_path / "out")
    module = Proved(**{**vars(graph), "session": None})
    for task in graph.plan.tasks:
        for batch in (texts(graph), texts(graph)[:1], texts(graph)[-1:]):
            found, expected = graph.raw(task, batch), module.raw(task, batch)
            if "embed" in task:  # vectors are normalised afterwards
                assert cosines(found, expected).min() > COSINE, task
            else:
                assert differences(found, expected) < DIFFERENCE, task
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_size < 3_000_000  # nothing of a long text's size is stored


# Folders called like the repositories find their recipes: nothing else is said.
RECIPES = {
    "Qwen3-Reranker-0.6B": ("qwen3_reranker", "cross-encoder", "qwen3_reranker_card.jinja"),
    "mxbai-rerank-base-v2": ("mxbai_rerank", "cross-encoder", "mxbai_rerank_v2_card.jinja"),
    "bge-reranker-v2-gemma": ("bge_gemma", "cross-encoder", "bge-reranker-v2-gemma.jinja"),
    "llama-nemotron-rerank-1b-v2": ("nemotron_rerank", "cross-encoder", "nemotron-rerank.jinja"),
    "Qwen3-Reranker-0.6B-seq-cls": ("qwen3_seq_cls", "cross-encoder", "qwen3_reranker_card.jinja"),
    "Qwen3-Embedding-0.6B": ("qwen3_embedding", "bi-encoder", None),
    "Qwen2-7B-Instruct-embed-base": ("qwen2_ssmits", "bi-encoder", None),
    "embeddinggemma-300m": ("embedding_gemma", "bi-encoder", None),
    "voyage-4-nano": ("voyage", "bi-encoder", None),
    "jina-embeddings-v3": ("jina_v3", "bi-encoder", None),
    "jina-colbert-v2": ("jina_colbert", "late-interaction", None),
    "LFM2-ColBERT-350M": ("lfm2_colbert", "late-interaction", None),
    "GritLM-7B-vllm": ("gritlm", "bi-encoder", None),
    "Qwen2.5-Math-PRM-7B": ("qwen2_process_reward", None, None),
}


@pytest.mark.parametrize("repository", RECIPES)
def test_a_published_name_is_enough(repository: str, tmp_path: Path):
    from poolrt.exporter.files import recipe

    name, scoring, template = RECIPES[repository]
    proof = prove(find(name)(tmp_path / repository), recipe="auto")
    assert proof.checkpoint.recipe is not None
    assert proof.plan.scoring == scoring
    assert (proof.plan.text.score_template is not None) == (template is not None)
    if template is not None:
        assert proof.plan.files["score_template.jinja"].decode() == recipe.template(template)
    if repository.startswith("Qwen2-7B"):
        assert (proof.plan.heads["embed"].pool, proof.plan.heads["embed"].activation) == ("mean", "identity")

"""Models loaded from artifacts, compared with the libraries that publish them and held to
vLLM's offline behaviour."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import LLM, PoolingParams, load, machine
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import FILE, Manifest
from poolrt.runtime.artifact.records import from_plain
from poolrt.runtime.errors import DeadlineExceeded, EngineError, InputError, Overload, UnsupportedTask

FP32 = 1e-6  # unit vectors and probabilities; measured 2e-7 over all tiny checkpoints and MiniLM
LOGIT = 1e-5  # logits and MaxSim sums are of order 1 to 10
GROWTH_BYTES = 16 << 20  # 1800 shapes: measured 1 MB; one kept tensor per shape would be some 60 MB

TEXTS = [
    "a",
    "the cat sat on the mat",
    "A river runs between the old city and the new one, past mills and under bridges.",
    "search engines rank documents by how well each of them answers a query " * 3,
    "Zürich, naïve café — 東京",
    "!?",
]
QUERY = "which animal sat on the mat"


@pytest.fixture(scope="module")
def models(artifacts):
    """`models("minilm_like")`: that tiny model, opened once for this file."""
    opened = {}

    def find(name):
        if name not in opened:
            opened[name] = load(artifacts(name), threads=1)
        return opened[name]

    yield find
    for model in opened.values():
        model.close(10)


@pytest.fixture(scope="module")
def real(minilm):
    with load(minilm) as model:
        yield model


def changed(source: Path, target: Path, change) -> Path:
    """A copy of an artifact whose manifest says something else."""
    shutil.copytree(source, target)
    manifest = from_plain(Manifest, json.loads((target / FILE).read_bytes()))
    (target / FILE).write_bytes(reading.sealed(change(manifest)))
    return target


# Numbers


def sentence_vectors(checkpoint, texts):
    from sentence_transformers import SentenceTransformer

    return np.stack([SentenceTransformer(str(checkpoint), device="cpu").encode(text) for text in texts])


def test_minilm_equals_sentence_transformers(real, minilm_checkpoint):
    texts = [*TEXTS, "word " * 400]
    expected = sentence_vectors(minilm_checkpoint, texts)
    np.testing.assert_allclose(np.asarray(real.embed(texts, truncate_prompt_tokens=-1)), expected, atol=FP32)


def test_minilm_scores_are_cosines(real, minilm_checkpoint):
    vectors = sentence_vectors(minilm_checkpoint, [QUERY, *TEXTS])
    np.testing.assert_allclose(np.asarray(real.score(QUERY, TEXTS)), vectors[1:] @ vectors[0], atol=FP32)
    ranking = real.rerank(QUERY, TEXTS, top_n=2)
    assert [one.index for one in ranking] == np.argsort(-(vectors[1:] @ vectors[0]))[:2].tolist()
    assert ranking[0].document == TEXTS[1]


def test_a_tiny_embedder_equals_sentence_transformers(models, checkpoints):
    found = np.asarray(models("minilm_like").embed(TEXTS, truncate_prompt_tokens=-1))
    np.testing.assert_allclose(found, sentence_vectors(checkpoints("minilm_like"), TEXTS), atol=FP32)


@pytest.mark.parametrize("name", ["bert_cross_encoder", "xlmr_reranker"])
def test_a_cross_encoder_equals_sentence_transformers(models, checkpoints, name):
    from sentence_transformers import CrossEncoder

    expected = CrossEncoder(str(checkpoints(name)), device="cpu").predict([(QUERY, text) for text in TEXTS])
    model = models(name)
    made = model.score(QUERY, TEXTS, truncate_prompt_tokens=-1)
    np.testing.assert_allclose(np.asarray(made), expected, atol=LOGIT)
    ranking = model.rerank(QUERY, TEXTS, truncate_prompt_tokens=-1)
    assert [one.index for one in ranking] == np.argsort(-expected, kind="stable").tolist()
    assert [one.document for one in ranking] == [TEXTS[one.index] for one in ranking]


def logits(checkpoint, kind, text):
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = getattr(transformers, kind).from_pretrained(checkpoint).eval()
    with torch.no_grad():
        return model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=64)).logits[0]


def test_a_classifier_equals_transformers(models, checkpoints):
    model = models("bert_classifier")
    for made, text in zip(model.classify(TEXTS, truncate_prompt_tokens=64), TEXTS, strict=True):
        expected = (
            logits(checkpoints("bert_classifier"), "AutoModelForSequenceClassification", text)
            .softmax(-1)
            .numpy()
        )
        np.testing.assert_allclose(made.outputs.probs, expected, atol=FP32)
        assert made.outputs.label == model.manifest.heads["classify"].labels[expected.argmax()]
        assert made.outputs.num_classes == len(expected)


def test_a_token_classifier_equals_transformers(models, checkpoints):
    raw = PoolingParams(use_activation=False)
    for made, text in zip(
        models("bert_tokens").token_classify(TEXTS, pooling_params=raw, truncate_prompt_tokens=64),
        TEXTS,
        strict=True,
    ):
        expected = logits(checkpoints("bert_tokens"), "AutoModelForTokenClassification", text).numpy()
        np.testing.assert_allclose(made.outputs.data, expected, atol=LOGIT)


def test_bge_m3_drops_what_vllm_drops(models):
    model = models("bge_m3")
    ids = model.tokenize(TEXTS[1])
    assert np.asarray(model.embed(TEXTS[1])).shape[0] == 1
    assert len(model.token_embed(TEXTS[1])[0].outputs.data) == len(ids) - 1
    sparse = model.token_classify(TEXTS[1])[0].outputs.data
    assert sparse.shape == (len(ids) - 2,)
    assert (sparse >= 0).all()
    # Only where they are <s> and </s>: not of ids without them, nor of a text whose ends were cut away.
    words = ids[1:-1]
    for given, vectors, weights in (
        (words, 0, 0),
        (ids[:-1], 1, 1),
        (ids[1:], 0, 1),
        (words[:1], 0, 0),
        (ids[:1], 1, 1),
    ):
        assert len(model.token_embed(given)[0].outputs.data) == len(given) - vectors
        assert model.token_classify(given)[0].outputs.data.shape == (len(given) - weights,)
    left = model.token_classify(TEXTS[1], truncate_prompt_tokens=4, truncation_side="left")[0]
    assert left.outputs.data.shape == (len(left.prompt_token_ids) - 1,)


def colbert_vectors(checkpoint, ids, attention):
    """Straight from the weights, by transformers."""
    import torch
    import transformers
    from safetensors.torch import load_file

    weights = load_file(Path(checkpoint) / "model.safetensors")
    model = transformers.BertModel(
        transformers.BertConfig.from_pretrained(checkpoint), add_pooling_layer=False
    ).eval()
    model.load_state_dict(
        {name.removeprefix("bert."): value for name, value in weights.items() if name.startswith("bert.")},
        strict=False,
    )
    with torch.no_grad():
        hidden = model(
            input_ids=torch.tensor([ids]), attention_mask=torch.tensor([attention])
        ).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden @ weights["linear.weight"].T, dim=-1).numpy()


def test_colbert_scores_by_both_preparations(models, checkpoints):
    model, checkpoint = models("colbert"), checkpoints("colbert")
    query, document = model.manifest.text.roles["query"], model.manifest.text.roles["document"]
    asked, texts = "the mat", [TEXTS[1], "a cat, a mat!", "a"]
    plain = {text: model.tokenize(text) for text in (asked, *texts)}

    def prepared(text, role):
        ids = plain[text]
        ids = [ids[0], role.marker_id, *ids[1:]]
        attention = [1] * len(ids)
        if role.expand_id is not None:
            filler = role.max_tokens - len(ids)
            ids, attention = (
                ids + [role.expand_id] * filler,
                attention + [int(role.attend_expansion)] * filler,
            )
        vectors = colbert_vectors(checkpoint, ids, attention)
        return vectors[[number not in role.skip_ids for number in ids]]

    left = prepared(asked, query)
    assert len(left) == query.max_tokens
    expected = [(left @ prepared(text, document).T).max(axis=1).sum() for text in texts]
    np.testing.assert_allclose(np.asarray(model.score(asked, texts)), expected, atol=LOGIT)

    left = colbert_vectors(checkpoint, plain[asked], [1] * len(plain[asked]))
    as_vllm = [
        (left @ colbert_vectors(checkpoint, plain[text], [1] * len(plain[text])).T).max(axis=1).sum()
        for text in texts
    ]
    np.testing.assert_allclose(np.asarray(model.score(asked, texts, preparation="vllm")), as_vllm, atol=LOGIT)
    assert abs(as_vllm[0] - expected[0]) > 1


@pytest.mark.parametrize("name", ["minilm_like", "bge_m3"])
def test_together_is_each_alone(models, name):
    model = models(name)
    together = model.embed(TEXTS * 3, truncate_prompt_tokens=-1)
    for index, text in enumerate(TEXTS):
        alone = np.asarray(model.embed(text, truncate_prompt_tokens=-1))[0]
        for place in (index, index + len(TEXTS), index + 2 * len(TEXTS)):
            np.testing.assert_allclose(together[place].outputs.embedding, alone, atol=FP32)


def test_mixed_tasks_from_many_threads_stay_apart(models):
    model = models("bge_m3")
    expected = {
        task: model.encode(TEXTS, pooling_task=task, truncate_prompt_tokens=-1).arrays for task in model.tasks
    }

    def ask(number):
        if number % 7 == 0:
            with pytest.raises(InputError):
                model.encode([TEXTS[0], [10**6]], pooling_task="embed")
        task = model.tasks[number % len(model.tasks)]
        found = model.encode(TEXTS, pooling_task=task, truncate_prompt_tokens=-1).arrays
        for one, other in zip(found, expected[task], strict=True):
            np.testing.assert_allclose(one, other, atol=LOGIT)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(64)))


def test_memory_stays_flat_however_shapes_vary(models):
    model = models("minilm_like")
    generator = np.random.default_rng(0)

    def shapes(count):
        for _ in range(count):
            rows = int(generator.integers(1, 9))
            model.embed([generator.integers(5, 60, generator.integers(1, 65)).tolist() for _ in range(rows)])

    shapes(200)
    before = machine.rss_bytes()
    shapes(1800)
    assert machine.rss_bytes() - before < GROWTH_BYTES


# Forms and parameters


def test_prompts_may_be_written_in_every_form(models):
    model = models("minilm_like")
    ids = model.tokenize(TEXTS[1])
    forms = [TEXTS[1], ids, {"prompt": TEXTS[1]}, {"prompt_token_ids": ids}]
    mixed = model.embed(forms)
    for form, made in zip(forms, mixed, strict=True):
        assert list(made.prompt_token_ids) == ids
        np.testing.assert_allclose(model.embed(form)[0].outputs.embedding, made.outputs.embedding, atol=FP32)
    assert mixed.prompt_tokens == 4 * len(ids)
    assert model.detokenize(ids) == model.preparation.encoder.tokenizer.decode(ids, skip_special_tokens=False)


def test_activation_can_be_switched_off(models):
    model = models("minilm_like")
    raw = np.asarray(model.embed(TEXTS[1], pooling_params=PoolingParams(use_activation=False)))[0]
    assert abs(np.linalg.norm(raw) - 1) > 0.01
    np.testing.assert_allclose(np.asarray(model.embed(TEXTS[1]))[0], raw / np.linalg.norm(raw), atol=FP32)
    sigmoid = np.asarray(models("xlmr_reranker").score(QUERY, TEXTS[1]))[0]
    logit = np.asarray(
        models("xlmr_reranker").score(QUERY, TEXTS[1], pooling_params=PoolingParams(use_activation=False))
    )[0]
    assert sigmoid == pytest.approx(1 / (1 + np.exp(-logit)), abs=FP32)


def test_params_may_differ_per_prompt(models):
    made = models("minilm_like").embed(["a", "a"], pooling_params=[PoolingParams(use_activation=False), None])
    norms = np.linalg.norm(np.asarray(made), axis=1)
    assert abs(norms[0] - 1) > 0.01
    assert norms[1] == pytest.approx(1, abs=FP32)
    with pytest.raises(InputError, match=r"prompts \(2\) and pooling_params \(1\)"):
        models("minilm_like").embed(["a", "a"], pooling_params=[None])


def test_dimensions_follow_the_matryoshka_rules(artifacts, models, tmp_path):
    with pytest.raises(
        InputError,
        match=(
            "does not support matryoshka representation, changing output dimensions will lead to poor results"
        ),
    ) as error:
        models("minilm_like").embed("a", pooling_params=PoolingParams(dimensions=8))
    assert error.value.field == "dimensions"

    def listed(manifest):
        heads = {
            task: dataclasses.replace(head, matryoshka=(16, 32)) for task, head in manifest.heads.items()
        }
        return dataclasses.replace(manifest, heads=heads)

    full = np.asarray(
        models("minilm_like").embed(TEXTS[1], pooling_params=PoolingParams(use_activation=False))
    )[0]
    with load(changed(artifacts("minilm_like"), tmp_path / "listed", listed), threads=1) as model:
        cut = np.asarray(model.embed(TEXTS[1], pooling_params=PoolingParams(dimensions=16)))[0]
        np.testing.assert_allclose(cut, full[:16] / np.linalg.norm(full[:16]), atol=FP32)
        with pytest.raises(InputError, match=r"\[16, 32\]"):
            model.embed("a", pooling_params=PoolingParams(dimensions=8))
        for wrong in (0, -1, 10_000):
            with pytest.raises(InputError, match="dimensions must be from 1 to"):
                model.embed("a", pooling_params=PoolingParams(dimensions=wrong))


def test_long_texts_are_embedded_in_pieces_where_the_model_allows(artifacts, models, tmp_path):
    source = artifacts("minilm_like")
    limit = models("minilm_like").max_tokens
    ids = [5 + number % 50 for number in range(2 * limit + 7)]
    with load(
        changed(source, tmp_path / "chunked", lambda manifest: dataclasses.replace(manifest, chunked=True)),
        threads=1,
    ) as model:
        made = model.embed([ids, ids[:9]])
    pieces = np.asarray(models("minilm_like").embed([ids[:limit], ids[limit : 2 * limit], ids[2 * limit :]]))
    expected = (pieces * np.array([[limit], [limit], [7]])).sum(axis=0) / len(ids)
    np.testing.assert_allclose(made[0].outputs.embedding, expected, atol=FP32)
    assert made[0].prompt_tokens == len(ids)
    np.testing.assert_allclose(
        made[1].outputs.embedding, np.asarray(models("minilm_like").embed(ids[:9]))[0], atol=FP32
    )


def test_step_heads_answer_rows_at_their_tag(artifacts, tmp_path):
    def stepped(manifest):
        head = dataclasses.replace(manifest.heads["token_classify"], pool="step", step_tag_id=7)
        return dataclasses.replace(manifest, heads={**manifest.heads, "token_classify": head})

    with load(changed(artifacts("bert_tokens"), tmp_path / "stepped", stepped), threads=1) as model:
        raw = PoolingParams(use_activation=False)
        found = model.token_classify([[5, 7, 8, 7, 9]], pooling_params=raw)[0].outputs.data
        all_rows = load_rows(artifacts("bert_tokens"), [5, 7, 8, 7, 9])
        np.testing.assert_allclose(found, all_rows[[1, 3]], atol=LOGIT)
        columns = PoolingParams(use_activation=False, step_tag_id=8, returned_token_ids=[1])
        np.testing.assert_allclose(
            model.token_classify([[5, 7, 8, 7, 9]], pooling_params=columns)[0].outputs.data,
            all_rows[[2]][:, [1]],
            atol=LOGIT,
        )


def load_rows(path, ids):
    with load(path, threads=1) as model:
        with pytest.raises(InputError, match="only for models with STEP pooling"):
            model.token_classify([ids], pooling_params=PoolingParams(step_tag_id=1))
        return model.token_classify([ids], pooling_params=PoolingParams(use_activation=False))[0].outputs.data


# Pairs


def test_pairs_are_one_to_one_one_to_many_or_zipped(models):
    model = models("bert_cross_encoder")
    many = np.asarray(model.score(QUERY, TEXTS[:3]))
    np.testing.assert_allclose(np.asarray(model.score([QUERY], TEXTS[:3])), many, atol=LOGIT)
    np.testing.assert_allclose(np.asarray(model.score([QUERY] * 3, TEXTS[:3])), many, atol=LOGIT)
    assert np.asarray(model.score(QUERY, TEXTS[0])) == pytest.approx(many[:1], abs=LOGIT)


@pytest.mark.parametrize("name", ["minilm_like", "bert_cross_encoder", "colbert"])
@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (["a", "b"], ["c"], "Input lengths must be either 1:1, 1:N or N:N"),
        ([], [], "At least one text element"),
        ("a", [], "At least one text_pair element"),
        ({"content": []}, ["c", "d"], "MultiModalParam is not supported for"),
        (["a", "b"], [{"content": []}], "MultiModalParam is not supported for"),
        ("a", [3], "expected text, found int"),
    ],
)
def test_pairs_that_do_not_fit_are_told_in_vllms_words(models, name, first, second, told):
    with pytest.raises(InputError, match=told):
        models(name).score(first, second)


def test_what_a_score_counts_as_tokens(models):
    model = models("minilm_like")
    query, documents = len(model.tokenize(QUERY)), [len(model.tokenize(text)) for text in TEXTS[:2]]
    made = model.score(QUERY, TEXTS[:2])
    assert [one.prompt_tokens for one in made] == [query + 1 + count for count in documents]
    assert [len(one.prompt_token_ids) for one in made] == [query + 1 + count for count in documents]
    joint = models("bert_cross_encoder").score(QUERY, TEXTS[:2])
    assert [one.prompt_tokens for one in joint] == [query + count - 1 for count in documents]


def test_models_that_score_nothing_say_so(models):
    with pytest.raises(UnsupportedTask, match="Scoring API is only enabled for num_labels == 1"):
        models("bert_classifier").score("a", "b")
    with pytest.raises(UnsupportedTask, match="This model does not support the Scoring API"):
        models("bert_tokens").score("a", "b")


def test_documents_can_be_shortened(models):
    model = models("bert_cross_encoder")
    whole, short = model.score(QUERY, TEXTS[2]), model.score(QUERY, TEXTS[2], max_tokens_per_doc=3)
    assert short.prompt_tokens < whole.prompt_tokens
    assert (whole[0].truncated, short[0].truncated) == (False, True)
    extra = PoolingParams(extra_kwargs={"max_tokens_per_doc": 3})
    assert model.score(QUERY, TEXTS[2], pooling_params=extra).prompt_tokens == short.prompt_tokens
    with pytest.raises(InputError, match="must be a non-negative integer"):
        model.score(QUERY, TEXTS[2], max_tokens_per_doc=-5)


def test_equal_scores_keep_the_callers_order(models):
    ranking = models("minilm_like").rerank(QUERY, ["same", "same", TEXTS[1], "same"])
    assert [one.index for one in ranking if one.document == "same"] == [0, 1, 3]
    with pytest.raises(InputError, match="top_n"):
        models("minilm_like").rerank(QUERY, ["a"], top_n=-1)
    with pytest.raises(InputError, match="expected one text"):
        models("minilm_like").rerank([QUERY], ["a"])


# Refusals


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda model: model.classify("a"), "Classification API is not supported by this model"),
        (lambda model: model.encode("a"), "pooling_task required"),
        (lambda model: model.encode("a", pooling_task="classify"), "Unsupported task: 'classify'"),
        (lambda model: model.encode("a", pooling_task="plugin"), "No IOProcessor plugin installed."),
        (lambda model: model.embed("a", priority="high"), "priority: expected a whole number, found str"),
        (lambda model: model.embed([]), "You must pass at least one prompt"),
        (lambda model: model.embed([[]]), "cannot be empty"),
        (lambda model: model.embed([-1]), "out of vocabulary"),
        (lambda model: model.embed([10**6]), "out of vocabulary"),
        (lambda model: model.embed("word " * 500), "Please reduce the length of the input prompt"),
        (
            lambda model: model.embed("a", truncate_prompt_tokens=10**6),
            "Please request a smaller truncation size",
        ),
        (lambda model: model.embed("a", pooling_params=PoolingParams(task="classify")), "cannot overwrite"),
        (lambda model: model.embed({"prompt": "a", "multi_modal_data": {"image": 1}}), "reads text only"),
        (lambda model: model.embed("a", lora_request=object()), "poolrt export CHECKPOINT --lora ADAPTER"),
        (lambda model: model.embed("\ud800"), "lone surrogate"),
        (lambda model: model.embed("a", prompt_name="nowhere"), "no prompt is named"),
        (lambda model: model.embed(3), "expected text"),
        (lambda model: model.embed(b"words"), "found bytes"),
        (lambda model: model.embed([b"words"]), "found bytes"),
        (lambda model: model.embed([True]), "whole numbers"),
        (lambda model: model.embed({"prompt_token_ids": "a"}), "text goes under 'prompt'"),
        (lambda model: model.embed("a", role="title"), "role 'title' is not 'query' or 'document'"),
        (lambda model: model.embed("a", deadline_s="1"), "deadline_s: expected seconds"),
        (lambda model: model.embed("a", tokenization_kwargs=5), "tokenization_kwargs: expected an object"),
        (
            lambda model: model.embed("a", truncate_prompt_tokens="5"),
            "truncate_prompt_tokens: expected a whole number",
        ),
        (
            lambda model: model.rerank("a", None),
            "documents: expected text or a list of texts, found NoneType",
        ),
        (lambda model: model.rerank("a", b"words"), "found bytes"),
    ],
)
def test_wrong_input_is_refused_with_what_to_do(models, call, told):
    with pytest.raises(InputError, match=told):
        call(models("minilm_like"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"path": None}, "path: expected an artifact folder"),
        ({"engine": 5}, "engine: expected a name"),
        ({"preparation": "own"}, "preparation 'own' is not"),
        ({"check": "none"}, "check 'none' is not"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy 'lifo' is not 'fcfs' or 'priority'"),
        ({"threads": 0}, "threads is 0"),
        ({"threads": "two"}, "threads is 'two'"),
        ({"max_batch_tokens": 0}, "max_batch_tokens is 0"),
        ({"max_queued_tokens": -1}, "max_queued_tokens is -1"),
        ({"max_tokens": "8"}, "max_tokens is '8'"),
    ],
)
def test_load_refuses_arguments_that_cannot_be(artifacts, arguments, told):
    with pytest.raises(InputError, match=told):
        load(**{"path": artifacts("minilm_like"), **arguments})


def test_a_classifier_embeds_nothing(models):
    with pytest.raises(UnsupportedTask, match="Embedding API is not supported by this model"):
        models("bert_classifier").embed("a")


def distinct(count: int) -> list[list[int]]:
    """Texts of 60 tokens, no two alike."""
    return [[5 + number % 90, 5 + number // 90, *[5] * 58] for number in range(count)]


def test_overload_deadline_and_close_reach_the_caller(artifacts):
    path = artifacts("minilm_like")
    with load(path, threads=1, max_queued_tokens=1) as model:
        pending = [model.start(distinct(200), pooling_task="embed")]
        # The first call may be in the engine wholly by now; the second then waits, and the
        # third is one too many.
        with pytest.raises(Overload):  # noqa: PT012
            for _ in range(100):
                pending.append(model.start(distinct(200), pooling_task="embed"))
        assert all(len(one.result()) == 200 for one in pending)
        with pytest.raises(DeadlineExceeded):
            model.embed(distinct(2000), deadline_s=0.0)
        assert len(model.embed("a", deadline_s=60)) == 1
    with pytest.raises(EngineError, match="closed"):
        model.embed("a")


def test_a_started_call_can_be_cancelled(models):
    model = models("minilm_like")
    waiting = model.start(distinct(3000), pooling_task="embed")
    last = model.start(["a"], pooling_task="embed")
    assert waiting.cancel()
    assert len(last.result()) == 1
    assert model.statistics().queued_items == 0


def test_statistics_add_up(artifacts):
    with load(artifacts("minilm_like"), threads=1) as model:
        made = model.embed(TEXTS, truncate_prompt_tokens=-1)
        found = model.statistics()
    assert (found.requests, found.items, found.tokens) == (1, len(TEXTS), made.prompt_tokens)
    assert found.slots >= found.tokens
    assert found.padding == pytest.approx(made.padding)
    assert min(found.engine_s, found.tokenize_s, found.queue_s, found.batches) > 0
    assert found.tokenize_s < 600
    assert (found.queued_tokens, found.running_items, found.stalled_s) == (0, 0, 0)


def test_progress_is_told_to_who_asks(models):
    told = []

    class Bar:
        def __init__(self, *, total, desc):
            told.append(total)

        def update(self, count):
            told.append(count)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    models("minilm_like").embed(TEXTS, truncate_prompt_tokens=-1, use_tqdm=Bar)
    assert told[0] == len(TEXTS) == sum(told[1:])


# Engines and vLLM's constructor


def test_an_engine_that_is_not_there_names_those_that_are(artifacts):
    with pytest.raises(EngineError, match="it has onnxruntime:"):
        load(artifacts("minilm_like"), engine="tensorrt")
    with pytest.raises(EngineError, match="has no graph 'int8'"):
        load(artifacts("minilm_like"), engine="onnxruntime:int8")
    with load(artifacts("minilm_like"), engine="onnxruntime:fp32") as model:
        assert model.engine.name.startswith("onnxruntime:")


def test_an_offline_script_ports_by_its_constructor(artifacts):
    llm = LLM(
        model=str(artifacts("minilm_like")),
        runner="pooling",
        enforce_eager=True,
        max_model_len=32,
        tensor_parallel_size=1,
    )
    (made,) = llm.embed("a cat", use_tqdm=False)
    assert len(made.outputs.embedding) == made.outputs.hidden_size
    assert llm.get_tokenizer().encode("a cat") == list(made.prompt_token_ids)
    (scored,) = llm.score("a cat", "a kitten", use_tqdm=False)
    assert isinstance(scored.outputs.score, float)
    with pytest.raises(InputError, match="32"):
        llm.embed([5] * 33, use_tqdm=False)
    assert (llm.model_config.max_model_len, llm.model_config.is_matryoshka) == (32, False)


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        (
            {"hf_overrides": {"is_matryoshka": True, "num_labels": 2}},
            """--hf-overrides '{"num_labels": 2}'""",
        ),
        ({"pooler_config": {"pooling_type": "CLS"}}, """--pooler-config '{"pooling_type": "CLS"}'"""),
        ({"override_pooler_config": {"pooling_type": "CLS"}}, "--pooler-config '{"),
        ({"convert": "classify"}, "--convert classify"),
        ({"dtype": "half"}, "--precision fp16"),
        ({"quantization": "fp8"}, "give precision='int8'"),
        ({"tokenizer": "other"}, "export a checkpoint that has this tokenizer"),
        ({"task": "classify"}, "this artifact has embed, token_embed"),
        ({"runner": "generate"}, "pooling tasks only"),
        ({"surprise": 1}, "surprise: not a keyword"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_constructor_keyword_that_an_export_decided_is_refused_with_the_option(artifacts, keywords, told):
    with pytest.raises(InputError, match=re.escape(told)):
        LLM(model=str(artifacts("minilm_like")), **keywords)


def test_a_constructor_takes_what_the_artifact_was_exported_with(checkpoints, tmp_path):
    from poolrt.exporter import pipeline

    asked: dict[str, Any] = {
        "hf_overrides": {"matryoshka_dimensions": [8]},
        "pooler_config": {"pooling_type": "CLS"},
        "convert": "embed",
    }
    pipeline.export(checkpoints("minilm_like"), name="eight", out=tmp_path, **asked)
    llm = LLM(model=str(tmp_path / "eight"), dtype="float32", task="embed", **asked)
    assert (
        llm.embed("a cat", use_tqdm=False, pooling_params=PoolingParams(dimensions=8))[0].outputs.hidden_size
        == 8
    )
    assert llm.model_config.matryoshka_dimensions == [8]
    LLM(model=str(tmp_path / "eight"), task="score")


def test_tokenization_kwargs_are_understood(models):
    model = models("minilm_like")
    assert (
        len(model.embed("word " * 50, tokenization_kwargs={"truncate_prompt_tokens": 9})[0].prompt_token_ids)
        == 9
    )
    assert (
        len(
            model.embed("word " * 50, tokenization_kwargs={"truncation": True, "max_length": 9})[
                0
            ].prompt_token_ids
        )
        == 9
    )
    bare = model.embed("a cat", tokenization_kwargs={"add_special_tokens": False, "padding": True})
    assert len(bare[0].prompt_token_ids) == len(model.tokenize("a cat")) - 2
    with pytest.warns(UserWarning, match="'unheard_of' ignored"):
        model.embed("a cat", tokenization_kwargs={"unheard_of": 1})

"""Texts behind a prefix have the scores of whole texts. tests/exporter/test_decoder_rerankers.py compares the
same artifact with transformers' own class, on whole texts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from poolrt.runtime import Model, load
from poolrt.runtime.answers.scoring import activate
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import PRESENT, Precision
from poolrt.runtime.engines import openvino, ort
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.errors import DeadlineExceeded, EngineError
from poolrt.runtime.inputs.items import Item, Prefix

from tests.conftest import prefixed_reranker

EXACT = 1e-6
"""Of a score. Nearly all are equal to the last bit; a batch of one token takes another kernel (1.6e-7)."""
LOGIT = 5e-6
"""Of a logit by OpenVINO in float32, whose kernels sum in another order for each shape (2.1e-6 of 600)."""
BF16 = 0.02
"""Of a logit in bf16: sums that differ are rounded to 8 bits (0.0065 of 600)."""
QUERY = "what is mars"
DOCUMENTS = ("a red planet", "the capital of france is paris", "", "planets go around a star", "a red apple")


@pytest.fixture(scope="module")
def artifact() -> Path:
    return prefixed_reranker()


@pytest.fixture
def model(artifact: Path) -> Iterator[Model]:
    with load(artifact, engine="onnxruntime") as opened:
        yield opened


@pytest.fixture(scope="module")
def whole(artifact: Path) -> Iterator[Model]:
    with load(artifact, engine="onnxruntime", enable_prefix_caching=False) as opened:
        yield opened


def scores(model: Model, *, query: str = QUERY, documents: Any = DOCUMENTS, **options: Any) -> list[float]:
    outputs = model.score(query, list(documents), **options)
    return [output.outputs.score for output in outputs]


# --- the graph


class Graph:
    """The artifact's graph on token ids, by its own feed."""

    def __init__(self, artifact: Path, precision: Precision | None = None) -> None:
        manifest = reading.read(artifact).manifest
        graph = manifest.graph("text")
        self.session = (
            ort.open(artifact, manifest, graph, threads=1, lanes=1)
            if precision is None
            else openvino.open(artifact, manifest, graph, precision=precision, threads=1)
        )
        self.feed = Feed(graph.inputs)
        self.output = manifest.heads["classify"].output
        self.vocabulary = manifest.text.vocab_size

    def run(self, items: list[Item], output: str) -> NDArray[np.float32]:
        return self.session.run(self.feed.arrays(items), [output])[0]

    def prefix(self, ids: list[int], before: Prefix | None = None) -> Prefix:
        start = 0 if before is None else before.tokens
        present = self.run([Item(ids, prefix=before, returns_past=True)], PRESENT)[0]
        assert present.shape[2] == len(ids) - start
        known = [] if before is None or before.past is None else [before.past]
        return Prefix(len(ids), np.concatenate([*known, present], axis=2))


@pytest.fixture(scope="module")
def graph(artifact: Path) -> Graph:
    return Graph(artifact)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1 << 30), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4), data=st.data()
)
def test_any_split_has_the_scores_of_whole_texts(
    graph: Graph, seed: int, lengths: list[int], data: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    count = data.draw(st.integers(1, 60), label="tokens of the prefix")
    shared = random.integers(0, graph.vocabulary, count).tolist()
    rows = [shared + random.integers(0, graph.vocabulary, length).tolist() for length in lengths]
    cut = data.draw(st.integers(0, count), label="tokens that were computed before")
    prefix = graph.prefix(shared, graph.prefix(shared[:cut]) if cut and cut < count else None)
    behind, expected = (
        activate("sigmoid", graph.run([Item(row, prefix=first) for row in rows], graph.output))
        for first in (prefix, None)
    )
    np.testing.assert_allclose(behind, expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize(("precision", "close"), [("fp32", LOGIT), ("bf16", BF16)], ids=["fp32", "bf16"])
def test_openvino_computes_any_split_as_whole_texts(
    artifact: Path, precision: Precision, close: float
) -> None:
    """Of lengths that are padded to its steps, and of those that are not."""
    if not openvino.able(precision):
        pytest.skip(f"this processor has no {precision} products")
    graph, random = Graph(artifact, precision), np.random.default_rng(5)
    for count in (1, 8, 16, 37, 61):
        shared = random.integers(0, graph.vocabulary, count).tolist()
        rows = [shared + random.integers(0, graph.vocabulary, length).tolist() for length in (1, 7, 24)]
        prefix = graph.prefix(shared, graph.prefix(shared[: count // 2]) if count > 1 else None)
        behind, expected = (
            graph.run([Item(row, prefix=first) for row in rows], graph.output) for first in (prefix, None)
        )
        np.testing.assert_allclose(behind, expected, rtol=close, atol=close)
    graph.session.close()


# --- models


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_serves_prefixes(artifact: Path, whole: Model, precision: Precision) -> None:
    if not openvino.able(precision):
        pytest.skip(f"this processor has no {precision} products")
    close = EXACT if precision == "fp32" else BF16
    with load(artifact, engine=f"openvino:{precision}", threads=1) as model:
        for _ in range(2):
            np.testing.assert_allclose(scores(model), scores(whole), rtol=close, atol=close)
        assert model.score(QUERY, list(DOCUMENTS))[0].num_cached_tokens > 0


def test_scores_are_those_of_whole_texts_first_and_again(model: Model, whole: Model) -> None:
    expected = scores(whole)
    for _ in range(2):
        np.testing.assert_allclose(scores(model), expected, rtol=EXACT, atol=EXACT)
    assert len(set(expected)) == len(expected), "scores differ, so that order and content are compared"


def test_what_is_shared_is_computed_once_and_counted(model: Model, whole: Model) -> None:
    first = model.score(QUERY, list(DOCUMENTS))
    counts = [len(output.prompt_token_ids) for output in first]
    shared = first[1].num_cached_tokens
    assert [output.num_cached_tokens for output in first] == [0] + [shared] * 4
    statistics = model.statistics()
    assert statistics.tokens == sum(counts) - 4 * shared
    assert (statistics.prefix_queries, statistics.prefix_hits) == (sum(counts), 4 * shared)
    assert statistics.items == len(DOCUMENTS)
    again = model.score(QUERY, list(DOCUMENTS))
    assert [output.num_cached_tokens for output in again] == [shared] * 5
    assert model.statistics().tokens == statistics.tokens + sum(counts) - 5 * shared
    assert 0 < model.statistics().prefix_bytes < 1 << 20
    scores(whole)
    assert (whole.statistics().prefix_queries, whole.statistics().prefix_caching) == (0, False)


def test_another_query_has_the_prompt_in_front_of_it(model: Model, whole: Model) -> None:
    scores(model)
    before = model.statistics().tokens
    other = model.score("who wrote it", list(DOCUMENTS))
    assert other[0].num_cached_tokens >= 32, "the system prompt and the instruction"
    assert model.statistics().tokens - before < sum(len(output.prompt_token_ids) for output in other) / 2
    found = [output.outputs.score for output in other]
    np.testing.assert_allclose(found, scores(whole, query="who wrote it"), rtol=EXACT, atol=EXACT)


def test_one_document_is_computed_behind_what_is_kept(model: Model, whole: Model) -> None:
    scores(model)
    (output,) = model.score(QUERY, "a small moon")
    assert output.num_cached_tokens >= 48
    expected = scores(whole, documents=["a small moon"])
    np.testing.assert_allclose([output.outputs.score], expected, rtol=EXACT, atol=EXACT)


def test_a_salt_hides_what_was_computed(model: Model) -> None:
    scores(model)
    for expected in (0, 16):
        output = model.score(QUERY, list(DOCUMENTS), cache_salt="mine")[0]
        assert output.num_cached_tokens >= expected
        assert bool(output.num_cached_tokens) == bool(expected)


def test_labels_of_tokens_are_computed_whole(model: Model, whole: Model) -> None:
    texts = ["what is mars and what is a planet that is red " * 2 + end for end in ("a", "b", "c", "d", "e")]
    rows, expected = (opened.token_classify(texts).arrays for opened in (model, whole))
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row, other)
    assert model.statistics().prefix_hits == 0


def test_many_callers_at_once_get_their_own_scores(model: Model, whole: Model) -> None:
    queries = ["what is mars", "who wrote it", "what is mars", "where is paris"] * 3
    expected = {query: scores(whole, query=query) for query in set(queries)}
    results: list[list[float]] = [[] for _ in queries]

    def call(place: int) -> None:
        results[place] = scores(model, query=queries[place])

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(queries))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for query, result in zip(queries, results, strict=True):
        np.testing.assert_allclose(result, expected[query], rtol=EXACT, atol=EXACT)
    statistics = model.statistics()
    assert statistics.queued_items == statistics.running_items == statistics.queued_tokens == 0


def test_a_prefix_that_fails_costs_nothing_but_its_time(
    model: Model, whole: Model, patched: Callable
) -> None:
    patched(model, lambda: EngineError("no memory for keys and values"))
    np.testing.assert_allclose(scores(model), scores(whole), rtol=EXACT, atol=EXACT)
    assert model.score(QUERY, list(DOCUMENTS))[1].num_cached_tokens == 0
    assert model.statistics().queued_tokens == 0


@pytest.fixture
def patched(monkeypatch: pytest.MonkeyPatch) -> Callable[..., threading.Event]:
    """(model, error) -> an event that prefixes wait for before they fail; None: before they are computed."""

    def patch(
        model: Model, error: Callable[[], Exception] | None, *, open_gate: bool = True
    ) -> threading.Event:
        gate, run = threading.Event(), model.worker.session.run

        def stopped(inputs: Any, outputs: Any, **options: Any) -> Any:
            if PRESENT in outputs:
                gate.wait(10)
                if error is not None:
                    raise error()
            return run(inputs, outputs, **options)

        monkeypatch.setattr(model.worker.session, "run", stopped)
        if open_gate:
            gate.set()
        return gate

    return patch


def test_a_call_that_waits_for_its_prefix_can_be_cancelled_and_others_go_on(
    model: Model, whole: Model, patched: Callable
) -> None:
    gate = patched(model, None, open_gate=False)
    first, second = (model.start_score(QUERY, list(DOCUMENTS)) for _ in range(2))
    assert model.statistics().queued_items >= 2 * len(DOCUMENTS)
    assert first.cancel()
    gate.set()
    found = [output.outputs.score for output in second.result()]
    np.testing.assert_allclose(found, scores(whole), rtol=EXACT, atol=EXACT)
    assert model.statistics().queued_tokens == 0


def test_a_deadline_counts_while_the_prefix_is_computed(model: Model, patched: Callable) -> None:
    gate = patched(model, None, open_gate=False)
    pending = model.start_score(QUERY, list(DOCUMENTS), deadline_s=0.01)
    with pytest.raises(DeadlineExceeded):
        pending.result()
    gate.set()


def test_a_model_that_closes_finishes_what_waits_for_its_prefix(artifact: Path, whole: Model) -> None:
    model = load(artifact, engine="onnxruntime")
    pending = model.start_score(QUERY, list(DOCUMENTS))
    model.close()
    found = [output.outputs.score for output in pending.result()]
    np.testing.assert_allclose(found, scores(whole), rtol=EXACT, atol=EXACT)


# --- who has none


def test_a_model_that_attends_both_ways_has_no_prefixes(
    minilm: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with load(minilm, engine="onnxruntime", enable_prefix_caching=True) as model:
        model.embed(
            ["a text that is long enough to be worth a prefix of its own " * 2 + end for end in "abcdef"]
        )
        assert (model.statistics().prefix_caching, model.statistics().prefix_queries) == (False, 0)
    assert "no prefix is cached: its graph takes none" in caplog.text


def test_the_queue_admits_a_call_and_its_prefix_as_a_whole(artifact: Path, whole: Model) -> None:
    with load(artifact, engine="onnxruntime", max_queued_tokens=1) as model:
        np.testing.assert_allclose(scores(model), scores(whole), rtol=EXACT, atol=EXACT)
        assert model.statistics().prefix_hits > 0, "an empty queue admits any call, and its prefix"
        assert model.statistics().refused == 0

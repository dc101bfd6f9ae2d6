"""Every kind of model the whole way: `poolrt export`, `poolrt inspect`, `poolrt serve`, an HTTP request, and
the numbers of the library that the checkpoint was published for. Weights are random and scaled up, so a
missed detail anywhere on the way changes the answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.commands import ROOT, answer, environment, post, served

DIFFERENCE = 1e-5
"""Of scores and vector components. Measured 1e-6 at most: float32 sums in another order, on weights
several times a real model's."""

TEXTS = [
    "Mars is known as the red planet.",
    "",
    "Paris?",
    "the capital of France is what I learned " * 9,
    "Brazil, a country in South America",
]
DOCUMENTS = [text for text in TEXTS if text]
"""Without the empty one: alone, transformers' tokenizer takes it for no document at all, in a batch
(sentence-transformers) it does not."""
QUERY = "Which planet is known as the red planet?"


class Line:
    """A checkpoint, what `poolrt export` made of it, and how it is asked."""

    def __init__(self, kind: str, checkpoint: Path, out: Path) -> None:
        self.checkpoint = checkpoint
        self.report = answer("export", checkpoint, "--name", kind, "--out", out)
        self.artifact = out / kind
        self.facts = answer("inspect", self.artifact)

    def ask(self, url: str, flags: Sequence[str] = (), **body: object) -> Any:
        with served(self.artifact, flags=flags) as server:
            return post(server + url, {"model": self.artifact.name, **body})


@pytest.fixture
def line(request: pytest.FixtureRequest, checkpoints: Callable[[str], Path], tmp_path: Path) -> Line:
    return Line(request.param, checkpoints(request.param), tmp_path)


@pytest.mark.parametrize("line", ["minilm_like"], indirect=True)
def test_bi_encoder_answers_the_vectors_of_sentence_transformers(line: Line):
    import sentence_transformers

    expected = sentence_transformers.SentenceTransformer(str(line.checkpoint), device="cpu").encode(TEXTS)
    found = line.ask("/v1/embeddings", input=TEXTS, truncate_prompt_tokens=-1)
    vectors = np.array([row["embedding"] for row in found["data"]])
    np.testing.assert_allclose(vectors, expected, atol=DIFFERENCE)
    assert line.facts["tasks"] == ["embed", "token_embed"]


@pytest.mark.parametrize("line", ["bert_cross_encoder"], indirect=True)
def test_cross_encoder_ranks_as_sentence_transformers(line: Line):
    import sentence_transformers

    expected = sentence_transformers.CrossEncoder(str(line.checkpoint), device="cpu").predict(
        [(QUERY, text) for text in DOCUMENTS]
    )
    found = line.ask("/rerank", query=QUERY, documents=DOCUMENTS)["results"]
    assert [row["index"] for row in found] == list(np.argsort(-expected, kind="stable"))
    np.testing.assert_allclose(
        [row["relevance_score"] for row in found], np.sort(expected)[::-1], atol=DIFFERENCE
    )


@pytest.mark.parametrize("line", ["colbert"], indirect=True)
def test_late_interaction_scores_as_sentence_transformers(line: Line):
    import sentence_transformers

    model = sentence_transformers.MultiVectorEncoder(str(line.checkpoint), device="cpu")
    query = np.asarray(model.encode_query([QUERY])[0])
    documents = [np.asarray(document) for document in model.encode_document(TEXTS)]
    expected = [float((query @ document.T).max(axis=1).sum()) for document in documents]
    found = line.ask("/score", ["--preparation", "model"], queries=QUERY, documents=TEXTS)
    np.testing.assert_allclose(
        [row["score"] for row in found["data"]], expected, atol=DIFFERENCE * len(query)
    )


@pytest.mark.parametrize("line", ["bert_classifier"], indirect=True)
def test_classifier_answers_the_probabilities_of_transformers(line: Line):
    logits, labels = _transformers("AutoModelForSequenceClassification", line.checkpoint, TEXTS)
    expected = [_softmax(row[0]) for row in logits]
    found = line.ask("/classify", input=TEXTS)["data"]
    np.testing.assert_allclose([row["probs"] for row in found], expected, atol=DIFFERENCE)
    assert [row["label"] for row in found] == [labels[int(row.argmax())] for row in expected]


@pytest.mark.parametrize("line", ["bert_tokens"], indirect=True)
def test_token_classifier_answers_every_token_as_transformers(line: Line):
    logits, _ = _transformers("AutoModelForTokenClassification", line.checkpoint, TEXTS)
    found = line.ask("/pooling", input=TEXTS, task="token_classify")["data"]
    for row, expected in zip(found, logits, strict=True):
        np.testing.assert_allclose(row["data"], _softmax(expected[0]), atol=DIFFERENCE)


@pytest.mark.parametrize("line", ["minilm_like"], indirect=True)
def test_a_fresh_process_answers_without_torch(line: Line):
    """Cold start: import, load, first vector. The bound is loose; what is slow by design (torch)
    takes several seconds alone."""
    code = """
import sys, time
started = time.perf_counter()
sys.path.insert(0, sys.argv[2]); import conftest
from poolrt.runtime import load
with load(sys.argv[1]) as model:
    vector = model.embed("a cold start")[0].outputs.embedding
assert abs(float(vector @ vector) - 1) < 1e-5
heavy = {"torch", "transformers", "onnx", "starlette"} & set(sys.modules)
assert not heavy, heavy
print(time.perf_counter() - started)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(line.artifact), str(ROOT)],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 5


def _transformers(
    auto: str, checkpoint: Path, texts: Sequence[str]
) -> tuple[list[np.ndarray], dict[int, str]]:
    """Logits [1, ...] of each text alone, and id2label."""
    import torch
    import transformers

    model = getattr(transformers, auto).from_pretrained(checkpoint).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = [model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts]
    return logits, model.config.id2label


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)

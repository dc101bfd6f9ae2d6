"""A score of late interaction, token by token, is what its vectors say, and adds up to the score."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.errors import InputError, UnsupportedTask
from poolrt.runtime.model import Model

from . import picture_models as tiny

SAME = 1e-5  # unit vectors in float32; measured 2e-7
PAGE = np.random.default_rng(3).integers(0, 256, (48, 70, 3), dtype=np.uint8)
QUERY = "what is the red page"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tiny.write(tmp_path_factory.mktemp("pages"), scoring="late-interaction")
    with load(folder, threads=1) as opened:
        yield opened


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("document", [{"image": PAGE, "text": "a page of text"}, {"image": PAGE}, "a page"])
def test_similarities_are_those_of_the_tokens_vectors(model: Model, document: Any) -> None:
    match = model.start_match(QUERY, document).result()
    sides = [
        model.preparation.singles([QUERY], role="query")[0],
        model.preparation.singles([document], role="document")[0],
    ]
    query, page = (unit(tiny.read(item)) for item in sides)
    np.testing.assert_allclose(match.similarities, query @ page.T, atol=SAME)
    assert (match.query_ids, match.document_ids) == (sides[0].ids, sides[1].ids)
    score = model.score(QUERY, document)[0].outputs.score
    assert match.similarities.max(axis=1).sum() == pytest.approx(score, abs=SAME)


def test_features_are_found_among_the_documents_tokens(model: Model) -> None:
    match = model.start_match(QUERY, {"image": PAGE, "text": "a page of text"}).result()
    pad = model.preparation.encoder.tokenizer.token_to_id(tiny.IMAGE)
    assert match.feature_places.tolist() == [
        at for at, token in enumerate(match.document_ids) if token == pad
    ]
    assert not len(model.start_match(QUERY, "a page").result().feature_places)


def test_a_token_without_a_vector_is_no_place(artifacts, tmp_path: Path) -> None:  # ColBERT's skip list
    with load(artifacts("colbert"), threads=1, check="quick") as colbert:
        match = colbert.start_match("why?", "paris, the red planet", preparation="model").result()
        assert match.similarities.shape == (len(match.query_ids), len(match.document_ids))
        skipped = colbert.manifest.text.roles["document"].skip_ids
        assert not set(match.document_ids) & set(skipped)
        score = colbert.score("why?", "paris, the red planet", preparation="model")[0].outputs.score
        assert match.similarities.max(axis=1).sum() == pytest.approx(score, abs=SAME)


def test_only_late_interaction_compares_tokens(tmp_path: Path) -> None:
    with (
        load(tiny.write(tmp_path), threads=1) as embedder,
        pytest.raises(UnsupportedTask, match="late interaction"),
    ):
        embedder.start_match("a", "b")


def test_what_a_score_refuses_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="chat_template"):
        model.start_match("a", "b", chat_template="{{ messages }}")

"""ColBERT checkpoints of PyLate and of Sentence Transformers 6, prepared and encoded as the library does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import scoring

from tests.families import TEXTS, find
from tests.families.proof import COSINE, cosines, prove

DOCUMENTS = ("mars, the red planet!", "a", "venus is known as a planet. " * 9)
SCORE = 1e-4  # a sum of up to 16 cosines, each to 1e-6


@pytest.mark.parametrize(
    "name",
    [
        "colbert_modernbert", "colbert_expanded", "colbert_pylate_bert",
        "colbert_modernbert_resaved", "colbert_expanded_resaved",
    ],
)  # fmt: skip
def test_vectors_and_scores_equal_the_library(name: str, tmp_path: Path):
    from sentence_transformers import MultiVectorEncoder

    folder = find(name)(tmp_path / "checkpoint")
    proved, library = prove(folder), MultiVectorEncoder(str(folder), device="cpu")
    assert (proved.plan.tasks, proved.plan.scoring) == (("token_embed",), "late-interaction")
    found = {}
    for role, texts, encode in (("query", TEXTS, library.encode_query), ("document", DOCUMENTS, library.encode_document)):
        ours = proved.answers("token_embed", texts, role=role)
        theirs = [np.asarray(encode([text], convert_to_numpy=True, show_progress_bar=False)[0]) for text in texts]
        assert cosines(ours, theirs).min() > COSINE
        found[role] = ours, theirs
    for ours, theirs in zip(*found["query"], strict=True):
        expected = [float((theirs @ document.T).max(1).sum()) for document in found["document"][1]]
        np.testing.assert_allclose(scoring.maxsim(ours, found["document"][0]), expected, atol=SCORE)


def test_expansion_fills_queries_only(tmp_path: Path):
    proved = prove(find("colbert_expanded")(tmp_path / "checkpoint"))
    query, document = proved.plan.text.roles["query"], proved.plan.text.roles["document"]
    assert (query.max_tokens, query.attend_expansion, document.expand_id) == (16, True, None)
    assert [len(vectors) for vectors in proved.answers("token_embed", TEXTS, role="query")] == [16] * len(TEXTS)
    assert len(proved.answers("token_embed", ["a"], role="document")[0]) == 4


def test_attending_to_the_expansion_changes_the_vectors(tmp_path: Path):
    import json

    folder = find("colbert_expanded")(tmp_path / "checkpoint")
    attending = prove(folder).answers("token_embed", ["a planet"], role="query")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attend_to_expansion_tokens": False}))
    assert cosines(prove(folder).answers("token_embed", ["a planet"], role="query"), attending, of="").min() < 0.99


def test_the_limit_of_the_side_encoded_last_does_not_cut_the_other(tmp_path: Path):
    """PyLate saves max_seq_length 47 = 48 - 1 here; were it 15, documents would lose two thirds of their text."""
    proved = prove(find("colbert_modernbert")(tmp_path / "checkpoint"))
    assert proved.plan.text.max_tokens == 128
    assert len(proved.item(DOCUMENTS[2], "document").ids) == 48


def test_dense_modules_are_applied_in_order_with_their_residuals(tmp_path: Path):
    import torch
    from safetensors.torch import load_file
    from transformers import BertModel

    folder = find("colbert_pylate_bert")(tmp_path / "checkpoint")
    proved = prove(folder)
    dense = load_file(folder / "1_Dense/model.safetensors")
    ids = proved.ids(["the red planet"], role="document")
    hidden = BertModel.from_pretrained(folder, add_pooling_layer=False)(torch.tensor(ids)).last_hidden_state[0]
    expected = hidden @ (dense["linear.weight"] + dense["residual.weight"]).T
    assert cosines(proved.raw("token_embed", ["the red planet"], role="document"), [expected.detach().numpy()]).min() > COSINE


def test_a_floor_fills_short_queries_and_leaves_long_ones_whole(tmp_path: Path):
    import json

    from sentence_transformers import MultiVectorEncoder

    folder = find("colbert_expanded_resaved")(tmp_path / "checkpoint")
    path = folder / "sentence_bert_config.json"
    floor = {"strategy": "min", "length": 8, "attend": False, "token": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"query_expansion": floor, "query_length": 20}))
    proved, library = prove(folder), MultiVectorEncoder(str(folder), device="cpu")
    ours = proved.answers("token_embed", TEXTS, role="query")
    theirs = [np.asarray(library.encode_query([text], convert_to_numpy=True, show_progress_bar=False)[0]) for text in TEXTS]
    assert [len(vectors) for vectors in ours] == [8, 8, 15, 20, 20]
    assert cosines(ours, theirs).min() > COSINE

"""ColBERT checkpoints of PyLate and of Sentence Transformers 6, prepared and encoded as the library does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.answers import scoring

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
    for role, texts, encode in (
        ("query", TEXTS, library.encode_query),
        ("document", DOCUMENTS, library.encode_document),
    ):
        ours = proved.answers("token_embed", texts, role=role)
        theirs = [
            np.asarray(encode([text], convert_to_numpy=True, show_progress_bar=False)[0]) for text in texts
        ]
        assert cosines(ours, theirs).min() > COSINE
        found[role] = ours, theirs
    for ours, theirs in zip(*found["query"], strict=True):
        expected = [float((theirs @ document.T).max(1).sum()) for document in found["document"][1]]
        np.testing.assert_allclose(scoring.maxsim(ours, found["document"][0]), expected, atol=SCORE)


def test_expansion_fills_queries_only(tmp_path: Path):
    proved = prove(find("colbert_expanded")(tmp_path / "checkpoint"))
    query, document = proved.plan.text.roles["query"], proved.plan.text.roles["document"]
    assert (query.max_tokens, query.attend_expansion, document.expand_id) == (16, True, None)
    assert [len(vectors) for vectors in proved.answers("token_embed", TEXTS, role="query")] == [16] * len(
        TEXTS
    )
    assert len(proved.answers("token_embed", ["a"], role="document")[0]) == 4


def test_attending_to_the_expansion_changes_the_vectors(tmp_path: Path):
    folder = find("colbert_expanded")(tmp_path / "checkpoint")
    attending = prove(folder).answers("token_embed", ["a planet"], role="query")
    path = folder / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attend_to_expansion_tokens": False}))
    assert (
        cosines(prove(folder).answers("token_embed", ["a planet"], role="query"), attending, of="").min()
        < 0.99
    )


def test_the_limit_of_the_side_encoded_last_does_not_cut_the_other(tmp_path: Path):
    """PyLate saves max_seq_length 47 = 48 - 1 here; were it 15, documents would lose
    two thirds of their text."""
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
    hidden = BertModel.from_pretrained(folder, add_pooling_layer=False)(torch.tensor(ids)).last_hidden_state[
        0
    ]
    expected = hidden @ (dense["linear.weight"] + dense["residual.weight"]).T
    assert (
        cosines(
            proved.raw("token_embed", ["the red planet"], role="document"), [expected.detach().numpy()]
        ).min()
        > COSINE
    )


def test_a_floor_fills_short_queries_and_leaves_long_ones_whole(tmp_path: Path):
    from sentence_transformers import MultiVectorEncoder

    folder = find("colbert_expanded_resaved")(tmp_path / "checkpoint")
    path = folder / "sentence_bert_config.json"
    floor = {"strategy": "min", "length": 8, "attend": False, "token": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"query_expansion": floor, "query_length": 20}))
    proved, library = prove(folder), MultiVectorEncoder(str(folder), device="cpu")
    ours = proved.answers("token_embed", TEXTS, role="query")
    theirs = [
        np.asarray(library.encode_query([text], convert_to_numpy=True, show_progress_bar=False)[0])
        for text in TEXTS
    ]
    assert [len(vectors) for vectors in ours] == [8, 8, 15, 20, 20]
    assert cosines(ours, theirs).min() > COSINE


@pytest.mark.parametrize(
    "prompts",
    [
        {"query": "[Q] ", "passage": "[D] "},
        {"corpus": "[D] of "},
        {"document": "[D] ", "passage": "[Q] "},
        {"document": ""},
    ],
    ids=str,
)
def test_documents_take_the_prompt_that_the_library_gives_them(
    prompts: dict[str, str], resaved: Path, tmp_path: Path
):
    """Its documentation names passage and corpus as well; version 6 always has a prompt named
    document, if an empty one."""
    from sentence_transformers import MultiVectorEncoder

    folder = settled(resaved, tmp_path / "checkpoint", prompts=prompts)
    proved, library = prove(folder), MultiVectorEncoder(str(folder), device="cpu")
    ours = proved.answers("token_embed", DOCUMENTS, role="document")
    theirs = [
        np.asarray(library.encode_document([text], convert_to_numpy=True, show_progress_bar=False)[0])
        for text in DOCUMENTS
    ]
    assert cosines(ours, theirs).min() > COSINE


@pytest.mark.parametrize("name", ["meanmaxsim", "xtr"])
def test_another_similarity_than_maxsim_is_refused(name: str, resaved: Path, tmp_path: Path):
    from poolrt.runtime.errors import CheckpointError

    with pytest.raises(
        CheckpointError, match=f"similarity_fn_name .* is '{name}'; poolrt scores with 'maxsim'"
    ):
        prove(settled(resaved, tmp_path / "checkpoint", similarity_fn_name=name))


def settled(folder: Path, place: Path, **settings: Any) -> Path:
    """A copy with other settings of Sentence Transformers."""
    shutil.copytree(folder, place)
    path = place / "config_sentence_transformers.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return place


@pytest.fixture(scope="module")
def resaved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find("colbert_modernbert_resaved")(tmp_path_factory.mktemp("resaved") / "checkpoint")

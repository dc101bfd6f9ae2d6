"""ColBERT's two sides have the ids, masks and MaxSim scores of sentence-transformers' MultiVectorEncoder."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.runtime.answers import scoring
from poolrt.runtime.artifact.manifest import Role
from poolrt.runtime.inputs.items import Item, TokenLimits
from poolrt.runtime.inputs.preparation import Preparation
from sentence_transformers import MultiVectorEncoder
from tokenizers import Tokenizer

from tests import checkpoints
from tests.runtime.vocabularies import manifest

QUERY_TOKENS, DOCUMENT_TOKENS = 16, 48  # as in the checkpoint's artifact.metadata
TEXTS = [
    "what is a fox?",
    "fox",
    "",
    "the quick, brown fox: jumps over (the) lazy dog!",
    "the quick brown fox jumps over the lazy dog and " * 12,
]
# Sums of 16 float32 products each, in another order.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.colbert(tmp_path_factory.mktemp("colbert"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> MultiVectorEncoder:
    return MultiVectorEncoder(str(folder), device="cpu")


def roles(folder: Path, *, attend: bool = False) -> dict[str, Role]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def number(token: str) -> int:
        found = tokenizer.token_to_id(token)
        assert found is not None, token
        return found

    skipped = tuple(
        found for mark in string.punctuation if (found := tokenizer.token_to_id(mark)) is not None
    )
    return {
        "query": Role(
            marker_id=number("[unused2]"),
            max_tokens=QUERY_TOKENS,
            expand_id=number("[MASK]"),
            attend_expansion=attend,
        ),
        "document": Role(marker_id=number("[unused3]"), max_tokens=DOCUMENT_TOKENS, skip_ids=skipped),
    }


def opened(folder: Path, *, style: Any = "model", attend: bool = False) -> Preparation:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Preparation(
        folder, manifest(tokenizer, max_tokens=96, roles=roles(folder, attend=attend)), style=style
    )


def encoded(reference: MultiVectorEncoder, item: Item) -> scoring.Floats:
    """The reference's backbone and projection on our ids, then what the runtime does."""
    attention = [1] * len(item.ids) if item.attention is None else item.attention
    features = {"input_ids": torch.tensor([item.ids]), "attention_mask": torch.tensor([attention])}
    features["token_type_ids"] = torch.zeros_like(features["input_ids"])
    with torch.inference_mode():
        vectors = reference[1](reference[0](features))["token_embeddings"][0].numpy()
    return scoring.l2(vectors if item.keep is None else vectors[item.keep])


@pytest.mark.parametrize("role", ["query", "document"])
@pytest.mark.parametrize("attend", [False, True], ids=["masked", "attended"])
def test_ids_and_masks_are_the_references(folder, reference, role, attend):
    if role == "query":
        reference[0].query_expansion = {"strategy": "fixed", "attend": attend, "length": QUERY_TOKENS}
    for text in TEXTS:
        theirs = reference.preprocess([text], prompt=reference.prompts[role], task=role)
        kept = reference[2]({**theirs}, task=role)["attention_mask"][0].bool().tolist()
        [item] = opened(folder, attend=attend).singles([text], role=role)
        assert item.ids == theirs["input_ids"][0].tolist()
        assert (item.attention or [1] * len(item.ids)) == theirs["attention_mask"][0].tolist()
        assert (kept if item.keep is None else item.keep.tolist()) == kept
        assert item.keep is not None or all(kept)


def test_scores_are_the_references(folder, reference):
    prepare = opened(folder)
    reference[0].query_expansion = {"strategy": "fixed", "attend": False, "length": QUERY_TOKENS}
    theirs = (
        reference.similarity(reference.encode_query(TEXTS), reference.encode_document(TEXTS)).cpu().numpy()
    )
    documents = [encoded(reference, item) for item in prepare.singles(TEXTS, role="document")]
    ours = np.stack(
        [scoring.maxsim(encoded(reference, item), documents) for item in prepare.singles(TEXTS, role="query")]
    )
    np.testing.assert_allclose(ours, theirs, atol=QUERY_TOKENS * ROUNDING)
    assert theirs.max() > 5, "scores near zero would compare nothing"


def test_vllms_preparation_is_the_plain_text(folder):
    plain = opened(folder, style="vllm")
    for role in (None, "query", "document"):
        [item] = plain.singles(["a fox, a dog"], role=role)
        assert item == Item(ids=plain.encoder.tokenize("a fox, a dog"), prompt_tokens=len(item.ids))


def test_longer_text_is_cut_to_the_roles_length_and_says_so(folder):
    [query, document] = (opened(folder).singles([TEXTS[-1]], role=role)[0] for role in ("query", "document"))
    assert (len(query.ids), len(document.ids)) == (QUERY_TOKENS, DOCUMENT_TOKENS)
    assert query.truncated
    assert document.truncated
    assert query.attention is None


def test_a_smaller_truncation_counts_the_marker(folder):
    [item] = opened(folder).singles(
        [TEXTS[-1]], role="document", limits=TokenLimits(truncate_prompt_tokens=10)
    )
    assert len(item.ids) == 10


def test_usage_counts_the_marker_and_not_the_expansion(folder):
    prepare = opened(folder)
    [item] = prepare.singles(["a fox"], role="query")
    assert item.prompt_tokens == len(prepare.encoder.tokenize("a fox")) + 1
    assert len(item.ids) == QUERY_TOKENS


def test_token_ids_get_marker_and_expansion_too(folder):
    prepare = opened(folder)
    ids = prepare.encoder.tokenize("a fox")
    assert prepare.singles([ids], role="query") == prepare.singles(["a fox"], role="query")

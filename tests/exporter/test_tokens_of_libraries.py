"""Vectors of checkpoints whose tokens are decided outside tokenizer.json, against Sentence Transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.inputs.items import TokenLimits
from poolrt.runtime.model import Model

from tests import checkpoints
from tests.conftest import exported

COSINE = 0.999999  # of float32 sums in another order
TEXTS = [
    "what [MASK] IS this",
    "What Is The Red Planet?",
    "[CLS] PARIS [SEP] Brazil",
    "<query> capital of France",
    "a<Query>b the MOON",
]
LONG = "The Red PLANET [MASK] is MARS " * 300 + "and Paris is the CAPITAL of France"


def lowered(folder: Path) -> Path:
    """do_lower_case of Sentence Transformers over a cased tokenizer, with prompts."""
    settings = checkpoints._bert_settings(folder)
    checkpoints._wordpiece(folder, lowercase=False)
    checkpoints._hf(folder, "BertModel", **settings)
    checkpoints.sentence_transformers_files(folder, lowercase=True, prompts={"query": "QUERY [MASK] "})
    return folder


def added(folder: Path) -> Path:
    """Tokens that stand in tokenizer_config.json alone, over a tokenizer.json that lower-cases where they
    do not; cut at the left."""
    settings = checkpoints._bert_settings(folder, vocab_size=135)
    checkpoints._hf(folder, "BertModel", **settings)
    checkpoints.sentence_transformers_files(folder)
    path = folder / "tokenizer_config.json"
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    tokens = {
        "133": {"content": "<query>", **plain},
        "134": {"content": "<Query>", **plain, "normalized": True},
    }
    settings = {"do_lower_case": False, "added_tokens_decoder": tokens, "truncation_side": "left"}
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return folder


@pytest.fixture(scope="module", params=[lowered, added], ids=["lower-cased", "added tokens"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    from sentence_transformers import SentenceTransformer

    write = request.param
    folder = write(tmp_path_factory.mktemp("checkpoint"))
    with load(exported(f"tokens-{write.__name__}", write)) as model:
        yield model, SentenceTransformer(str(folder), device="cpu")


def test_vectors_and_ids_are_those_of_sentence_transformers(pair: tuple[Model, object]):
    model, library = pair
    expected = library.encode(TEXTS)  # pyright: ignore[reportAttributeAccessIssue]
    assert [model.tokenize(text) for text in TEXTS] == library.tokenizer(TEXTS)["input_ids"]  # pyright: ignore[reportAttributeAccessIssue]
    assert (np.asarray(model.embed(TEXTS)) * expected).sum(axis=-1).min() > COSINE


def test_prompts_pairs_and_cut_texts_too(pair: tuple[Model, object]):
    model, library = pair
    tokenizer = library.tokenizer  # pyright: ignore[reportAttributeAccessIssue]
    prompts = {"prompt_name": "query"} if "query" in model.manifest.text.prompts else {}
    texts = [*TEXTS, LONG]
    expected = library.encode(texts, **prompts)  # pyright: ignore[reportAttributeAccessIssue]
    found = model.embed(texts, truncate_prompt_tokens=-1, **prompts)  # pyright: ignore[reportArgumentType]
    assert (np.asarray(found) * expected).sum(axis=-1).min() > COSINE
    items = model.preparation.pairs(TEXTS, TEXTS[::-1])
    assert [item.ids for item in items] == tokenizer(TEXTS, TEXTS[::-1])["input_ids"]
    for kept in (8, 20, 64):
        items = model.preparation.pairs(texts, texts[::-1], limits=TokenLimits(truncate_prompt_tokens=kept))
        assert [item.ids for item in items] == tokenizer(
            texts, texts[::-1], truncation=True, max_length=kept
        )["input_ids"]

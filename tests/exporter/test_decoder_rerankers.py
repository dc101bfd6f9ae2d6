"""Rerankers made of language models, from folder to score: the prompt their authors use, cut in the document and never behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.families.decoders import qwen3_reranker
from tests.families.natives import build
from tests.families.proof import DIFFERENCE

QUERY, DOCUMENTS = "what is mars", ("a red planet", "the capital of france is paris", "")
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: {told}\n<Query>: {query}\n'
    "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
TOLD = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint called like the repository, and its artifact: no override, no template given."""
    from poolrt.exporter import pipeline

    home = tmp_path_factory.mktemp("rerankers")
    folder = qwen3_reranker(home / "Qwen3-Reranker-0.6B", max_position_embeddings=1024)
    pipeline.export(str(folder), name="reranker", out=str(home / "artifacts"))
    return folder, home / "artifacts" / "reranker"


def test_scores_are_those_of_the_prompt_on_the_model_card(places: tuple[Path, Path]):
    from poolrt.runtime import load

    folder, artifact = places
    tokenizer, model = Tokenizer.from_file(str(folder / "tokenizer.json")), build(folder, "Qwen3ForCausalLM")
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    ids = [tokenizer.encode(PROMPT.format(told=TOLD, query=QUERY, document=document)).ids for document in DOCUMENTS]
    newline = tokenizer.encode("\n").ids
    assert ids[0][-2:] == newline * 2  # the last token is the second newline, which a template file loses
    with torch.inference_mode():
        logits = [model(torch.tensor([row]), use_cache=False).logits[0, -1] for row in ids]
    expected = [torch.softmax(row[[no, yes]], dim=-1)[1].item() for row in logits]
    with load(artifact) as opened:
        made = opened.score(QUERY, list(DOCUMENTS))
    assert [list(one.prompt_token_ids) for one in made.requests] == ids
    np.testing.assert_allclose([one.outputs.score for one in made.requests], expected, atol=DIFFERENCE)


def test_a_long_document_is_cut_and_the_end_of_the_prompt_stays(places: tuple[Path, Path]):
    from poolrt.runtime import load

    with load(places[1]) as opened:
        [short] = opened.score(QUERY, ["red " * 20], max_tokens_per_doc=5).requests
        [whole] = opened.score(QUERY, ["red " * 20]).requests
    assert len(short.prompt_token_ids) < len(whole.prompt_token_ids)
    assert list(short.prompt_token_ids)[-12:] == list(whole.prompt_token_ids)[-12:]

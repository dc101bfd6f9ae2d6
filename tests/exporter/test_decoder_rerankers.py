"""Rerankers made of language models, from folder to score: the prompt their authors use, cut in the
document and never behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from tests.conftest import prefixed_reranker
from tests.families.decoders import qwen3_reranker, qwen3_reranker_card
from tests.families.natives import build
from tests.families.proof import DIFFERENCE

QUERY, DOCUMENTS = "what is mars", ("a red planet", "the capital of france is paris", "")
PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    "Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n<Instruct>: '
    "{told}\n<Query>: {query}\n"
    "<Document>: {document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
TOLD = "Given a web search query, retrieve relevant passages that answer the query"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint called like the repository, and its artifact: no override, no template given."""
    return qwen3_reranker_card(tmp_path_factory.mktemp("rerankers")), prefixed_reranker()


def test_scores_are_those_of_the_prompt_on_the_model_card(places: tuple[Path, Path]):
    from poolrt.runtime import load

    folder, artifact = places
    tokenizer, model = Tokenizer.from_file(str(folder / "tokenizer.json")), build(folder, "Qwen3ForCausalLM")
    yes, no = tokenizer.token_to_id("yes"), tokenizer.token_to_id("no")
    ids = [
        tokenizer.encode(PROMPT.format(told=TOLD, query=QUERY, document=document)).ids
        for document in DOCUMENTS
    ]
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


TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor "
    "%}<|im_end|>\n<|im_start|>assistant\n"
)


def written(folder: Path, template: str | None, false: bool = True) -> Any:
    """A cross-encoder as sentence-transformers 6 writes it: a causal LM behind a LogitScore module."""
    from sentence_transformers import CrossEncoder

    plain = qwen3_reranker(folder.parent / "plain", max_position_embeddings=1024)
    if template is not None:
        (plain / "chat_template.jinja").write_text(template)
    model = CrossEncoder(str(plain), device="cpu")
    if not false:
        score: Any = model[1]
        score.false_token_id = None
    model.save_pretrained(str(folder), create_model_card=False)
    return model


@pytest.mark.parametrize(
    ("template", "false"),
    [(TEMPLATE, True), (TEMPLATE, False), (None, True)],
    ids=["template", "one", "pair"],
)
def test_a_logit_score_module_is_a_reranker(template: str | None, false: bool, tmp_path: Path):
    from poolrt.exporter import pipeline
    from poolrt.runtime import load

    model = written(tmp_path / "written", template, false)
    expected = model.predict([(QUERY, document) for document in DOCUMENTS], batch_size=1)
    made = pipeline.export(str(tmp_path / "written"), name="reranker", out=str(tmp_path / "artifacts"))
    assert made.scoring == "cross-encoder"
    with load(tmp_path / "artifacts" / "reranker") as opened:
        np.testing.assert_allclose(
            np.asarray(opened.score(QUERY, list(DOCUMENTS))), expected, atol=DIFFERENCE
        )


def test_a_chat_template_without_both_sides_of_a_pair_is_refused(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning
    from poolrt.runtime.errors import CheckpointError

    written(tmp_path / "written", "{{ messages[0].content }}")
    with pytest.raises(CheckpointError, match="roles 'query' and 'document'"):
        planning.plan(checkpoint.read(tmp_path / "written"))


def test_tokens_that_are_none_are_refused(tmp_path: Path):
    from poolrt.exporter import checkpoint
    from poolrt.exporter.heads import planning
    from poolrt.runtime.errors import CheckpointError

    written(tmp_path / "written", TEMPLATE)
    config = tmp_path / "written" / "1_LogitScore" / "config.json"
    for value, told in (
        ('{"true_token_id": "yes"}', "expected token ids"),
        ('{"true_token_id": 99999}', "not one of the vocabulary's"),
    ):
        config.write_text(value)
        with pytest.raises(CheckpointError, match=told):
            planning.plan(checkpoint.read(tmp_path / "written"))

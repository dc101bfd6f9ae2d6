"""Encoders that transformers builds, against its own classes: each text alone and unpadded there, all
in one padded batch here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.families import TEXTS, find
from tests.families.proof import COSINE, DIFFERENCE, Proved, cosines, differences, prove

PAIRS = tuple(("the red planet?", text) for text in TEXTS)
EMBEDDERS = (
    "modernbert_embedder", "modernbert_biased", "gte_snowflake", "ernie_task", "ernie_plain",
    "mpnet_embedder", "deberta_embedder",
    "distilbert_embedder", "gpt_neox_embedder", "modernbert_masked",
)  # fmt: skip
CLASSIFIERS = (
    "modernbert_reranker", "modernbert_classifier", "ernie_classifier", "mpnet_classifier",
    "deberta_reranker",
    "distilbert_classifier", "electra_reranker", "albert_classifier", "megatron_classifier",
    "gpt2_classifier", "camembert_reranker",
)  # fmt: skip
TOKEN_CLASSIFIERS = ("modernbert_tokens", "deberta_tokens", "electra_tokens")
STORED = {
    "ernie_plain": ("ErnieModel", "bert."),
    "ernie_task": ("ErnieModel", "ernie."),
    "mpnet_embedder": ("MPNetModel", ""),
}
STORED["modernbert_masked"] = ("ModernBertModel", "")


def native(folder: Path, proved: Proved, texts: Any) -> list[Any]:
    """The outputs of transformers' class for each text, read with its own loader."""
    import torch
    import transformers

    name, prefix = STORED.get(folder.name, (proved.checkpoint.architecture, ""))
    kind = getattr(transformers, name)
    if prefix:
        from safetensors.torch import load_file

        legacy = {"gamma": "weight", "beta": "bias"}
        state = {}
        for stored, tensor in load_file(folder / "model.safetensors").items():
            stem, _, last = stored.removeprefix(prefix).rpartition(".")
            state[f"{stem}.{legacy.get(last, last)}"] = tensor
        model = kind(kind.config_class.from_pretrained(folder))
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        unused = ("pooler.", "embeddings.position_ids", "embeddings.token_type_ids")
        assert all(key.startswith(unused) for key in missing)
    else:
        model = kind.from_pretrained(folder, dtype=torch.float32)
    items = [proved.item(text) for text in texts]
    answers = []
    for item in items:
        given = {"input_ids": torch.tensor([item.ids])}
        if "token_type_ids" in proved.plan.inputs:
            given["token_type_ids"] = torch.tensor([item.type_ids])
        with torch.inference_mode():
            answers.append(model.eval()(**given))
    return answers


@pytest.mark.parametrize("name", EMBEDDERS)
def test_embeddings_equal_the_native_class(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / name)
    proved = prove(folder)
    hidden = [answer.last_hidden_state[0].numpy() for answer in native(folder, proved, TEXTS)]
    assert cosines(proved.raw("token_embed", TEXTS), hidden).min() > COSINE
    pools = {"cls": lambda rows: rows[0], "mean": lambda rows: rows.mean(0), "last": lambda rows: rows[-1]}
    pooled = [pools[proved.plan.heads["embed"].pool](rows) for rows in hidden]
    assert cosines(proved.answers("embed", TEXTS), pooled).min() > COSINE


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_scores_equal_the_native_class(name: str, tmp_path: Path):
    import torch

    folder = find(name)(tmp_path / name)
    proved = prove(folder)
    logits = [answer.logits[0] for answer in native(folder, proved, PAIRS)]
    one = proved.plan.heads["classify"].dim == 1
    expected = [torch.sigmoid(row) if one else row.softmax(-1) for row in logits]
    assert differences(proved.answers("classify", PAIRS), expected) < DIFFERENCE
    assert len({round(float(row[0]), 3) for row in logits}) > 2  # not a constant
    scale = max(1.0, max(float(row.abs().max()) for row in logits))
    assert differences(proved.raw("classify", PAIRS), logits) < DIFFERENCE * scale


@pytest.mark.parametrize("name", TOKEN_CLASSIFIERS)
def test_token_classes_equal_the_native_class(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / name)
    proved = prove(folder)
    expected = [answer.logits[0].softmax(-1).numpy() for answer in native(folder, proved, TEXTS)]
    found = proved.answers("token_classify", TEXTS)
    assert [row.shape for row in found] == [row.shape for row in expected]
    assert differences(found, expected) < DIFFERENCE
    np.testing.assert_allclose([row.sum(-1).mean() for row in found], 1.0, rtol=1e-5)

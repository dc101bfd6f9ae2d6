"""Folders written by Sentence Transformers itself are read like the hand-made ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.exporter import checkpoint, heads, sentence_files

Paths = Callable[[str], Path]


@pytest.mark.parametrize("name", ["minilm_like", "bert_dense", "bert_mean_sqrt_len", "bert_weightedmean", "xlmr_embedder"])
def test_what_the_library_saves_again_gives_the_same_heads(name: str, checkpoints: Paths, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(checkpoints(name)), device="cpu").save(str(tmp_path), create_model_card=False)
    made, expected = heads.plan(checkpoint.read(tmp_path)), heads.plan(checkpoint.read(checkpoints(name)))
    assert made.heads == expected.heads
    assert made.text.max_tokens == expected.text.max_tokens
    assert {key: text for key, text in made.text.prompts.items() if text} == {k: text for k, text in expected.text.prompts.items() if text}
    files = sentence_files.read(tmp_path)
    assert files is not None
    assert files.generation == 6


@pytest.mark.parametrize("name", ["bert_cross_encoder", "xlmr_reranker", "bert_classifier"])
def test_a_cross_encoder_the_library_saves_keeps_its_activation(name: str, checkpoints: Paths, tmp_path: Path):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(checkpoints(name)), device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    made, expected = heads.plan(checkpoint.read(tmp_path)), heads.plan(checkpoint.read(checkpoints(name)))
    assert made.tasks == expected.tasks
    assert made.heads == expected.heads


def test_several_poolings_are_concatenated_in_the_librarys_order(checkpoints: Paths, tmp_path: Path):
    import shutil

    import numpy as np
    import torch
    from poolrt.exporter import graph
    from sentence_transformers import SentenceTransformer

    from tests.checkpoints import HIDDEN, sentence_transformers_files

    folder = Path(shutil.copytree(checkpoints("minilm_like"), tmp_path / "several"))
    sentence_transformers_files(folder, pooling="mean", generation=2, normalize=False)
    path = folder / "1_Pooling/config.json"
    path.write_text(path.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true'))
    read = checkpoint.read(folder)
    plan = heads.plan(read)
    assert plan.heads["embed"].dim == 2 * HIDDEN
    ids, mask = torch.randint(9, 100, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    found = graph.module(read, plan)(ids, mask, torch.zeros_like(ids))[0]
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    expected = SentenceTransformer(str(folder), device="cpu").eval()(features)["sentence_embedding"]
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)

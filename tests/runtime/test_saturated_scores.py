"""Scores that a sigmoid rounds to the same number are ranked by their logits, the
scores are told as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import LLM, load
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.errors import InputError, UnsupportedTask

from tests.conftest import exported
from tests.serve.conftest import live

QUERY = "what is the capital of france"
DOCUMENTS = [
    "paris",
    "mars is known as the red planet",
    "paris is the capital",
    "a small planet",
    "france",
    "the red capital of mars",
]


@pytest.fixture(scope="module")
def saturated(checkpoints, tmp_path_factory) -> Path:
    """A reranker whose logits are all far above where float32 has a sigmoid below 1."""
    import json
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("saturated") / "saturated"
    shutil.copytree(checkpoints("bert_cross_encoder"), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"] *= 3
    tensors["classifier.bias"] += 60
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("sentence_transformers", None)
    config.pop("sbert_ce_default_activation_function", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def logits(saturated: Path) -> np.ndarray[Any, Any]:
    """The other library's, without its activation."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(saturated), device="cpu")
    return model.predict(
        [(QUERY, text) for text in DOCUMENTS], activation_fn=torch.nn.Identity(), show_progress_bar=False
    )


def test_every_ranker_orders_saturated_scores_by_logit(saturated: Path, logits: np.ndarray[Any, Any]):
    order = np.argsort(-logits, kind="stable").tolist()
    assert order != sorted(order)
    with load(exported("saturated", lambda _: saturated), threads=1) as model:
        ranking = model.rerank(QUERY, DOCUMENTS)
        assert {one.score for one in ranking} == {1.0}
        assert [one.index for one in ranking] == order
        assert [one.index for one in model.rerank(QUERY, DOCUMENTS, top_n=2)] == order[:2]
        raw = model.rerank(QUERY, DOCUMENTS, pooling_params=PoolingParams(use_activation=False))
        np.testing.assert_allclose([one.score for one in raw], logits[order], atol=1e-4)
        with live(model) as server:
            for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
                results = server.ask(path, {"query": QUERY, "documents": DOCUMENTS})["results"]
                assert [(one["index"], one["relevance_score"]) for one in results] == [
                    (index, 1.0) for index in order
                ]
            told = server.ask("/rerank", {"query": QUERY, "texts": DOCUMENTS})
            assert [(one["index"], one["score"]) for one in told] == [(index, 1.0) for index in order]


def test_scores_without_activation_keep_equal_ones_in_order(artifacts):
    with load(artifacts("minilm_like"), threads=1) as model:
        assert [one.index for one in model.rerank("paris", ["mars", "paris", "mars", "paris"])] == [
            1,
            3,
            0,
            2,
        ]


def test_a_priority_needs_its_policy(artifacts):
    with load(artifacts("minilm_like"), threads=1) as model:
        for call in (lambda: model.embed("a", priority=1), lambda: model.rerank("a", ["b"], priority=-1)):
            with pytest.raises(InputError, match="scheduling_policy='priority'"):
                call()
        model.embed("a", priority=0)
    with load(artifacts("minilm_like"), threads=1, scheduling_policy="priority") as model:
        model.embed("a", priority=1)


def test_the_offline_class_has_priorities_with_vllms_keyword(artifacts):
    folder = str(artifacts("minilm_like"))
    with pytest.raises(InputError, match="scheduling_policy='priority'"):
        LLM(folder).embed("a", priority=1, use_tqdm=False)
    LLM(folder, scheduling_policy="priority").embed("a", priority=1, use_tqdm=False)


def test_a_model_without_rewards_names_what_it_has(artifacts):
    with (
        load(artifacts("minilm_like"), threads=1) as model,
        pytest.raises(UnsupportedTask, match=r"Its tasks are embed, token_embed"),
    ):
        model.reward("a")


def test_offline_scores_take_text_parts(artifacts):
    parts = {"content": [{"type": "text", "text": "paris"}, {"type": "text", "text": "mars"}]}
    with load(artifacts("bert_cross_encoder"), threads=1) as model:
        assert model.score(QUERY, parts)[0].outputs == model.score(QUERY, "paris\nmars")[0].outputs
        for content in ([{"type": "image_url", "image_url": {"url": "x"}}], "paris", [5]):
            with pytest.raises(InputError, match=r"MultiModalParam is not supported|expected text"):
                model.score(QUERY, [{"content": content}])

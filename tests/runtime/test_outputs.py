"""Results print in one short line, whatever their size."""

from __future__ import annotations

import numpy as np
import pytest
from poolrt.runtime import (
    ClassificationOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    Outputs,
    PoolingOutput,
    Ranked,
    Ranking,
    ScoringOutput,
    load,
)

VECTOR = np.array([0.03125, -0.0122, *[0.5] * 382], np.float32)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (EmbeddingOutput(VECTOR), "EmbeddingOutput([0.031, -0.012, ...], dim=384)"),
        (EmbeddingOutput(VECTOR[:2]), "EmbeddingOutput([0.031, -0.012], dim=2)"),
        (PoolingOutput(VECTOR), "PoolingOutput([0.031, -0.012, ...], dim=384)"),
        (PoolingOutput(np.stack([VECTOR] * 7)), "PoolingOutput([[0.031, -0.012, ...], ...], shape=(7, 384))"),
        (PoolingOutput(VECTOR[None, :1]), "PoolingOutput([[0.031]], shape=(1, 1))"),
        (PoolingOutput(VECTOR[None, :1][:0]), "PoolingOutput([], shape=(0, 1))"),
        (
            ClassificationOutput(VECTOR[:3], "spam"),
            "ClassificationOutput([0.031, -0.012, ...], classes=3, label='spam')",
        ),
        (ClassificationOutput(VECTOR[:1]), "ClassificationOutput([0.031], classes=1)"),
        (ScoringOutput(0.98765432, 4.5), "ScoringOutput(0.9877)"),
        (ScoringOutput(1.25e-7), "ScoringOutput(1.25e-07)"),
        (
            Ranked(2, 0.98765432, "yeast makes gas"),
            "Ranked(index=2, score=0.9877, document='yeast makes gas')",
        ),
        (
            Ranked(0, 0.5, "yeast", truncated=True),
            "Ranked(index=0, score=0.5, document='yeast', truncated=True)",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_result_prints_short(result, text):
    assert repr(result) == text


def test_a_long_document_is_cut_in_print():
    text = repr(Ranked(0, 1.0, "word " * 1000))
    assert len(text) < 120
    assert "word word" in text


def test_what_a_plugin_made_prints_short():
    assert repr(PoolingOutput({"weights": 1})) == "PoolingOutput({'weights': 1})"  # pyright: ignore[reportArgumentType]
    assert len(repr(PoolingOutput(["word"] * 1000))) < 120  # pyright: ignore[reportArgumentType]


def test_a_list_of_results_prints_two_of_them():
    request = EmbeddingRequestOutput(EmbeddingOutput(VECTOR), [1, 2, 3], 3)
    assert repr(request) == (
        "EmbeddingRequestOutput(EmbeddingOutput([0.031, -0.012, ...], dim=384), prompt_tokens=3)"
    )
    shortened = EmbeddingRequestOutput(EmbeddingOutput(VECTOR), [1, 2, 3], 3, True)
    assert repr(shortened).endswith(", prompt_tokens=3, truncated=True)")
    vector = "EmbeddingOutput([0.031, -0.012, ...], dim=384)"
    assert repr(Outputs((request,) * 2)) == f"Outputs([{vector}, {vector}], prompt_tokens=6)"
    assert repr(Outputs((request,) * 40)) == (
        f"Outputs([{vector}, {vector}, ...], length=40, prompt_tokens=120)"
    )
    assert repr(Outputs(())) == "Outputs([], prompt_tokens=0)"


def test_a_ranking_prints_its_best():
    results = tuple(Ranked(index, 1 - index / 10, "a") for index in range(3))
    first = "Ranked(index=0, score=1, document='a'), Ranked(index=1, score=0.9, document='a')"
    assert repr(Ranking(results, 9)) == f"Ranking([{first}, ...], length=3, prompt_tokens=9)"


def test_a_model_prints_its_name_tasks_widths_engine_and_precision(artifacts):
    with load(artifacts("bge_m3")) as model:
        assert repr(model) == (
            "Model('bge_m3', dims={'embed': 64, 'token_embed': 64, 'token_classify': 1}, "
            "engine='onnxruntime:model.onnx', precision='fp32')"
        )

"""Cross-encoders that Sentence Transformers builds of modules (a bare encoder, Pooling, Dense and LayerNorm,
scores), against predict."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.heads import planning
from torch import nn

from tests.checkpoints import HIDDEN
from tests.exporter.test_module_chains import dense, norm, normalize, pooling
from tests.families.proof import DIFFERENCE, prove

Paths = Callable[[str], Path]
PAIRS = [
    ("what is mars", "a red planet"),
    ("what is mars", "the capital of france is paris " * 30),
    ("", "a"),
]
SCORES = {"module_output_name": "scores"}

KINDS: dict[str, tuple[Callable[[], list[Any]], nn.Module | None]] = {
    "one layer": (lambda: [pooling(HIDDEN, "cls"), dense(HIDDEN, 1, nn.Identity(), **SCORES)], None),
    "ettin": (
        lambda: [
            pooling(HIDDEN, "cls"), dense(HIDDEN, HIDDEN, nn.GELU(), bias=False), norm(HIDDEN),
            dense(HIDDEN, 1, nn.Identity(), **SCORES),
        ],
        None,
    ),
    "mean, no activation": (lambda: [pooling(), dense(HIDDEN, 1, nn.Identity(), **SCORES)], nn.Identity()),
    "layer with a tanh": (lambda: [pooling(), dense(HIDDEN, 1, nn.Tanh(), **SCORES)], nn.Identity()),
    "normalised": (lambda: [pooling(), normalize(), dense(HIDDEN, 1, nn.Identity(), **SCORES)], None),
    "tokens first": (
        lambda: [
            dense(HIDDEN, 24, module_input_name="token_embeddings"), pooling(24, ("cls", "mean")),
            dense(48, 1, nn.Identity(), **SCORES),
        ],
        None,
    ),
    "tanh": (lambda: [pooling(), dense(HIDDEN, 1, nn.Identity(), **SCORES)], nn.Tanh()),
    "three labels": (lambda: [pooling(), dense(HIDDEN, 3, nn.Identity(), **SCORES)], None),
    "three labels, softmax": (lambda: [pooling(), dense(HIDDEN, 3, nn.Identity(), **SCORES)],
    nn.Softmax(dim=1)),
    "three labels, sigmoid": (lambda: [pooling(), dense(HIDDEN, 3, nn.Identity(), **SCORES)], nn.Sigmoid()),
    "scores through the vector's name": (
        lambda: [pooling(), dense(HIDDEN, 1, nn.Identity()),
        dense(1, 1, nn.Identity(), use_residual=True, **SCORES)], None,
    ),
}  # fmt: skip


def written(folder: Path, base: Path, build: Callable[[], list[Any]], activation: nn.Module | None) -> Any:
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer

    model = CrossEncoder(modules=[Transformer(str(base)), *build()], device="cpu", activation_fn=activation)
    model.save_pretrained(str(folder), create_model_card=False)
    return model.eval()


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_those_of_predict(name: str, checkpoints: Paths, tmp_path: Path):
    build, activation = KINDS[name]
    model = written(tmp_path, checkpoints("minilm_like"), build, activation)
    proved = prove(tmp_path)
    labels = 3 if "three" in name else 1
    assert (proved.plan.tasks[0], proved.plan.heads["classify"].dim) == ("classify", labels)
    assert proved.plan.scoring == ("cross-encoder" if labels == 1 else None)
    for asked, given in ((None, None), (False, nn.Identity())):
        expected = model.predict(PAIRS, batch_size=1, activation_fn=given, show_progress_bar=False).reshape(
            len(PAIRS), labels
        )
        found = proved.answers("classify", PAIRS, use_activation=asked)
        np.testing.assert_allclose(np.stack(found), expected, atol=DIFFERENCE)


def test_a_folder_that_does_not_name_its_class_is_a_reranker_by_its_modules(
    checkpoints: Paths, tmp_path: Path
):
    written(tmp_path, checkpoints("minilm_like"), *KINDS["ettin"])
    path = tmp_path / "config_sentence_transformers.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "model_type"})
    )
    assert planning.plan(checkpoint.read(tmp_path)).scoring == "cross-encoder"


def test_a_modular_reranker_ranks_from_folder_to_score(checkpoints: Paths, tmp_path: Path):
    from poolrt.exporter import pipeline
    from poolrt.runtime import load

    model = written(tmp_path / "written", checkpoints("minilm_like"), *KINDS["ettin"])
    report = pipeline.export(str(tmp_path / "written"), name="reranker", out=str(tmp_path))
    assert report.scoring == "cross-encoder"
    with load(tmp_path / "reranker") as opened:
        queries, documents = zip(*PAIRS, strict=True)
        found = opened.score(list(queries), list(documents), truncate_prompt_tokens=-1)
    np.testing.assert_allclose(
        np.asarray(found), model.predict(PAIRS, batch_size=1, show_progress_bar=False), atol=DIFFERENCE
    )

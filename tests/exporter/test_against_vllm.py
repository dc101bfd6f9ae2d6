"""The finished answers of token ids, against what the real vLLM answered:
tests/goldens/record_pooling.py recorded it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import load

from tests.goldens.record_pooling import FOLDER, LENGTHS, RECORDED, weights_digest

Paths = Callable[[str], Path]
# Of unit vectors, probabilities and sparse weights; worst measured 2e-6 (vLLM packs rows, so
# sums run in another order)
CLOSE = 1e-5


@pytest.mark.parametrize(("name", "task"), RECORDED)
def test_answers_are_vllms(name: str, task: str, artifacts: Paths, checkpoints: Paths):
    golden = np.load(FOLDER / f"{name}-{task}.npz")
    assert str(golden["weights"]) == weights_digest(checkpoints(name)), (
        "the tiny checkpoint has changed: record the goldens again"
    )
    prompts = [golden[f"ids_{index}"].tolist() for index in range(len(LENGTHS))]
    with load(artifacts(name), preparation="vllm") as model:
        answers = model.encode(prompts, pooling_task=task)
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(
            answer.outputs.data, golden[f"out_{index}"], atol=CLOSE, rtol=0, err_msg=f"{prompts[index]}"
        )

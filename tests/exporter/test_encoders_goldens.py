"""Encoders against what the real vLLM answered to the same ids (tests/goldens/record_encoders.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.checkpoints import TABLE
from tests.families import find, ids_of_texts
from tests.families.proof import COSINE, DIFFERENCE, cosines, differences, prove

RECORDED = sorted((Path(__file__).parents[1] / "goldens/encoders").glob("*.npz"))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.stem)
def test_answers_equal_vllm(path: Path, tmp_path: Path):
    folder = find(path.stem)(tmp_path / path.stem)
    proved = prove(folder)
    ids = ids_of_texts(folder, TABLE)
    with np.load(path) as recorded:
        for task in sorted({key.rsplit("_", 1)[0] for key in recorded.files if key != "versions"}):
            expected = [recorded[f"{task}_{index}"] for index in range(len(ids))]
            found = proved.answers(task, ids)  # pyright: ignore[reportArgumentType]
            assert [one.shape for one in found] == [one.shape for one in expected]
            if task in ("embed", "token_embed"):
                assert cosines(found, expected).min() > COSINE
                assert differences(found, expected) < DIFFERENCE * max(1.0, float(np.abs(expected[-1]).max()))
            else:
                assert differences(found, expected) < DIFFERENCE

"""Decoder families against answers recorded from the real vLLM
(tests/goldens/record_decoders.py), on the same token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from poolrt.runtime.artifact.manifest import Task

from tests.checkpoints import TABLE
from tests.families import find, ids_of_texts
from tests.families.proof import cosines, differences, prove
from tests.goldens.record_decoders import FOLDER, WANTED

# What the project promises for a checkpoint of any family; vLLM sums in another order than PyTorch does.
COSINE = 0.99999
DIFFERENCE = 1e-4


@pytest.mark.parametrize("name", [name for name in WANTED if (FOLDER / f"{name}.npz").is_file()])
def test_answers_are_those_of_vllm(name: str, tmp_path: Path):
    tasks, overrides, pooler, _ = WANTED[name]
    asked: dict[str, Any] = {"hf_overrides": overrides} if overrides else {}
    if pooler:
        asked["pooler_config"] = pooler
    folder = find(name)(tmp_path / name)
    ids = [row for row in ids_of_texts(folder, TABLE) if row]
    proof = prove(folder, **asked)
    with np.load(FOLDER / f"{name}.npz") as golden:
        for task in cast("tuple[Task, ...]", tasks):
            expected = [golden[f"{task}_{index}"] for index in range(len(ids))]
            found = proof.answers(task, ids)
            if "embed" in task:
                assert cosines(found, expected).min() > COSINE, task
            else:
                assert [one.shape for one in found] == [other.shape for other in expected], task
                # Some texts have no step
                answered = [(one, other) for one, other in zip(found, expected, strict=True) if other.size]
                assert len(answered) >= 2
                assert differences(*zip(*answered, strict=True)) < DIFFERENCE, task

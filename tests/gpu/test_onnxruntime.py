"""ONNX Runtime on a real GPU: the same numbers as on the processor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import load, machine
from poolrt.runtime.machine import version

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not machine.gpus(), reason="no NVIDIA GPU"),
    pytest.mark.skipif(version("onnxruntime-gpu") is None, reason="onnxruntime-gpu is not installed"),
]
# CUDA computes fp32 products in TF32 where a library allows it: ten bits of mantissa.
TF32_COSINE = 0.999


def test_cuda_answers_as_the_processor_does(artifacts: Callable[[str], Path]) -> None:
    texts = ["mars is red", "a river", "the committee postponed its vote until the auditors had answered"] * 9
    with load(artifacts("minilm_like"), engine="onnxruntime-cuda") as model:
        vectors = np.asarray(model.embed(texts))
    with load(artifacts("minilm_like"), engine="onnxruntime") as model:
        expected = np.asarray(model.embed(texts))
    assert (vectors * expected).sum(axis=-1).min() >= TF32_COSINE
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)

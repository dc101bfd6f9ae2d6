"""Attention of grouped heads in OpenVINO's form of a graph, and what a launch of it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from poolrt.runtime import loader
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import Manifest, Precision
from poolrt.runtime.engines import openvino as engine
from poolrt.runtime.engines import openvino_heads, table
from poolrt.runtime.engines.feed import Feed
from poolrt.runtime.inputs.items import Item, Prefix

from tests.conftest import prefixed_reranker

SAME = 2e-6  # logits of size 1: queries are scaled where keys were
SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}


def read(folder: Path) -> tuple[Any, Any, Manifest]:
    manifest = reading.read(folder).manifest
    core = openvino.Core()
    model = core.read_model(folder / manifest.graph("text").file)
    engine._unpack(model)
    return core, model, manifest


def broadcasts(model: Any) -> int:
    return sum(node.get_type_name() == "Broadcast" for node in model.get_ordered_ops())


@pytest.mark.parametrize("tokens", [0, 19], ids=["whole", "behind a prefix"])
def test_keys_and_values_are_not_repeated_and_scores_stay(tokens: int) -> None:
    core, model, manifest = read(prefixed_reranker())
    _, grouped, _ = read(prefixed_reranker())
    past = manifest.graph("text").past
    assert past is not None
    layers = int(past.axes[0]) // 2
    assert openvino_heads.group(grouped, openvino, "f32") == layers
    assert all(node.get_type_name() != "If" for node in grouped.get_ordered_ops())
    assert broadcasts(model) - broadcasts(grouped) == 4 * layers, "of keys and values, and of the prefix"
    random = np.random.default_rng(0)
    shape = [int(size) if isinstance(size, int) else tokens for size in past.axes]
    prefix = Prefix(tokens, random.standard_normal(shape).astype(np.float32)) if tokens else None
    rows = [random.integers(5, 60, tokens + length).tolist() for length in (30, 17, 1)]
    arrays = Feed(manifest.graph("text").inputs).arrays([Item(row, prefix=prefix) for row in rows])
    results = []
    for form in (model, grouped):
        request = core.compile_model(form, "CPU", SETTINGS).create_infer_request()
        request.infer(arrays)
        results.append(request.get_tensor(manifest.heads["classify"].output).data.copy())
    np.testing.assert_allclose(*results, atol=SAME, rtol=SAME)


def test_other_attention_stays_as_it_is(artifacts: Any) -> None:
    _, model, _ = read(artifacts("minilm_like"))
    before = len(model.get_ordered_ops())
    assert openvino_heads.group(model, openvino, "f32") == 0
    assert len(model.get_ordered_ops()) == before


@pytest.mark.parametrize(
    ("backend", "stored", "precision", "size", "tokens"),
    [
        ("openvino", "fp32", "bf16", 1 << 30, 96),
        ("openvino", "fp32", "fp32", 1 << 30, loader.CPU_LAUNCH),
        ("openvino", "fp32", "bf16", 90 << 20, loader.CPU_LAUNCH),  # 45 MB are read
        ("openvino", "int8", "int8", 90 << 20, 72),
        ("onnxruntime", "int8", None, 90 << 20, 40),
        ("onnxruntime", "int8", None, 20 << 20, loader.CPU_LAUNCH),
    ],
)
def test_a_launch_of_a_large_model_in_few_bits_is_worth_more_tokens(
    backend: table.Backend, stored: Precision, precision: Precision | None, size: int, tokens: int
) -> None:
    manifest = reading.read(prefixed_reranker()).manifest
    graph = replace(manifest.graph("text"), precision=stored)
    files = {**manifest.files, graph.file: replace(manifest.files[graph.file], size=size)}
    choice = table.Choice(backend, graph, precision=precision)
    assert loader._launch_tokens(replace(manifest, files=files), choice) == tokens

"""Which models get a graph that computes tokens behind a prefix, and the graph without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.engine import _padded
from poolrt.exporter.families import _decoders
from poolrt.exporter.families.registry import Past
from poolrt.exporter.graph import onnx_files, rewriting, tracing
from poolrt.exporter.graph.passes.signature import LowPrecision
from poolrt.exporter.heads import planning
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import KEPT, PAST, PRESENT
from poolrt.runtime.errors import CheckpointError

from tests.conftest import prefixed_reranker
from tests.families import find
from tests.families.proof import no_prefix

CAUSAL = {"qwen3_embedding": Past(2, 2, 32), "qwen2_apeach": Past(2, 1, 32), "bge_gemma": Past(2, 1, 32)}
# Both ways, a window of neighbours, heads of every token, another cache.
WHOLE = ("gte_qwen2", "e5_mistral", "embedding_gemma", "qwen2_process_reward", "gemma2_embedder")


def planned(name: str, folder: Path) -> planning.Plan:
    return planning.plan(checkpoint.read(find(name)(folder / name), recipe=None))


@pytest.mark.parametrize("name", CAUSAL)
def test_a_causal_decoder_with_a_head_on_its_last_token_takes_a_prefix(name: str, tmp_path: Path) -> None:
    assert planned(name, tmp_path).past == CAUSAL[name]


@pytest.mark.parametrize("name", WHOLE)
def test_models_that_read_texts_otherwise_take_none(name: str, tmp_path: Path) -> None:
    assert planned(name, tmp_path).past is None


HALF = 2e-3
"""Logits of size 1 of products in 16 bits, by kernels of several shapes."""
ROUNDING = 2e-6
"""Logits of size 1; padding is computed in one form and dropped in the other."""
DECODER = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64, "head_dim": 32}


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "mistral"},
        {"model_type": "mistral", "sliding_window": 64},
        {"model_type": "qwen2", "use_sliding_window": True},
        {"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]},
        {"model_type": "llama", "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"model_type": "llama", "is_causal": False},
        {"model_type": "gemma", "use_bidirectional_attention": True},
    ],
    ids=["default window", "window", "window of Qwen", "mixed layers", "dynamic", "not causal", "both ways"],
)
def test_attention_that_is_not_of_all_earlier_tokens_takes_none(settings: dict[str, object]) -> None:
    assert _decoders.past({**DECODER, **settings}) is None
    assert _decoders.past({**DECODER, "model_type": "mistral", "sliding_window": None}) == (2, 4, 32)


def test_a_model_that_attends_both_ways_is_refused_even_if_it_is_planned(tmp_path: Path) -> None:
    read = checkpoint.read(find("gte_qwen2")(tmp_path / "gte"), recipe=None)
    plan = replace(planning.plan(read), past=Past(2, 1, 32))
    with pytest.raises(CheckpointError, match="tokens of this model attend to later ones"):
        tracing.onnx_from_module(tracing.module(read, plan), plan, tmp_path / "model.onnx")


@pytest.mark.parametrize(("form", "close"), [("fp16", HALF), ("bf16", ROUNDING)], ids=["fp16", "wide"])
def test_lowered_graphs_compute_behind_a_prefix(form: LowPrecision, close: float, tmp_path: Path) -> None:
    folder = prefixed_reranker()
    graph = reading.read(folder).manifest.graph("text")
    model, path = ir.load(folder / graph.file), tmp_path / "model.onnx"
    rewriting.lower(model, form)
    onnx_files.save(model, path)
    if form == "bf16":
        rewriting.widen(model, path)
    session = onnxruntime.InferenceSession(path)
    output = reading.read(folder).manifest.heads["classify"].output
    nothing = no_prefix(session)
    ids = np.random.default_rng(1).integers(5, 60, (3, 31))
    ids[:, :12] = ids[0, :12]

    def run(columns: slice, outputs: list[str], more: dict[str, Any]) -> list[np.ndarray]:
        part = ids[:, columns]
        feeds = {"input_ids": part, "attention_mask": np.ones_like(part)} | more
        return [np.asarray(value) for value in session.run(outputs, feeds)]

    (expected,) = run(slice(None), [output], nothing)
    (prefix,) = run(slice(12), [PRESENT], nothing | {KEPT: np.arange(12)})
    (behind,) = run(slice(12, None), [output], nothing | {PAST: prefix[0]})
    assert prefix.shape[3] == 12
    np.testing.assert_allclose(behind, expected, atol=close, rtol=close)
    assert np.abs(run(slice(12, None), [output], nothing)[0] - expected).max() > 10 * close


def test_the_graph_of_engines_that_take_none_is_that_without_a_prefix() -> None:
    folder = prefixed_reranker()
    graph = reading.read(folder).manifest.graph("text")
    session = onnxruntime.InferenceSession(folder / graph.file)
    mask = (np.arange(30) < np.array([[30], [17], [1]])).astype(np.int64)
    feed = {"input_ids": np.random.default_rng(0).integers(5, 60, mask.shape), "attention_mask": mask}
    names = [tensor.name for tensor in graph.whole().outputs]
    expected = [np.asarray(value) for value in session.run(names, feed | no_prefix(session))]
    with _padded(folder, graph) as path:
        whole = onnxruntime.InferenceSession(path)
        assert [value.name for value in whole.get_inputs()] == list(feed)
        assert [value.name for value in whole.get_outputs()] == names
        results = [np.asarray(value) for value in whole.run(names, feed)]
    for result, value, name in zip(results, expected, names, strict=True):
        kept = mask == 1 if "token" in name else slice(None)
        np.testing.assert_allclose(result[kept], value[kept], atol=ROUNDING, rtol=ROUNDING)


def test_the_graph_of_engines_has_the_prefix_and_no_packing() -> None:
    folder = prefixed_reranker()
    graph = reading.read(folder).manifest.graph("text")
    assert graph.packed
    with _padded(folder, graph, prefixes=True) as path:
        kinds = {node.op_type for node in ir.load(path).graph}
        assert not kinds & {"If", "NonZero", "ScatterND"}, "shapes depend on the mask, or on the batch"
        padded = onnxruntime.InferenceSession(path)
        assert [value.name for value in padded.get_inputs()] == [tensor.name for tensor in graph.inputs]
    packed = onnxruntime.InferenceSession(folder / graph.file)
    output = reading.read(folder).manifest.heads["classify"].output
    mask = (np.arange(20) < np.array([[20], [9], [1]])).astype(np.int64)
    random = np.random.default_rng(0)
    feed = {
        "input_ids": random.integers(5, 60, mask.shape),
        "attention_mask": mask,
        PAST: random.normal(size=(4, 2, 16, 32)).astype(np.float32),
        KEPT: np.arange(20),
    }
    (score, present), (expected, keys) = (
        [np.asarray(value) for value in session.run([output, PRESENT], feed)] for session in (padded, packed)
    )
    np.testing.assert_allclose(score, expected, atol=ROUNDING, rtol=ROUNDING)
    own = np.broadcast_to(mask[:, None, None, :, None] == 1, keys.shape)
    np.testing.assert_allclose(present[own], keys[own], atol=ROUNDING, rtol=ROUNDING)

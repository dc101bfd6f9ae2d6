from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.base import large
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import head_modules, planning
from poolrt.exporter.heads.head_modules import Tokens

Paths = Callable[[str], Path]
Built = tuple[planning.Plan, tracing.PoolingModel]


@pytest.fixture(scope="module")
def built(checkpoints: Paths) -> Built:
    read = checkpoint.read(checkpoints("bert_plain"))
    plan = planning.plan(read)
    return plan, tracing.module(read, plan)


@pytest.fixture(scope="module")
def exported(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    return path, tracing.onnx_from_module(built[1], built[0], path)


def test_nodes_are_named_by_their_modules_and_hold_no_other_note(exported: tuple[Path, Any]):
    nodes = onnx.load(exported[0]).graph.node
    modules = {node.name.rpartition("/")[0] for node in nodes}
    assert {"backbone.model.embeddings", "backbone.model.encoder.layer.1.attention.self", "heads"} <= modules
    assert not any(node.metadata_props or node.doc_string for node in nodes)
    assert len({node.name for node in nodes}) == len(nodes)


def test_the_graph_has_the_interface_it_says(exported: tuple[Path, Any]):
    path, described = exported
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert (
        {entry.domain: entry.version for entry in model.opset_import}[""] == tracing.OPSET == described.opset
    )
    for value, tensor in zip(
        (*model.graph.input, *model.graph.output), (*described.inputs, *described.outputs), strict=True
    ):
        axes = tuple(axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim)
        assert (value.name, axes) == (tensor.name, tensor.axes)


def test_the_file_tells_nothing_of_the_machine_that_made_it(exported: tuple[Path, Any]):
    content = exported[0].read_bytes()
    for trace in (b"site-packages", b".py", str(Path.home()).encode(), b"pkg.torch"):
        assert trace not in content


def test_the_same_checkpoint_gives_the_same_bytes(exported: tuple[Path, Any], built: Built, tmp_path: Path):
    tracing.onnx_from_module(built[1], built[0], tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == exported[0].read_bytes()


def test_a_large_model_keeps_its_weights_beside_the_graph(
    exported: tuple[Path, Any], built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(large, "FILE_BYTES", 1000)
    described = tracing.onnx_from_module(built[1], built[0], tmp_path / "model.onnx")
    assert described.external == ("model.data",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.data", "model.onnx"]
    assert (tmp_path / "model.onnx").stat().st_size < exported[0].stat().st_size / 2
    feed = {name: np.ones((2, 5), dtype=np.int64) for name in built[0].inputs}
    one, other = (
        onnxruntime.InferenceSession(path).run(None, feed)[0]
        for path in (tmp_path / "model.onnx", exported[0])
    )
    np.testing.assert_array_equal(one, other)


HIDDEN = torch.randn((2, 4, 3), generator=torch.Generator().manual_seed(0))
WHOLE, SHORT = HIDDEN[0].numpy(), HIDDEN[1, :2].numpy()
EXPECTED: dict[str, Callable[[Any], Any]] = {
    "cls": lambda rows: rows[0],
    "mean": lambda rows: rows.mean(0),
    "max": lambda rows: rows.max(0),
    "mean_sqrt_len": lambda rows: rows.sum(0) / np.sqrt(len(rows)),
    "weightedmean": lambda rows: np.average(rows, axis=0, weights=np.arange(1, len(rows) + 1)),
    "last": lambda rows: rows[-1],
    "splade": lambda rows: np.log1p(np.maximum(rows, 0)).max(0),
}


@pytest.mark.parametrize("pool", EXPECTED)
def test_pooling_looks_at_attended_tokens_alone(pool: Any):
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = head_modules.POOLS[pool](HIDDEN, Tokens(mask, mask)).numpy()
    np.testing.assert_allclose(found, [EXPECTED[pool](WHOLE), EXPECTED[pool](SHORT)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pool", [pool for pool in EXPECTED if pool != "cls"])
def test_padding_may_stand_on_the_left(pool: Any):
    left = torch.cat([HIDDEN[1:, 2:], HIDDEN[1:, :2]], dim=1)
    mask = torch.tensor([[0, 0, 1, 1]])
    found = head_modules.POOLS[pool](left, Tokens(mask, mask)).numpy()
    np.testing.assert_allclose(found, [EXPECTED[pool](SHORT)], rtol=1e-5, atol=1e-6)

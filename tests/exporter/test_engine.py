"""Everything that enters the house compiles with TensorRT-RTX, which needs no GPU for that."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import onnx
import pytest
from onnx import TensorProto, helper
from poolrt.exporter import engine
from poolrt.exporter.engine import Target
from poolrt.exporter.graph.rewriting import mixed_from_onnx
from poolrt.exporter.profiles import (
    BATCH_KEYS,
    BATCH_TOKENS,
    PREFIX_TOKENS,
    behind_prefixes,
    longest_prefix,
    profiles,
    shapes_of,
    sizes,
)
from poolrt.runtime import machine
from poolrt.runtime.artifact.manifest import KEPT, PAST, PRESENT, Graph, Tensor
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.engines import trt_library
from poolrt.runtime.engines.cuda_graphs import shape_of
from poolrt.runtime.errors import ArtifactError, EngineError, InputError

from tests import checkpoints as tiny
from tests.conftest import prefixed_reranker
from tests.runtime import picture_models

SM89 = Target("tensorrt-rtx", "sm89")


@pytest.fixture(autouse=True)
def _compiler() -> None:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install 'poolrt[tensorrt-rtx]'"
    )


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", list(tiny.ALL))
def test_every_tiny_checkpoint_compiles(
    artifacts: Callable[[str], Path], tmp_path: Path, name: str, precision: str
) -> None:
    opened = read(artifacts(name))
    graph = dataclasses.replace(opened.manifest.graph("text"), precision=precision)
    if precision == "fp32":
        (tmp_path / graph.file).write_bytes((opened.folder / graph.file).read_bytes())
    else:
        mixed_from_onnx(opened.folder / graph.file, tmp_path / graph.file, "fp16")
    made = engine.engine_from_onnx(
        tmp_path, graph, engine.check(SM89), max_tokens=opened.manifest.text.max_tokens
    )
    version = trt_library.library("tensorrt-rtx").__version__
    assert made.file == f"engines/tensorrt-rtx-sm89-{version}-{precision}/model.engine"
    assert (tmp_path / made.file).stat().st_size > 10_000
    assert made.profiles[-1].largest[1] == opened.manifest.text.max_tokens


def test_both_graphs_of_a_model_with_pictures_compile(tmp_path: Path) -> None:
    """From (batch, length) alone come the shapes of features, patches and positions."""
    opened = read(picture_models.write(tmp_path))
    compiled = [
        engine.engine_from_onnx(
            opened.folder, graph, engine.check(SM89), max_tokens=64, images=opened.manifest.images
        )
        for graph in opened.manifest.graphs
    ]
    assert [made.graph for made in compiled] == ["text.onnx", "vision.onnx"]
    assert all((opened.folder / made.file).stat().st_size > 1_000 for made in compiled)
    assert compiled[0].profiles[-1].largest == (128, 64)
    assert compiled[1].profiles[-1].largest == (128, 128), "64 * 32 pixels, 16 of a patch"


def test_of_two_graphs_the_lowered_one_is_compiled(artifacts: Callable[[str], Path]) -> None:
    manifest = read(artifacts("minilm_like")).manifest
    exact = manifest.graph("text")
    lowered = dataclasses.replace(exact, precision="bf16")
    assert engine.compilable(manifest) == exact
    assert engine.compilable(dataclasses.replace(manifest, graphs=(exact, lowered))) == lowered
    with pytest.raises(ArtifactError, match="no text graph in fp32"):
        engine.compilable(
            dataclasses.replace(manifest, graphs=(dataclasses.replace(exact, precision="int8"),))
        )


@pytest.mark.parametrize("max_tokens", [1, 32, 33, 128, 256, 512, 514, 8192, 131072])
def test_profiles_take_every_length_and_no_more(max_tokens: int) -> None:
    shapes = profiles(max_tokens)
    assert shapes[-1].largest[1] == max_tokens
    assert [shape.largest[1] for shape in shapes] == sorted({shape.largest[1] for shape in shapes})
    for shape in shapes:
        assert shape.smallest == (1, 1)
        assert all(
            least <= best <= most
            for least, best, most in zip(shape.smallest, shape.best, shape.largest, strict=True)
        )
        assert shape.largest[0] * shape.largest[1] <= max(BATCH_TOKENS, max_tokens)


def _decoder(layers: int = 28, heads: int = 8, width: int = 128) -> Graph:
    """The record of a causal decoder's graph, of Qwen3-0.6B's shape."""
    tokens = (Tensor(name="input_ids", dtype="int64", axes=("batch", "tokens")),)
    past = Tensor(name=PAST, dtype="float32", axes=(2 * layers, heads, PAST, width))
    kept = Tensor(name=KEPT, dtype="int64", axes=(KEPT,))
    present = Tensor(name=PRESENT, dtype="float32", axes=("batch", 2 * layers, heads, KEPT, width))
    return Graph(
        file="model.onnx", precision="fp32", opset=20, inputs=(*tokens, past, kept), outputs=(present,)
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_causal_decoder_compiles_with_its_prefix(
    tmp_path: Path, precision: Literal["fp32", "bf16"]
) -> None:
    folder = prefixed_reranker()
    graph = dataclasses.replace(read(folder).manifest.graph("text"), precision=precision)
    if precision == "fp32":
        (tmp_path / graph.file).write_bytes((folder / graph.file).read_bytes())
    else:
        mixed_from_onnx(folder / graph.file, tmp_path / graph.file, precision)
        graph = dataclasses.replace(graph, packed=False)
    compiled = engine.engine_from_onnx(tmp_path, graph, engine.check(SM89), max_tokens=1024)
    assert (tmp_path / compiled.file).stat().st_size > 10_000
    assert compiled.past == 1008, "a text has a token of its own, and prefixes are multiples of 16 tokens"
    assert compiled.reads(graph) == graph
    if precision == "bf16":
        short = engine.engine_from_onnx(tmp_path, graph, engine.check(SM89), max_tokens=16)
        assert (short.past, short.reads(graph)) == (0, graph.whole())


def test_profiles_behind_prefixes_are_bounded() -> None:
    graph = _decoder()
    plain, shapes = profiles(32768), shapes_of(graph, 32768, None)
    whole = [shape for shape in shapes if not shape.past]
    *behind, prefix = [shape for shape in shapes if shape.past]
    assert [shape.largest[1] for shape in behind] == [shape.largest[1] for shape in plain]
    assert {shape.past for shape in (*behind, prefix)} == {1168}
    assert whole == list(plain[: len(whole)]), "rows of short texts are as many as without prefixes"
    assert all(
        shape.largest == other.largest for shape, other in list(zip(behind, plain, strict=True))[len(whole) :]
    )
    for shape in behind:
        rows, width = shape.largest
        assert rows == 1 or rows * (shape.past + width) <= BATCH_KEYS
        assert 1 <= shape.best[0] <= rows
    assert (prefix.returns_past, prefix.largest) == (True, (1, 1168))
    assert not any(shape.returns_past for shape in shapes[:-1])
    (present,) = graph.outputs
    for shape in shapes:
        for size in sizes(shape):
            assert shape_of(present.axes, size)[3] == (size.width if shape.returns_past else 0)
        assert [size.past for size in sizes(shape)] == [0, min(256, shape.past), shape.past]
    assert behind_prefixes(plain, 0) == plain


@pytest.mark.parametrize(
    ("graph", "max_tokens", "longest"),
    [
        (_decoder(), 40960, 1168),
        (_decoder(layers=36), 40960, 896),
        (_decoder(layers=18, heads=1, width=256), 8192, PREFIX_TOKENS),
        (_decoder(), 512, 496),
        (_decoder(), 17, 16),
        (_decoder(), 16, 0),
        (_decoder().whole(), 8192, 0),
    ],
    ids=["0.6B", "4B", "narrow", "short", "least", "shorter", "whole"],
)
def test_the_longest_prefix_is_bounded_in_tokens_and_bytes(
    graph: Graph, max_tokens: int, longest: int
) -> None:
    assert longest_prefix(graph, max_tokens) == longest


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (["onnx"], []),
        (["tensorrt-rtx:sm89"], [SM89]),
        (["onnx", "tensorrt-rtx:sm89,SM_120"], [SM89, Target("tensorrt-rtx", "sm120")]),
        (["tensorrt-rtx"], [Target("tensorrt-rtx")]),
        (["tensorrt", "tensorrt"], [Target("tensorrt")]),
        (["openvino", "onnx"], [Target("openvino")]),
    ],
    ids=str,
)
def test_targets_are_read(asked: list[str], found: list[Target]) -> None:
    assert engine.targets(asked) == found


@pytest.mark.parametrize(
    "asked",
    ["", "trt", "tensorrt:sm89", "tensorrt-rtx:ada", "tensorrt-rtx:", "onnx:sm89", "openvino:bf16"],
    ids=repr,
)
def test_a_target_that_does_not_exist_is_told(asked: str) -> None:
    if asked == "tensorrt-rtx:":
        assert engine.targets([asked]) == [Target("tensorrt-rtx")]
        return
    with pytest.raises(InputError, match="target"):
        engine.targets([asked])


def test_a_gpu_family_the_library_does_not_know_is_told() -> None:
    with pytest.raises(EngineError, match=r"sm70.*not sm70|not sm70"):
        engine.check(Target("tensorrt-rtx", "sm70"))


@pytest.mark.skipif(bool(machine.gpus()), reason="there is a GPU")
@pytest.mark.parametrize(
    ("target", "told"),
    [(Target("tensorrt"), "needs an NVIDIA GPU"), (Target("tensorrt-rtx"), "name a family")],
    ids=str,
)
def test_without_a_gpu_it_is_said_before_any_work(target: Target, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        engine.check(target)


def _graph(tmp_path: Path, node: onnx.NodeProto, *, precision: str = "fp32") -> Graph:
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])
    out = helper.make_tensor_value_info("out_embed", TensorProto.FLOAT, ["batch", "tokens"])
    nodes = [helper.make_node("Cast", ["input_ids"], ["x"], to=TensorProto.FLOAT), node]
    model = helper.make_model(
        helper.make_graph(nodes, "g", [ids], [out]),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("made.up", 1)],
    )
    onnx.save(model, tmp_path / "model.onnx")
    return Graph(
        file="model.onnx",
        precision=precision,  # type: ignore[arg-type]
        opset=20,
        inputs=(Tensor(name="input_ids", dtype="int64", axes=("batch", "tokens")),),
        outputs=(Tensor(name="out_embed", dtype="float32", axes=("batch", "tokens")),),
    )


def test_what_the_parser_refuses_is_told_with_its_node(tmp_path: Path) -> None:
    graph = _graph(
        tmp_path, helper.make_node("Frobnicate", ["x"], ["out_embed"], name="the culprit", domain="made.up")
    )
    with pytest.raises(EngineError, match="Frobnicate"):
        engine.engine_from_onnx(tmp_path, graph, SM89, max_tokens=8)
    assert not (tmp_path / "engines").exists()


def test_a_graph_that_is_not_of_its_precision_is_refused(tmp_path: Path) -> None:
    graph = _graph(tmp_path, helper.make_node("MatMul", ["x", "x"], ["out_embed"]), precision="fp16")
    with pytest.raises(EngineError, match="expected fp16"):
        engine.engine_from_onnx(tmp_path, graph, SM89, max_tokens=8)

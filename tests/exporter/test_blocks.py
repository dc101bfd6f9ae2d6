"""Attention of long texts in blocks. The graph without blocks is the truth, and for real lengths the class of
transformers. Which keys a window admits is read from masks that ONNX Runtime computes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import parser
from poolrt.exporter.graph import rewriting
from poolrt.exporter.graph.attention import windows
from poolrt.exporter.graph.attention.windows import Window
from poolrt.exporter.graph.passes import blocks, unpacking
from poolrt.exporter.graph.passes.signature import PassOptions
from poolrt.exporter.graph.passes.surgery import heads
from poolrt.runtime.answers.scoring import activate
from poolrt.runtime.artifact.manifest import KEPT, PAST, PRESENT
from poolrt.runtime.engines.openvino import _unpack
from transformers import AutoModel

from tests.conftest import prefixed_reranker
from tests.exporter.graphs import Exported
from tests.families.proof import COSINE, cosines, no_prefix

# float32 sums of keys in another order, through a few layers of values around 1.
ROUNDING = 2e-5
# Of a score, behind a prefix as without one.
EXACT = 1e-6
# Rounding moves an activation over the edge between two levels of int8 now and then.
LEVELS = 0.999
LONG, QUERIES, NEAR_QUERIES = 16, 8, 4
LENGTHS = (16, 17, 23, 24, 25, 40)
"""The longest that is not cut; then texts that end behind, at and in front of the end of a block."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few tokens, so that short texts have several."""
    monkeypatch.setattr(blocks, "LONG", LONG)
    monkeypatch.setattr(blocks, "QUERIES", QUERIES)
    monkeypatch.setattr(blocks, "NEAR_QUERIES", NEAR_QUERIES)


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of a causal reranker that takes a prefix, without blocks."""
    model = ir.load(prefixed_reranker() / "model.onnx")
    assert unpacking.run(model, PassOptions()).changes
    path = tmp_path_factory.mktemp("reranker") / "whole.onnx"
    ir.save(model, path)
    return path


def cut(source: Path, target: Path, longest: int = 10_000) -> int:
    model = ir.load(source)
    changes = blocks.run(model, PassOptions(longest=longest)).changes
    ir.save(model, target)
    return changes


def feed(path: Path, shape: tuple[int, int], lengths: tuple[int, ...]) -> dict[str, NDArray[np.int64]]:
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(shape[1]).integers(10, 60, shape) * mask
    names = {value.name for value in ir.load(path).graph.inputs}
    return {name: array for name, array in (("input_ids", ids), ("attention_mask", mask)) if name in names}


def run(path: Path, feed: dict[str, Any], output: str = "out_token_embed") -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(path)
    return np.asarray(session.run([output], no_prefix(session) | feed)[0])


@pytest.mark.usefixtures("small")
def test_blocks_change_no_answer(exported: Exported, tmp_path: Path) -> None:
    layers = sum(node.op_type == "Softmax" for node in ir.load(exported.path).graph)
    assert cut(exported.path, tmp_path / "cut.onnx") == layers
    for width in LENGTHS:
        lengths = (width, max(1, width // 3))
        batch = feed(exported.path, (2, width), lengths)
        ours, expected = run(tmp_path / "cut.onnx", batch), run(exported.path, batch)
        for row, other, length in zip(ours, expected, lengths, strict=True):
            np.testing.assert_allclose(row[:length], other[:length], atol=ROUNDING, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("before", "behind"),
    [(1, 30), (7, 17), (8, 16), (16, 9), (17, 40), (60, 3), (50, 50)],
)
@pytest.mark.usefixtures("small")
def test_texts_behind_a_prefix_have_the_scores_of_whole_texts(
    reranker: Path, before: int, behind: int, tmp_path: Path
) -> None:
    """Blocks or not, in the prefix and behind it."""
    split(reranker, tmp_path, before, behind)


def test_a_long_text_behind_a_long_prefix_has_its_score(reranker: Path, tmp_path: Path) -> None:
    """Blocks of the real size."""
    split(reranker, tmp_path, 600, 700)


def split(source: Path, folder: Path, before: int, behind: int) -> None:
    """Compares the scores of two rows, one shorter, with those of the graph without blocks on whole texts."""
    assert cut(source, folder / "cut.onnx")
    session = onnxruntime.InferenceSession(folder / "cut.onnx")
    batch = feed(source, (2, before + behind), (before + behind, before + max(1, behind // 3)))
    batch["input_ids"][1, :before] = batch["input_ids"][0, :before]
    first = {name: array[:1, :before] for name, array in batch.items()}
    first |= no_prefix(session) | {KEPT: np.arange(before)}
    (past,) = np.asarray(session.run([PRESENT], first)[0])
    rest = {name: array[:, before:] for name, array in batch.items()}
    (ours,) = session.run(["out_classify"], rest | {PAST: past, KEPT: np.arange(0)})
    expected = run(source, batch, "out_classify")
    scores, truth = activate("sigmoid", np.asarray(ours)), activate("sigmoid", expected)
    np.testing.assert_allclose(scores, truth, atol=EXACT, rtol=EXACT)


@pytest.mark.usefixtures("small")
def test_no_long_text_computes_a_score_for_all_pairs(exported: Exported, tmp_path: Path) -> None:
    """Of the nodes that run, none has a result for each pair of tokens."""
    cut(exported.path, tmp_path / "cut.onnx")
    model = ir.load(tmp_path / "cut.onnx")
    assert not any(node.op_type == "Softmax" for node in model.graph)
    square = [value for node in model.graph for value in node.outputs if str(value.shape).count("tokens") > 1]
    assert {(value.producer() or pytest.fail("computed by no node")).op_type for value in square} <= {"If"}
    model.graph.outputs.extend(square)
    ir.save(model, tmp_path / "shown.onnx")
    batch = feed(exported.path, (1, 40), (40,))
    session = onnxruntime.InferenceSession(tmp_path / "shown.onnx")
    names = [value.name for value in square]  # none where the mask has no row for each token
    shown = session.run(names, no_prefix(session) | batch) if names else []
    assert {np.asarray(array).size for array in shown} <= {1}


def test_texts_that_are_never_long_keep_the_graph(exported: Exported, tmp_path: Path) -> None:
    model = ir.load(exported.path)
    before = [(node.op_type, node.name) for node in model.graph]
    assert blocks.run(model, PassOptions(longest=blocks.LONG)).changes == 0
    assert blocks.run(model, PassOptions()).changes == 0
    assert [(node.op_type, node.name) for node in model.graph] == before


def test_engines_and_lower_precisions_get_the_graph_without_blocks(
    exported: Exported, tmp_path: Path
) -> None:
    cut(exported.path, tmp_path / "cut.onnx")
    model = ir.load(tmp_path / "cut.onnx")
    unpacking.run(model, PassOptions())
    assert not {"If", "Loop"} & {node.op_type for node in model.graph}
    ir.save(model, tmp_path / "joined.onnx")
    batch = feed(exported.path, (2, 40), (40, 9))
    np.testing.assert_array_equal(
        run(tmp_path / "joined.onnx", batch, "out_embed"), run(exported.plain, batch, "out_embed")
    )
    kinds: list[Counter[str]] = []
    for source in (tmp_path / "cut.onnx", exported.path):
        rewriting.mixed_from_onnx(source, tmp_path / "half.onnx", "fp16")
        lowered = ir.load(tmp_path / "half.onnx").graph
        kinds.append(Counter(node.op_type for node in lowered))
    assert kinds[0] == kinds[1]
    assert kinds[0]["Softmax"]


@pytest.mark.usefixtures("small")
def test_int8_keeps_the_blocks(exported: Exported, tmp_path: Path) -> None:
    cut(exported.path, tmp_path / "cut.onnx")
    rewriting.int8_from_onnx(exported.path, tmp_path / "short.onnx")
    quantised = rewriting.int8_from_onnx(tmp_path / "cut.onnx", tmp_path / "long.onnx")
    assert quantised.products
    assert any(node.op_type == "If" for node in ir.load(tmp_path / "long.onnx").graph)
    for width in (9, 40):
        batch = feed(exported.path, (2, width), (width, width // 2))
        short, long = (list(run(tmp_path / f"{name}.onnx", batch, "out_embed")) for name in ("short", "long"))
        assert cosines(short, long, of="").min() > LEVELS


@pytest.mark.usefixtures("small")
def test_a_head_ends_at_the_attention_in_blocks(exported: Exported) -> None:
    model = ir.load(exported.path)
    expected = {node.name for node in heads(model.graph)}
    blocks.run(model, PassOptions(longest=10_000))
    assert {node.name for node in heads(model.graph)} == expected


@pytest.mark.usefixtures("small")
def test_openvino_takes_attention_as_it_was(exported: Exported, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    cut(exported.path, tmp_path / "cut.onnx")
    core = openvino.Core()
    model = core.read_model(tmp_path / "cut.onnx")
    _unpack(model)
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    kinds = {node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()}
    assert not {"If", "Loop", "TensorIterator"} & kinds
    batch = feed(exported.path, (2, 40), (40, 9))
    answer = compiled.create_infer_request().infer(batch)["out_embed"]
    np.testing.assert_allclose(answer, run(exported.path, batch, "out_embed"), atol=ROUNDING, rtol=ROUNDING)


CONDITIONS: dict[str, tuple[str, Window]] = {
    "causal": ("c = LessOrEqual(k, q)", Window(None, 0)),
    "causal, turned": ("c = GreaterOrEqual(q, k)", Window(None, 0)),
    "the future alone": ("c = Less(q, k)", Window(1, None)),
    "sliding": ("d = Sub(q, five)\n a = Less(d, k)\n b = LessOrEqual(k, q)\n c = And(a, b)", Window(-4, 0)),
    "sliding, by the sum": ("d = Add(k, five)\n a = Greater(d, q)\n c = And(a, true)", Window(-4, None)),
    "both ways": ("d = Sub(q, k)\n a = Abs(d)\n c = LessOrEqual(a, five)", Window(-5, 5)),
    "both ways, less": ("d = Sub(k, q)\n a = Abs(d)\n c = Less(a, five)", Window(-4, 4)),
    "either": (
        "d = Sub(q, k)\n a = Abs(d)\n b = Less(a, two)\n e = LessOrEqual(k, q)\n f = Sub(q, five)\n"
        " g = LessOrEqual(f, k)\n h = And(e, g)\n c = Or(b, h)",
        Window(-5, 1),
    ),
    "one of them unread": ("a = Equal(q, k)\n b = LessOrEqual(k, q)\n c = Or(a, b)", Window()),
    "not read": ("a = LessOrEqual(k, q)\n c = Not(a)", Window()),
}  # fmt: skip


@pytest.mark.parametrize(("text", "window"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_a_window_is_what_the_mask_admits(text: str, window: Window) -> None:
    tokens = 24
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (int64 n) => (float[1,1,T,T] y) <int64 zero={0}, int64 one={1}, int64 five={5}, int64 two={2}, "
        "bool true={1}, int64[3] rows={0,1,3}, int64[3] columns={0,1,2}, float none={0}, float never={-1e38}>"
        "{ r = Range(zero, n, one)\n q = Unsqueeze(r, rows)\n k = Unsqueeze(r, columns)\n"
        f" {text}\n y = Where(c, none, never) }}"
    )
    mask = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"n": np.array(tokens)})[0]
    rows, keys = np.nonzero(np.asarray(mask)[0, 0] == 0)
    graph = ir.from_proto(model).graph
    for node in graph:
        (value,) = node.outputs
        if value.name in ("q", "k"):
            value.shape = ir.Shape([1, 1, "tokens", 1] if value.name == "q" else [1, 1, 1, "tokens"])
    read = windows.of_added(graph.outputs[0])
    assert read == window
    bounds = (keys - rows).min(), (keys - rows).max()
    for bound, edge in zip((read.first, read.last), bounds, strict=True):
        assert bound is None or bound == edge


BEHIND: dict[str, tuple[str, Window]] = {
    "causal": ("c = LessOrEqual(k, q)", Window(None, 0)),
    "sliding": ("d = Sub(q, five)\n a = Less(d, k)\n b = LessOrEqual(k, q)\n c = And(a, b)", Window(-4, 0)),
    "keys counted behind the prefix": ("e = Sub(k, before)\n c = LessOrEqual(e, own)", Window(None, 0)),
    "queries counted from zero": ("c = LessOrEqual(k, own)", Window()),
}  # fmt: skip


@pytest.mark.parametrize(("text", "window"), BEHIND.values(), ids=BEHIND.keys())
def test_a_window_behind_a_prefix_is_around_a_querys_own_key(text: str, window: Window) -> None:
    tokens, before = 24, 7
    model = parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 20]>\n'
        "g (int64 n, float[2,1,past,4] past) => (float[1,1,T,K] y) <int64 zero={0}, int64 one={1}, "
        "int64 five={5}, int64[1] columns={1}, int64[2] rows={0,1}, float none={0}, float never={-1e38}>"
        "{ size = Shape<start=2, end=3>(past)\n before = Squeeze(size)\n r = Range(zero, n, one)\n"
        " own = Unsqueeze(r, columns)\n shifted = Add(r, before)\n q = Unsqueeze(shifted, columns)\n"
        f" all = Add(n, before)\n k = Range(zero, all, one)\n {text}\n wide = Unsqueeze(c, rows)\n"
        " y = Where(wide, none, never) }"
    )
    feed = {"n": np.array(tokens), "past": np.zeros((2, 1, before, 4), np.float32)}
    mask = onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], feed)[0]
    rows, keys = np.nonzero(np.asarray(mask)[0, 0] == 0)
    graph = ir.from_proto(model).graph
    own, key = ["tokens", 1], ["tokens + past"]
    shapes: dict[str, list[Any]] = {"q": own, "own": own, "d": own, "k": key, "e": key}
    for node in graph:
        (value,) = node.outputs
        known = shapes.get(value.name or "", ["tokens", "tokens + past"])
        value.shape = ir.Shape(known if value.name != "wide" else [1, 1, *known])
    assert windows.of_added(graph.outputs[0]) == window
    bounds = (keys - rows - before).min(), (keys - rows - before).max()
    for bound, edge in zip((window.first, window.last), bounds, strict=True):
        assert bound is None or bound == edge


def test_a_text_longer_than_a_block_is_what_transformers_says_of_it(
    exported: Exported, tmp_path: Path
) -> None:
    """Blocks of the real size, both kinds of layers."""
    if "position" in str(list(ir.load(exported.path).graph.initializers)):
        pytest.skip("its table of positions ends before")
    cut(exported.path, tmp_path / "cut.onnx")
    compared(exported, tmp_path / "cut.onnx", (700, 601))


def compared(exported: Exported, path: Path, lengths: tuple[int, ...]) -> None:
    batch = feed(path, (len(lengths), max(lengths)), lengths)
    model = AutoModel.from_pretrained(exported.checkpoint, attn_implementation="sdpa").eval()
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(array) for name, array in batch.items()}).last_hidden_state
    ours = run(path, batch)
    for row, other, length in zip(ours, expected.numpy(), lengths, strict=True):
        assert cosines([row[:length]], [other[:length]]).min() > COSINE


SHOWN = """
import resource, sys
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads, options.enable_mem_pattern = 1, False
session = onnxruntime.InferenceSession(sys.argv[1], options)
ids = np.random.default_rng(0).integers(10, 60, (1, int(sys.argv[2])))
feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
for value in session.get_inputs()[2:]:
    sizes = [size if isinstance(size, int) else 0 for size in value.shape]
    feed[value.name] = np.zeros(sizes, "float32" if "float" in value.type else "int64")
session.run(["out_embed"], feed)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modernbert_embedder", "qwen3_embedding"])
def test_8192_tokens_are_what_transformers_says_and_take_little_memory(name: str, tmp_path: Path) -> None:
    """The scores of the plain graph would be 0.5 GB, and its mask 1 GB more."""
    exported = Exported(tmp_path, name)
    cut(exported.path, tmp_path / "cut.onnx")
    compared(exported, tmp_path / "cut.onnx", (8192,))
    short, long = (
        int(subprocess.check_output([sys.executable, "-c", SHOWN, tmp_path / "cut.onnx", str(tokens)]))
        for tokens in (16, 8192)
    )
    assert long - short < 200 << 10, "kilobytes"

"""Packed graphs: padding is dropped, and nothing else changes. The truth is transformers' own
class, on each text alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from poolrt.exporter import checkpoint
from poolrt.exporter.engine import _padded
from poolrt.exporter.graph import tracing
from poolrt.exporter.graph.passes import unpacking
from poolrt.exporter.graph.passes.signature import PassOptions
from poolrt.exporter.graph.passes.surgery import constant_of
from poolrt.exporter.graph.passes.surgery import heads as final
from poolrt.exporter.graph.rewriting import mixed_from_onnx
from poolrt.exporter.heads import planning
from poolrt.runtime.artifact.manifest import Graph
from transformers import AutoModel

from tests.exporter.graphs import Exported
from tests.families import find
from tests.families.proof import no_prefix

# float32 products summed in another order, through a few layers of values around 1.
ROUNDING = 2e-5
LENGTHS = (5, 9, 1, 7)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("encoder"), "distilbert_embedder")


def batch(described: Graph, mask: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    ids = np.random.default_rng(0).integers(10, 60, mask.shape) * mask
    given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {tensor.name: given[tensor.name] for tensor in described.whole().inputs}


def ragged(described: Graph, lengths: tuple[int, ...] = LENGTHS) -> dict[str, NDArray[np.int64]]:
    return batch(described, (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64))


def ask(path: Path, feed: dict[str, Any], *outputs: str) -> list[Any]:
    session = onnxruntime.InferenceSession(path)
    return list(session.run(list(outputs), feed | no_prefix(session)))


def nodes(path: Path) -> list[tuple[str, list[str | None], list[str | None], list[str]]]:
    """Every node with what it reads and writes, and the shapes of that."""
    model = ir.load(path)
    unpacking.run(model, PassOptions())
    return [
        (
            node.op_type,
            [value.name if value is not None else None for value in node.inputs],
            [value.name for value in node.outputs],
            [str(value.shape) for value in node.outputs],
        )
        for node in model.graph
    ]


def test_each_text_of_a_ragged_batch_is_what_transformers_says_of_it_alone(exported: Exported) -> None:
    assert exported.described.packed
    feed = ragged(exported.described)
    (found,) = ask(exported.path, feed, "out_token_embed")
    model = AutoModel.from_pretrained(exported.checkpoint, attn_implementation="eager").eval()
    for ids, row, length in zip(feed["input_ids"], found, LENGTHS, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor(ids[None, :length])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(row[:length], expected, atol=ROUNDING, rtol=ROUNDING)


def test_pooled_answers_are_those_of_the_padded_graph(exported: Exported) -> None:
    feed = ragged(exported.described)
    (found,), (expected,) = (ask(path, feed, "out_embed") for path in (exported.path, exported.plain))
    np.testing.assert_allclose(found, expected, atol=ROUNDING, rtol=ROUNDING)


def test_unpacking_gives_back_the_graph_as_it_was(exported: Exported) -> None:
    assert nodes(exported.path) == nodes(exported.plain)


def test_the_mask_may_have_holes(encoder: Exported) -> None:
    mask = np.array([[1, 0, 1, 1, 0], [0, 1, 1, 0, 0]], np.int64)
    feed = batch(encoder.described, mask)
    (found,), (expected,) = (ask(path, feed, "out_token_embed") for path in (encoder.path, encoder.plain))
    np.testing.assert_allclose(found[mask == 1], expected[mask == 1], atol=ROUNDING, rtol=ROUNDING)


def test_products_compute_no_row_of_padding(encoder: Exported, tmp_path: Path) -> None:
    model = ir.load(encoder.path)
    weighted = [
        node.outputs[0]
        for node in model.graph
        if node.op_type == "MatMul" and constant_of(node.inputs[1]) is not None
    ]
    assert len(weighted) >= 12
    model.graph.outputs.extend(weighted)
    ir.save(model, tmp_path / "told.onnx")
    feed = ragged(encoder.described)
    for product in ask(tmp_path / "told.onnx", feed, *(value.name or "" for value in weighted)):
        assert product.shape[0] == sum(LENGTHS)


def test_what_is_pooled_is_not_packed(tmp_path: Path) -> None:
    """The logits of a SPLADE head are as wide as the vocabulary: one more copy
    would be the largest of all."""
    (tmp_path / "checkpoint").mkdir()
    read = checkpoint.read(find("splade_bert")(tmp_path / "checkpoint"))
    plan = planning.plan(read)
    tracing.onnx_from_module(tracing.module(read, plan), plan, tmp_path / "model.onnx")
    model = ir.load(tmp_path / "model.onnx")
    for node in graph_heads(model):
        assert not any(
            value is not None and value.shape is not None and str(value.shape[0]) == "rows"
            for value in node.outputs
        )


def graph_heads(model: ir.Model) -> list[ir.Node]:
    found = [node for node in final(model.graph) if not (node.name or "").startswith("packed/")]
    assert found
    return found


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_graphs_for_gpus_are_not_packed(encoder: Exported, tmp_path: Path, precision: Any) -> None:
    mixed_from_onnx(encoder.path, tmp_path / "mixed.onnx", precision)
    mixed_from_onnx(encoder.plain, tmp_path / "plain.onnx", precision)
    assert (tmp_path / "mixed.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


def test_engines_are_compiled_from_the_padded_form(encoder: Exported) -> None:
    before = sorted(encoder.folder.iterdir())
    with _padded(encoder.folder, encoder.described) as path:
        assert not any((node.name or "").startswith("packed/") for node in ir.load(path).graph)
        feed = ragged(encoder.described)
        (found,), (expected,) = (ask(one, feed, "out_embed") for one in (path, encoder.plain))
        np.testing.assert_array_equal(found, expected)
    assert sorted(encoder.folder.iterdir()) == before


def test_tokens_that_nothing_attends_to_are_kept_where_they_are_answered(
    artifacts: Callable[[str], Path],
) -> None:
    """ColBERT's queries are filled up with tokens that are left out of attention, and whose vectors count."""
    from poolrt.runtime.artifact import reading

    manifest = reading.read(artifacts("colbert")).manifest
    assert any(
        role.expand_id is not None and not role.attend_expansion for role in manifest.text.roles.values()
    )
    assert not any(one.packed for one in manifest.graphs)

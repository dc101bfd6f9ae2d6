"""32k positions cost nothing until they are used: no mask and no table of that length is stored, and texts of
thousands of tokens run."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning

from tests.checkpoints import configure
from tests.families import find
from tests.families.proof import no_prefix, opened

POSITIONS = 32_768
LONG = 4_200
SAME = 1e-5  # of the largest value; fp32 sums over thousands of tokens, in another order
# A window on every layer; an encoder with windows on some; causal; both ways with windows on some;
# convolutions between layers.
FAMILIES = ("e5_mistral", "modernbert_embedder", "qwen3_embedding", "embedding_gemma", "lfm2_colbert")
QUICK = FAMILIES[:2]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_long_context_is_computed_not_stored(name: str, tmp_path: Path):
    folder = find(name)(tmp_path / name)
    configure(folder, max_position_embeddings=POSITIONS)
    for file, key in (
        ("tokenizer_config.json", "model_max_length"),
        ("sentence_bert_config.json", "max_seq_length"),
    ):
        if (folder / file).is_file():
            path = folder / file
            path.write_text(path.read_text().replace(f'"{key}": ', f'"{key}": {POSITIONS}, "was": '))
    found = checkpoint.read(folder, recipe=None)
    plan = planning.plan(found)
    module = tracing.module(found, plan)
    tracing.onnx_from_module(module, plan, tmp_path / "model.onnx")

    weights = sum(parameter.numel() for parameter in module.parameters())
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    assert not [tensor.name for tensor in stored if max(tensor.dims, default=0) >= LONG], (
        "a table as long as the context"
    )
    # A mask of 32k by 32k, or a table of its positions, would be many times the weights of these models.
    assert sum(int(math.prod(tensor.dims)) for tensor in stored) < 1.2 * weights + 10_000
    assert (tmp_path / "model.onnx").stat().st_size < 4 * (1.2 * weights + 10_000) + 1_000_000

    # Every attention has a form for texts as long as this one; convolutions have none.
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert "If" in kinds
    assert "Softmax" not in kinds

    ids = np.random.default_rng(0).integers(5, plan.text.vocab_size, (1, LONG))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    output = plan.heads[plan.tasks[0]].output
    session = opened(tmp_path / "model.onnx")
    (answer,) = session.run([output], feed | no_prefix(session))
    with torch.inference_mode():
        expected = module(*(torch.from_numpy(feed[name]) for name in plan.inputs))[0].numpy()
    np.testing.assert_allclose(
        np.asarray(answer), expected, atol=SAME * float(np.abs(expected).max()), rtol=0
    )

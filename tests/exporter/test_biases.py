"""Biases that attention does not need: gone where the graph allows it, and the answers are still
those of transformers' class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.graph.passes import biases
from poolrt.exporter.graph.passes.signature import PassOptions, PassResult
from poolrt.exporter.heads import planning
from safetensors.torch import load_file
from transformers import AutoModel

from tests.checkpoints import rewrite_weights
from tests.families import find

# float32 products summed in another order; with biases this large the values are around 10.
ROUNDING = 1e-4
# Two layers each: keys and values; keys that positions turn, or that are read twice, keep theirs; the last
# two have none or share heads.
GONE = {
    "distilbert_embedder": 4,
    "mpnet_embedder": 4,
    "gpt_neox_embedder": 0,
    "deberta_embedder": 0,
    "modernbert_masked": 0,
    "gte_qwen2": 0,
}


def exported(folder: Path, patch: pytest.MonkeyPatch) -> list[int]:
    """Writes folder/model.onnx; returns how many biases went."""
    counts: list[int] = []
    run = biases.run

    def counted(model: Any, options: PassOptions) -> PassResult:
        result = run(model, options)
        counts.append(result.changes)
        return result

    patch.setattr(biases, "run", counted)
    read = checkpoint.read(folder / "checkpoint")
    plan = planning.plan(read)
    tracing.onnx_from_module(tracing.module(read, plan), plan, folder / "model.onnx")
    return counts


@pytest.mark.parametrize("name", GONE)
def test_only_biases_that_cancel_go(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoint").mkdir()
    find(name)(tmp_path / "checkpoint")
    assert exported(tmp_path, monkeypatch) == [GONE[name]]


def test_large_biases_are_where_they_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    find("distilbert_embedder")(folder)
    random = torch.Generator().manual_seed(7)
    own = {
        name: tensor
        for name, tensor in load_file(folder / "model.safetensors").items()
        if name.endswith("_lin.bias")
    }
    assert len(own) >= 8
    rewrite_weights(
        folder,
        lambda name: name,
        add={name: 5 * torch.randn(tensor.shape, generator=random) for name, tensor in own.items()},
    )
    assert exported(tmp_path, monkeypatch) == [4]
    lengths = (9, 4, 1)
    mask = (np.arange(9) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(0).integers(10, 60, mask.shape) * mask
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(["out_token_embed"], {"input_ids": ids, "attention_mask": mask})
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for row, length, text in zip(np.asarray(found), lengths, ids, strict=True):
        with torch.no_grad():
            expected = model(input_ids=torch.tensor(text[None, :length])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(row[:length], expected, atol=ROUNDING, rtol=ROUNDING)

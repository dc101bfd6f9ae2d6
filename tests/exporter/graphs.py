"""Runs an artifact's graph on token ids, with no code of ours between ONNX Runtime and the arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.graph.passes import packing
from poolrt.exporter.graph.passes.signature import PassResult
from poolrt.exporter.heads import planning

from tests.families import find

COSINE = 0.999999  # fp32 against fp32; worst measured 1 - 2e-7
DIFFERENCE = 1e-5  # of logits of size 1 to 10; worst measured 4e-6

Arrays = dict[str, NDArray[Any]]
SHAPES: Mapping[str, Sequence[int]] = {"one short": (2,), "odd batch": (6,) * 7, "padded rows": (9, 3, 17, 5)}


class Exported:
    """The graph of a tiny checkpoint, packed and plain."""

    def __init__(self, folder: Path, name: str) -> None:
        (folder / "checkpoint").mkdir()
        self.checkpoint = find(name)(folder / "checkpoint")
        read = checkpoint.read(self.checkpoint)
        plan = planning.plan(read)
        module = tracing.module(read, plan)
        self.folder, self.path, self.plain = folder, folder / "model.onnx", folder / "plain.onnx"
        self.described = tracing.onnx_from_module(module, plan, self.path)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(packing, "run", lambda model, options: PassResult(0))
            tracing.onnx_from_module(module, plan, self.plain)


class Artifact:
    def __init__(self, folder: Path) -> None:
        self.manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        graph = self.manifest["graphs"][0]
        self.session = onnxruntime.InferenceSession(folder / graph["file"], options)
        self.inputs = [tensor["name"] for tensor in graph["inputs"]]
        self.longest = self.manifest["text"]["max_tokens"]

    def run(self, task: str, batch: Arrays) -> NDArray[np.float32]:
        found = self.session.run(
            [self.manifest["heads"][task]["output"]], {name: batch[name] for name in self.inputs}
        )
        return np.asarray(found[0])

    def batches(self) -> dict[str, Arrays]:
        """Every shape class, the longest item included; random ids, and both token types
        where the model has them."""
        rng = np.random.default_rng(0)
        made = {}
        for name, lengths in {**SHAPES, "longest": (self.longest, 4)}.items():
            shape = (len(lengths), max(lengths))
            mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
            ids = rng.integers(9, self.manifest["text"]["vocab_size"] - 1, shape)
            types = (np.arange(shape[1]) >= np.array(lengths)[:, None] // 2).astype(np.int64) * mask
            ids = np.where(mask == 1, ids, self.manifest["text"]["pad_id"])
            made[name] = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return made


def torch_of(artifact: Artifact, batch: Arrays) -> dict[str, Any]:
    import torch

    return {name: torch.from_numpy(batch[name]) for name in artifact.inputs}


def worst_cosine(found: NDArray[Any], expected: NDArray[Any], mask: NDArray[Any] | None = None) -> float:
    """Of [batch, dim], or of the attended rows of [batch, tokens, dim]."""
    if mask is not None and found.ndim == 3:
        found, expected = found[mask == 1], expected[mask == 1]
    assert found.shape == expected.shape, f"{found.shape}, expected {expected.shape}"
    one, other = found.astype(np.float64), expected.astype(np.float64)
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float(((one * other).sum(-1) / lengths).min())

"""Long texts of an exported ModernBERT in OpenVINO, whose graph for them computes windows alone."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from poolrt.exporter.graph.passes import blocks
from poolrt.exporter.graph.passes.signature import PassOptions
from poolrt.runtime.engines import openvino, openvino_windows
from poolrt.runtime.engines.openvino import OpenVinoSession

from tests.exporter.graphs import Exported

pytest.importorskip("openvino")
# float32 sums in another order through a few layers; worst measured 3e-6.
ROUNDING = 1e-5


@pytest.mark.parametrize("exported", ["modernbert_masked"], indirect=True)
def test_long_texts_are_those_of_the_whole_graph(
    exported: Exported, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("POOLRT_ENGINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(blocks, "LONG", 16)
    model = ir.load(exported.path)
    assert blocks.run(model, PassOptions(longest=10_000)).changes
    path, window = tmp_path / "cut.onnx", blocks.widest(model)
    ir.save(model, path)
    assert 0 < window < 16
    graph = dataclasses.replace(exported.described, window=window)
    cuts: list[int] = []
    real = openvino_windows.cut
    monkeypatch.setattr(openvino_windows, "cut", lambda *of: cuts.append(real(*of)))
    session = OpenVinoSession(path, graph, "fp32", digest="", threads=1, lanes=1, at_once=True)
    try:
        short, longer = 4 * window, 4 * window + 24
        assert compared(session, exported.plain, (short, 3)) < ROUNDING
        assert session._long is not None
        assert session._long._opened is None, "no text was long"
        assert compared(session, exported.plain, (longer, 9)) < ROUNDING  # while it is not open
        begun = time.monotonic()
        while session._long._opened is None:
            assert time.monotonic() - begun < 60
            time.sleep(0.01)
        assert len(cuts) == 1
        assert cuts[0] > 0
        for lengths in ((longer,), (longer, 9), (longer + 5, longer, 2)):
            assert compared(session, exported.plain, lengths) < ROUNDING
    finally:
        session.close()
    again = openvino._compiled(path, graph, "fp32", "", streams=1, threads=1, windows=True)
    assert again[1] is not None, "the graph of long texts is compiled once"
    assert len(cuts) == 1


def compared(session: OpenVinoSession, plain: Path, lengths: tuple[int, ...]) -> float:
    """The largest difference from ONNX Runtime's answers."""
    shape = (len(lengths), max(lengths))
    mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
    ids = np.random.default_rng(shape[1]).integers(9, 60, shape) * mask
    batch: dict[str, NDArray[np.int64]] = {"input_ids": ids, "attention_mask": mask}
    outputs = [value.name for value in ir.load(plain).graph.outputs if value.name][:1]
    (ours,) = session.run(batch, outputs, alone=True)
    (expected,) = onnxruntime.InferenceSession(plain).run(outputs, batch)
    return float(np.abs(ours - np.asarray(expected)).max())

"""A whole export: what it leaves, what it refuses, and that it leaves nothing when it fails or is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import pipeline
from poolrt.exporter.base import report
from poolrt.exporter.proof import verify
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.artifact.records import from_plain, to_plain
from poolrt.runtime.errors import ArtifactError, InputError, VerificationError

ROOT = Path(__file__).parents[2]


def test_the_manifest_tells_where_everything_came_from(
    artifacts: Callable[[str], Path], checkpoints: Callable[[str], Path]
) -> None:
    manifest = read(artifacts("minilm_like")).manifest
    assert manifest.source.checkpoint == checkpoints("minilm_like").name
    assert all(len(digest) == 64 for digest in manifest.source.weights.values())
    assert manifest.source.weights
    assert {"torch", "transformers", "onnxruntime"} <= manifest.versions.keys()
    assert {each.task for each in manifest.evidence} == set(manifest.tasks)
    assert {"golden.npz", "model.onnx", "tokenizer.json"} <= manifest.files.keys()
    text = (artifacts("minilm_like") / "manifest.json").read_text()
    assert str(Path.home()) not in text
    assert "/tmp" not in text


def test_an_export_tells_its_plan_and_its_progress(
    checkpoints: Callable[[str], Path], tmp_path: Path
) -> None:
    lines: list[str] = []
    made = pipeline.export(
        checkpoints("bert_cross_encoder"),
        name="pairs",
        out=tmp_path,
        precision="fp16",
        target=["tensorrt-rtx:sm89"],
        progress=lines.append,
    )
    steps = [line.split(". ", 1)[1] for line in lines if line.startswith("  ") and ". " in line[:6]]
    assert steps == list(made.seconds)
    assert any(line.startswith("      architecture: BertForSequenceClassification") for line in lines)
    opened = read(tmp_path / "pairs")
    assert [graph.precision for graph in opened.manifest.graphs] == ["fp16"]
    (engine,) = opened.manifest.engines
    assert (engine.device, engine.precision, engine.graph) == ("sm89", "fp16", "model.fp16.onnx")
    assert {each.engine for each in opened.manifest.evidence} >= {"onnxruntime:model.fp16.onnx"}
    assert any("sm89 GPU" in note for note in made.notes) or any(
        each.engine == engine.file for each in made.evidence
    )
    assert from_plain(report.Report, to_plain(made)) == made
    for told in ("BertForSequenceClassification", "fp16", "worst difference", "poolrt serve"):
        assert told in report.table(made)
    # An engine for another GPU is added to what is there.
    again = pipeline.build(tmp_path / "pairs", target=["tensorrt-rtx:sm120"])
    assert [engine.device for engine in read(tmp_path / "pairs").manifest.engines] == ["sm89", "sm120"]
    assert again.name == "pairs"


def test_int8_says_what_it_did(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    made = pipeline.export(checkpoints("minilm_like"), name="small", out=tmp_path, precision="int8")
    assert made.precision == "int8"
    assert any("products" in note and "times the speed" in note for note in made.notes)
    many = [each for each in made.evidence if each.texts >= 300]
    assert {each.task for each in many} == set(made.tasks)
    assert all(each.worst_cosine is not None and each.worst_cosine >= 0.97 for each in many)
    assert not (tmp_path / "small" / "model.onnx").exists()
    with pytest.raises(InputError, match="int8"):
        pipeline.build(tmp_path / "small", target=["tensorrt-rtx:sm89"])


def test_beyond_the_tolerance_nothing_is_kept(
    checkpoints: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = verify.Runner.answers

    def worse(self: verify.Runner, task: Any, items: list) -> list:
        return [
            answer + np.float32(0.01) * np.arange(answer.shape[-1], dtype=np.float32)
            for answer in answers(self, task, items)
        ]

    monkeypatch.setattr(verify.Runner, "answers", worse)
    with pytest.raises(
        VerificationError, match=r"embed, one short: cosine 0\.\d+, at least " r"0\.999999 is allowed"
    ):
        pipeline.export(checkpoints("minilm_like"), out=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["trace to ONNX:", "compare with PyTorch:"])
def test_killed_during_an_export_nothing_loads(
    checkpoints: Callable[[str], Path], tmp_path: Path, step: str
) -> None:
    script = f"""
    import os, signal, sys
    sys.path.insert(0, {str(ROOT)!r})
    import conftest
    from poolrt.exporter import pipeline

    def say(line):
        if {step!r} in line:
            os.kill(os.getpid(), signal.SIGKILL)

    pipeline.export({str(checkpoints("minilm_like"))!r}, name="killed", out={str(tmp_path)!r}, progress=say)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ},
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "killed").exists()
    (partial,) = [entry for entry in tmp_path.iterdir() if entry.is_dir()]
    assert (partial / "model.onnx").exists(), "the export had got that far"
    with pytest.raises(ArtifactError):
        read(partial)

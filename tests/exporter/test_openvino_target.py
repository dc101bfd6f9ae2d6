"""`--target openvino`: proved at export, measured for the first start, and compared by `poolrt verify`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.exporter import pipeline
from poolrt.exporter.engine import Target
from poolrt.exporter.precision import choice
from poolrt.exporter.proof.evidence import TOLERANCES, divided
from poolrt.runtime import cache_folder, load
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import Evidence
from poolrt.runtime.engines import measured
from poolrt.runtime.errors import VerificationError


@pytest.fixture
def copied(
    artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], Path]:
    """An artifact that a test may change, and a cache of the test's own."""
    monkeypatch.setenv(cache_folder.FOLDER, str(tmp_path / "engines"))
    monkeypatch.delenv(measured.VARIABLE, raising=False)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(artifacts(name), tmp_path / name))

    return copy


def test_a_build_for_openvino_proves_it_and_leaves_the_choice_for_the_first_start(
    copied: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied("minilm_like")
    report = pipeline.build(path, target=["openvino"])
    rows = {row.engine for row in reading.read(path).manifest.evidence}
    assert {"openvino:model.onnx:fp32", "onnxruntime:model.onnx"} <= rows
    assert not reading.read(path).manifest.engines
    assert any("is taken" in note for note in report.notes)
    kept = {file.name: file.read_bytes() for file in (tmp_path / "engines").glob("*.json")}
    assert any("engine" in json.loads(content) for content in kept.values())

    # The first start reads the choice and measures nothing.
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(measured.trial, "run", refused)
    with load(path) as model:
        assert len(model.embed("a text")) == 1


def test_verify_compares_what_auto_takes(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied("minilm_like")
    monkeypatch.setenv(measured.VARIABLE, "openvino:fp32")
    report = pipeline.verified(path)
    assert {row.engine for row in report.evidence} == {"onnxruntime:model.onnx", "openvino:model.onnx:fp32"}
    monkeypatch.setenv(measured.VARIABLE, "onnxruntime")
    assert {row.engine for row in pipeline.verified(path).evidence} == {"onnxruntime:model.onnx"}


def test_verify_refuses_an_openvino_that_computes_something_else(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied("minilm_like")
    monkeypatch.setenv(measured.VARIABLE, "openvino:fp32")
    run = openvino_session().run

    def wrong(self, inputs, outputs, *, alone=False):
        return [-array for array in run(self, inputs, outputs, alone=alone)]

    monkeypatch.setattr(openvino_session(), "run", wrong)
    with pytest.raises(VerificationError, match=r"openvino:model\.onnx:fp32"):
        pipeline.verified(path)


def openvino_session():
    from poolrt.runtime.engines.openvino import OpenVinoSession

    return OpenVinoSession


def row(engine: str, cosine: float, precision: str) -> Evidence:
    return Evidence(
        engine=engine, task="embed", shape="one short", texts=1, worst_cosine=cosine, worst_difference=0.1,
        rank_agreement=None, tolerance=TOLERANCES[precision].cosine,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def test_a_lower_precision_that_is_too_far_is_a_note_and_fp32_is_not() -> None:
    near, far = row("openvino:model.onnx:fp32", 1.0, "fp32"), row("openvino:model.onnx:bf16", 0.9, "bf16")
    kept, notes = divided([near, far, row("openvino:model.onnx:bf16", 1.0, "bf16")])
    assert kept == [near]
    assert len(notes) == 1
    assert "bf16" in notes[0]
    wrong = row("openvino:model.onnx:fp32", 0.9, "fp32")
    assert divided([wrong]) == ([wrong], [])


def test_int8_goes_with_openvino() -> None:
    assert choice.check("int8", [Target("openvino")]) == "int8"

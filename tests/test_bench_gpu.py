"""`make gpu` where there is no GPU: what is run, what is left out and why, and that no piece outlasts its
time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from poolrt.runtime import machine

import bench.gpu.__main__ as gpu
from bench.gpu import pieces, results, wheels

H100 = machine.Gpu("NVIDIA H100 80GB HBM3", "sm90", 80 << 30)
ADA = machine.Gpu("NVIDIA GeForce RTX 4070", "sm89", 12 << 30)


@pytest.fixture
def artifacts_of_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pieces, "_checkpoint", lambda work, folder: folder / work)
    for precision in ("fp32", "fp16"):
        folder = tmp_path / "artifacts" / f"minilm-{precision}"
        folder.mkdir(parents=True)
        engines = [{"backend": "tensorrt"}] if precision == "fp16" else []
        (folder / "manifest.json").write_text(json.dumps({"engines": engines}))
    return tmp_path


def test_every_name_is_a_piece() -> None:
    for name in pieces.names():
        assert callable(pieces.function(name))
    for name in ("export-mars", "build-minilm", "measure", "nothing"):
        with pytest.raises(KeyError):
            pieces.function(name)


def test_a_card_that_tensorrt_rtx_does_not_build_for_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """H100: the library names its families, and sm90 is not among them."""
    pytest.importorskip("tensorrt_rtx_bindings")
    monkeypatch.setattr(machine, "gpus", lambda: [H100])
    result = pieces.build("minilm", "tensorrt-rtx", tmp_path)
    (note,) = result["notes"]
    assert note.startswith("TensorRT-RTX does not build for sm90, only for sm75, ")


def test_a_library_that_is_missing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if machine.version("tensorrt", "tensorrt-cu13", "tensorrt-cu12"):
        pytest.skip("TensorRT is installed")
    monkeypatch.setattr(machine, "gpus", lambda: [ADA])
    (note,) = pieces.build("minilm", "tensorrt", tmp_path)["notes"]
    assert note.startswith("tensorrt, minilm: this needs tensorrt, which is not installed")


def test_contenders_are_what_is_installed_and_compiled(
    artifacts_of_minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    present = {"onnxruntime-gpu": "1.31.1"}
    monkeypatch.setattr(pieces, "_version", lambda name: present.get(name, "not installed"))
    notes: list[str] = []
    rows = pieces.contenders("minilm", artifacts_of_minilm, notes)
    assert [label for label, *_ in rows] == [
        "torch sdpa fp32",
        "torch sdpa fp16",
        "poolrt onnxruntime-cuda fp32",
        "poolrt onnxruntime-cuda fp16",
        "poolrt tensorrt fp16",
    ]
    assert rows[0][3] == {"device": "cuda", "dtype": "float32", "attention": "sdpa"}
    assert rows[3][3] == {"engine": "onnxruntime-cuda:fp16"}
    assert notes == [
        "flash-attn is not installed: torch takes its own flash kernel through sdpa.",
        "no engine of tensorrt-rtx.",
    ]
    present["flash-attn"] = "2.8"
    del present["onnxruntime-gpu"]
    labels = [label for label, *_ in pieces.contenders("minilm", artifacts_of_minilm, notes)]
    assert labels[2:] == ["torch flash-attn fp16", "poolrt tensorrt fp16"]


def test_tests_are_counted_with_the_reasons_of_those_that_were_skipped(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="tests.gpu.test_trt" name="a"/>'
        '<testcase classname="tests.gpu.test_trt" name="b"><failure message="no"/></testcase>'
        '<testcase classname="x" name="c"><skipped message="no RTX"/></testcase>'
        '<testcase classname="x" name="d"><skipped message="no RTX"/></testcase></testsuite></testsuites>'
    )
    assert (
        pieces.counted(report) == "1 passed, 1 failed, 2 skipped.\n- failed: test_trt: b\n- skipped: no RTX"
    )


def test_the_page_says_what_ran_what_failed_and_what_did_not_run(tmp_path: Path) -> None:
    names = pieces.names()
    for name, result in {
        "facts": {"lines": {"GPU": "NVIDIA H100"}},
        "tests": {"section": "29 passed."},
        "build-tensorrt-rtx-base": {"notes": ["TensorRT-RTX does not build for sm90."]},
        "measure-base": {"section": "| a table |", "notes": ["no engine of tensorrt-rtx."]},
    }.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    page = results.written(results.read(tmp_path, names), {"export-long": "stopped after 590 s"}, names)
    assert "- GPU: NVIDIA H100" in page
    base = page.partition("## BERT-base")[2].partition("\n## ")[0]
    assert base.index("does not build for sm90") < base.index("no engine of") < base.index("| a table |")
    assert "**export-long: stopped after 590 s**" in page
    not_run = next(line for line in page.splitlines() if line.startswith("Not run: "))
    assert "measure-minilm" in not_run
    assert "export-long" not in not_run


def test_the_page_is_there_before_the_first_run() -> None:
    page = results.written({}, {}, pieces.names())
    assert page.startswith("# Results on a GPU")
    assert page.endswith("Not run yet: no GPU was at hand.\n")


def test_a_piece_that_takes_too_long_is_stopped_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    parent = (
        f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}], "
        "stdout=subprocess.PIPE); print(p.stdout.readline().decode(), flush=True); p.wait()"
    )
    log = tmp_path / "log"
    wait = subprocess.Popen.wait

    def late(process: subprocess.Popen[bytes], timeout: float | None = None) -> int:
        """The time is over as soon as the piece has started a process."""
        if timeout is None:
            return wait(process)
        while not log.read_text().strip():
            time.sleep(0.01)
        raise subprocess.TimeoutExpired("piece", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", late)
    assert gpu.limited([sys.executable, "-c", parent], log, os.environ, 590) == "stopped after 590 s"
    started = int(log.read_text().split()[0])
    while Path(f"/proc/{started}/cmdline").exists() and Path(f"/proc/{started}/cmdline").read_bytes():
        time.sleep(0.05)  # a process that was killed and not yet reaped has no command line


def test_a_piece_that_fails_is_told_by_its_last_line(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no driver')"]
    assert gpu.limited(command, tmp_path / "log", os.environ, 60.0) == "ended with 1: no driver"


def test_without_a_gpu_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if machine.gpus():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    out = tmp_path / "RESULTS-GPU.md"
    assert gpu.main(["--out", str(out)]) == 1
    assert "no NVIDIA GPU" in (tmp_path / "facts.log").read_text()
    assert not out.exists()


def test_wheels_in_pieces_are_put_together(tmp_path: Path) -> None:
    (tmp_path / "a-1-py3-none-any.whl").write_bytes(b"whole")
    for number, content in enumerate((b"first ", b"second ", b"third")):
        (tmp_path / f"b-1-py3-none-any.whl.{number:02}").write_bytes(content)
    joined = wheels.joined(tmp_path, tmp_path / "joined")
    assert [wheel.name for wheel in joined] == ["a-1-py3-none-any.whl", "b-1-py3-none-any.whl"]
    assert joined[1].read_bytes() == b"first second third"


def test_wheels_are_installed_in_front_of_the_machines_own_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wheel made here, without an index."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "poolrt_bench_sample.py").write_text("WORD = 'from the wheel'\n")
    (source / "pyproject.toml").write_text(
        "[project]\nname = 'poolrt-bench-sample'\nversion = '1'\n"
        "[build-system]\nrequires = ['setuptools']\nbuild-backend = 'setuptools.build_meta'\n"
        "[tool.setuptools]\npy-modules = ['poolrt_bench_sample']\n"
    )
    folder = tmp_path / "wheels"
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w"]
    subprocess.run([*command, str(folder), str(source)], check=True)
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    site = tmp_path / "site"
    assert gpu.installed(folder, site)
    assert gpu.installed(folder, site), "nothing to do"
    code = "import poolrt_bench_sample as sample; print(sample.WORD)"
    printed = subprocess.run(
        [sys.executable, "-c", code], env=gpu.environment(site), capture_output=True, text=True, check=True
    )
    assert printed.stdout == "from the wheel\n"
    (site / "nvidia/cudnn/lib").mkdir(parents=True)
    found = gpu.environment(site)["LD_LIBRARY_PATH"].split(os.pathsep)
    assert found[0] == str(site / "nvidia/cudnn/lib")
    assert not gpu.installed(tmp_path / "source", site), "a folder without wheels"


def test_what_is_downloaded_fits_beside_each_other() -> None:
    """onnxruntime and onnxruntime-gpu overwrite each other's files."""
    names = [name for group in wheels.GROUPS.values() for name in group]
    assert not any(name.split(">")[0] == "onnxruntime" for name in names)
    command = wheels.command("tensorrt", Path("wheels"), python="3.12")
    assert "--no-deps" in command, "its metapackage asks for packages that build themselves"
    assert command[-2:] == ["tensorrt-cu13-bindings", "tensorrt-cu13-libs"]

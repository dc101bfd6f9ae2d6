"""What a machine offers: processors of the cgroup that this process is in, libraries that are installed."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import machine
from poolrt.runtime.commands import doctor


def group(root: Path, membership: str, files: dict[str, str]) -> float | None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "membership").write_text(membership)
    return machine.cpu_quota(root, root / "membership")


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None), ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "300000 100000"},
        2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "200000 100000"}, 1.0),
        ("0::/a\n", {}, None),
        ("3:cpuset:/x\n4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000",
        "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu,cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None),
        ("", {}, None),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_quota_is_the_least_of_all_groups(
    tmp_path: Path, membership: str, files: dict[str, str], quota: float | None
):
    assert group(tmp_path, membership, files) == quota


@pytest.mark.parametrize(
    ("membership", "files", "free"),
    [
        ("0::/\n", {}, 3 << 20),
        ("0::/a\n", {"a/memory.max": "max\n", "a/memory.current": "7\n"}, 3 << 20),
        ("0::/a\n", {"a/memory.max": "1000", "a/memory.current": "400"}, 600),
        ("0::/a\n", {"a/memory.max": "1000", "a/memory.current": "900", "a/memory.stat":
        "anon 7\ninactive_file 300\n"}, 400),
        ("0::/a/b\n", {"a/b/memory.max": "1000", "a/b/memory.current": "0", "a/memory.max": "500",
        "a/memory.current": "501"}, 0),
        ("4:memory:/a\n", {}, 3 << 20),
    ],
    ids=["no limit", "unlimited", "limit", "cache", "parents", "version 1"],
)  # fmt: skip
def test_free_memory_is_the_least_of_the_machine_and_all_groups(
    tmp_path: Path, membership: str, files: dict[str, str], free: int
):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9000 kB\nMemAvailable:    3072 kB\nHugePages_Total:  0\n")
    group(tmp_path, membership, files)
    assert machine.free_bytes(tmp_path, tmp_path / "membership", meminfo) == free
    assert machine.free_bytes(tmp_path, tmp_path / "none", tmp_path / "none") is None


@pytest.mark.parametrize(
    ("quota", "allowed", "used"), [(None, 8, 8), (1.5, 8, 2), (2.0, 8, 2), (0.1, 8, 1), (16.0, 8, 8)]
)
def test_threads_are_those_that_may_run(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, allowed: int, used: int
):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cpus() == used


def test_the_first_library_that_is_there_tells_its_version():
    assert machine.version("no-such-distribution", "numpy", "tokenizers") == np.__version__
    assert machine.version("no-such-distribution") is None
    assert machine.rss_bytes() > 10 << 20


@pytest.mark.parametrize(
    ("installed", "versions", "gpus", "told"),
    [
        (set(), {"onnxruntime": None}, 0, ["pip install 'poolrt[cpu]'"]),
        ({"onnxruntime"}, {"onnxruntime": "1"}, 0, []),
        ({"onnxruntime-gpu"}, {"onnxruntime": "1"}, 1, []),
        ({"onnxruntime", "onnxruntime-gpu"}, {"onnxruntime": "1"}, 1, ["uninstall both"]),
        ({"onnxruntime"}, {"onnxruntime": "1"}, 1, ["a GPU and no engine library that uses it"]),
        ({"onnxruntime"}, {"onnxruntime": "1", "tensorrt-rtx": "1"}, 1, []),
        ({"onnxruntime"}, {"onnxruntime": "1", "tensorrt": "1"}, 1, []),
    ],
)  # fmt: skip
def test_advice_is_for_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
    installed: set[str],
    versions: dict[str, str | None],
    gpus: int,
    told: list[str],
):
    monkeypatch.setattr(machine, "version", lambda *names: "1" if installed & set(names) else None)
    monkeypatch.setattr(machine, "gpus", lambda: ("gpu",) * gpus)
    advice = doctor._advice(versions)
    assert len(advice) == len(told)
    assert all(part in line for part, line in zip(told, advice, strict=True))


def test_a_diagnosis_is_prose_of_everything_found():
    gpu = machine.Gpu(name="Some GPU", device="sm89", memory_bytes=24 << 30)
    found = doctor.Diagnosis(
        poolrt="0.1", environment=(), config=(),
        python="3.11.1", system="Linux", processor="A CPU", flags=("avx2", "fma"), processors=16, affinity=8,
        quota=1.5,
        threads=2, gpus=(gpu,), libraries={"numpy": "2", "torch": "3"},
        backends={"onnxruntime": "1.2", "openvino": None},
        advice=("do this", "and that"),
    )  # fmt: skip
    assert [" ".join(line.split()) for line in found.text().splitlines()] == [
        "poolrt 0.1", "python 3.11.1 on Linux", "processor A CPU; avx2 fma",
        "threads 2, of 16 processors: affinity allows 8, a quota of 1.5",
        "gpu Some GPU, sm89, 24 GiB", "engine onnxruntime 1.2", "engine openvino not installed",
        "libraries numpy 2, torch 3", "variable none that acts",
        "config no file: --config, or POOLRT_SERVE_CONFIG and the like",
        "advice do this", "advice and that",
    ]  # fmt: skip
    bare = replace(found, flags=(), quota=None, gpus=(), advice=()).text()
    for part in ("no vector instructions known to us", "no quota", "none that an NVIDIA driver shows"):
        assert part in bare
    assert found.plain()["gpus"][0]["name"] == "Some GPU"


def test_this_machine_s_libraries_and_processors_are_found():
    found = doctor.look()
    wanted = (
        "numpy",
        "tokenizers",
        "jinja2",
        "onnxruntime",
        "starlette",
        "uvicorn",
        "torch",
        "transformers",
        "onnx",
    )
    for name in wanted:
        assert found.libraries[name] == importlib.metadata.version(name)
    assert (found.processors, found.affinity) == (os.cpu_count(), len(os.sched_getaffinity(0)))
    assert found.backends["onnxruntime"] == importlib.metadata.version("onnxruntime")
    written = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    for flag in ("avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "asimd"):
        assert (flag in found.flags) == (flag in written)

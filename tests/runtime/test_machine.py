"""What a machine offers: processors of the cgroup that this process is in, libraries that are installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import machine


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
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000", "cpu.max": "300000 100000"}, 2.0),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 100000", "a/cpu.max": "200000 100000"}, 1.0), ("0::/a\n", {}, None),
        ("3:cpuset:/x\n4:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, 0.5),
        ("4:cpu,cpuacct:/a\n", {"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0),
        ("4:cpu:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "100000"}, None), ("", {}, None),
        ("3:cpuset:/a\n", {"cpu/a/cpu.cfs_quota_us": "50000", "cpu/a/cpu.cfs_period_us": "100000"}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_quota_is_the_least_of_all_groups(tmp_path: Path, membership: str, files: dict[str, str], quota: float | None):
    assert group(tmp_path, membership, files) == quota


@pytest.mark.parametrize(("quota", "allowed", "used"), [(None, 8, 8), (1.5, 8, 2), (2.0, 8, 2), (0.1, 8, 1), (16.0, 8, 8)])
def test_threads_are_those_that_may_run(monkeypatch: pytest.MonkeyPatch, quota: float | None, allowed: int, used: int):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(allowed)))
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    assert machine.cpus() == used


def test_the_first_library_that_is_there_tells_its_version():
    assert machine.version("no-such-distribution", "numpy", "tokenizers") == np.__version__
    assert machine.version("no-such-distribution") is None
    assert machine.rss_bytes() > 10 << 20

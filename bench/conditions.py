"""Under what conditions something was measured: processor, threads, load, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path


def environment(threads: int) -> dict[str, str]:
    """The same thread count for every library, and no look at the network."""
    counts = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"), str(threads)
    )
    # TOKENIZERS_PARALLELISM is set because tokenizers warns after a fork where it is not.
    return {**os.environ, **counts, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def instructions() -> str:
    """The instruction sets that decide the speed of int8 and fp32 products."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("flags"):
            present = set(line.split())
            return ", ".join(
                name
                for name in ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
                if name in present
            )
    return "unknown"


def memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def load_average() -> float:
    """Of the last minute: what else ran on the machine before the run."""
    return os.getloadavg()[0]


def warning() -> str:
    """What the load says of a busy machine; empty on a quiet one."""
    load, cores = load_average(), len(os.sched_getaffinity(0))
    if load <= cores / 4:
        return ""
    return (
        f" on {cores} cores: **the machine was busy. Speeds are too low, and ratios flatter whoever needs "
        "fewer processes at a time. Accuracy and CPU seconds are what to read**"
    )


def commit() -> str:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return described.stdout.strip() or "unknown"

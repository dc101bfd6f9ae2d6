"""What this machine offers: the processors that this process may use, NVIDIA devices, installed libraries."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")

# Attribute numbers of cuDeviceGetAttribute (cuda.h).
_CAPABILITY_MAJOR = 75
_CAPABILITY_MINOR = 76


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    device: str
    """`sm89`: the manifest's spelling of a compute capability."""
    memory_bytes: int


@functools.cache
def processor() -> tuple[str, tuple[str, ...]]:
    """Returns the processor's name and the instruction sets that the system names."""
    name, flags = platform.processor() or platform.machine(), set()
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        elif key.strip() in ("flags", "Features"):
            flags.update(value.split())
    return name, tuple(sorted(flags))


def is_arm() -> bool:
    """Whether the processor is a 64-bit ARM."""
    return platform.machine() in ("aarch64", "arm64")


def cpus() -> int:
    """Returns how many processors this process may keep busy: those of its affinity mask, at most its
    cgroup's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, math.ceil(quota)))


def cpu_quota(root: Path = CGROUPS, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """Returns the processor time that the cgroup grants, in processors; None: unlimited. The smallest quota
    of the cgroup and its parents counts."""
    quotas: list[float] = []
    for folder in _groups(root, membership):
        limit = _text(folder / "cpu.max").split()
        if len(limit) == 2 and limit[0] != "max":
            quotas.append(int(limit[0]) / int(limit[1]))
    for line in _text(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if "cpu" in controllers.split(","):
            # In a container the group's own path is often mounted as the root, so both are tried.
            for folder in (root / "cpu" / path.lstrip("/"), root / "cpu"):
                quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
                if quota.strip() and period.strip():
                    if int(quota) > 0:
                        quotas.append(int(quota) / int(period))
                    break
    return min(quotas, default=None)


def _groups(root: Path, membership: Path) -> list[Path]:
    """The folders of the process's cgroup of version 2 and of its parents."""
    paths = [line[3:] for line in _text(membership).splitlines() if line.startswith("0::")]
    groups = [root / path.lstrip("/") for path in paths]
    return [folder for group in groups for folder in (group, *group.parents) if folder.is_relative_to(root)]


def free_bytes(
    root: Path = CGROUPS,
    membership: Path = Path("/proc/self/cgroup"),
    meminfo: Path = Path("/proc/meminfo"),
) -> int | None:
    """Returns the memory that this process may still take, caches of files that the system would drop
    included; None where the system does not say."""
    fields = dict(line.split(":", 1) for line in _text(meminfo).splitlines() if ":" in line)
    free = [int(fields["MemAvailable"].split()[0]) << 10] if "MemAvailable" in fields else []
    for folder in _groups(root, membership):
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        if limit.isdigit() and used.isdigit():
            counts = dict(line.split() for line in _text(folder / "memory.stat").splitlines())
            free.append(max(0, int(limit) - int(used) + int(counts.get("inactive_file", 0))))
    return min(free, default=None)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@functools.cache
def gpus() -> tuple[Gpu, ...]:
    """Returns the NVIDIA devices that the driver shows, none without a driver. libcuda itself lists them, so
    no CUDA package is needed."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return ()
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    return tuple(gpu for index in range(count.value) if (gpu := _gpu(cuda, index)))


def _gpu(cuda: ctypes.CDLL, index: int) -> Gpu | None:
    device, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(128)
    failed = (
        cuda.cuDeviceGet(ctypes.byref(device), index)
        or cuda.cuDeviceGetName(name, len(name), device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), _CAPABILITY_MAJOR, device)
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), _CAPABILITY_MINOR, device)
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    )
    return (
        None
        if failed
        else Gpu(name.value.decode(errors="replace"), f"sm{major.value}{minor.value}", memory.value)
    )


def version(*distributions: str) -> str | None:
    """Returns the version of the first of these distributions that is installed, None where none is."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def rss_bytes() -> int:
    """Returns the memory that this process holds now, in bytes; 0 where the system does not say."""
    fields = _text(Path("/proc/self/statm")).split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") if fields else 0

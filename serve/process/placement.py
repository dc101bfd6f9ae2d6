"""Where each process of a server computes: which processors, near each other and near their memory, and which
GPU."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...runtime.errors import InputError

log = logging.getLogger("poolrt.serve")

SYSTEM = Path("/sys/devices/system")
MOST_GPUS = 1024


@dataclass(frozen=True, slots=True)
class Place:
    cpus: tuple[int, ...] | None
    """None: all that the system grants."""
    threads: int | None
    """Of the engine; None: one for each of `cpus`."""
    gpu: str | None
    """Value of CUDA_VISIBLE_DEVICES; None: as it is."""


def places(count: int, ranks: int, device: str, threads: int | None, *, cpus: int, gpus: int) -> list[Place]:
    """The place of each process. Raises InputError for a device that is none.

    Args:
        count: of processes.
        ranks: of engines (--data-parallel-size): the process i has rank i modulo `ranks`.
        cpus: processors that the machine or its cgroup grants.
        gpus: that the driver shows.
    """
    devices = devices_of(device, gpus)
    own = max(1, cpus // count)
    if devices:
        if ranks > len(devices) and device != "auto":
            raise InputError(
                f"--data-parallel-size {ranks}: --device {device} names {len(devices)}", field="device"
            )
        if ranks > len(devices):
            log.warning("--data-parallel-size %d: the engines share %d GPUs", ranks, len(devices))
        return [
            Place(None, threads or own, visible(devices[index % ranks % len(devices)]))
            for index in range(count)
        ]
    hidden = "" if device == "cpu" else None
    if count == 1:
        return [Place(None, threads, hidden)]
    if count > cpus:
        log.warning("%d processes share %d processors, and each has its own models", count, cpus)
    shares = split(count)
    if not shares:
        return [Place(None, threads or own, hidden)] * count
    total = len({cpu for share in shares for cpu in share})
    granted = min(cpus, total)  # a cgroup's quota may be less than the processors that it is spent on
    return [Place(share, threads or max(1, len(share) * granted // total), hidden) for share in shares]


def gpu_of(device: str) -> str | None:
    """CUDA_VISIBLE_DEVICES of a server of one process; None: as it is. Raises InputError.

    The driver is not asked here, since it reads the variable when it is first asked anything.
    """
    if device in ("auto", "cuda"):
        return None
    numbers = devices_of(device, MOST_GPUS)
    return visible(numbers[0]) if numbers else ""


def devices_of(device: str, gpus: int) -> list[int]:
    """The numbers of the GPUs that `--device` names; none for a processor. Raises InputError."""
    if device == "cpu" or (device == "auto" and gpus == 0):
        return []
    if device in ("auto", "cuda"):
        if gpus == 0:
            raise InputError("--device cuda: the driver shows no GPU here", field="device")
        return list(range(gpus))
    numbers: list[int] = []
    for part in device.split(","):
        kind, _, number = part.strip().partition(":")
        if kind != "cuda" or not number.isdecimal():
            raise InputError(
                f"--device {device}: expected auto, cpu, cuda, cuda:N or a list of those (cuda:0,cuda:2)",
                field="device",
            )
        if int(number) >= gpus:
            raise InputError(f"--device {part.strip()}: the driver shows {gpus} GPUs here", field="device")
        numbers.append(int(number))
    return numbers


def visible(number: int) -> str:
    """CUDA_VISIBLE_DEVICES for the GPU of this number among those that are visible now. Raises InputError."""
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    if variable is None:
        return str(number)
    now = [part.strip() for part in variable.split(",")]
    now = list(
        itertools.takewhile(lambda part: part and not part.startswith("-"), now)
    )  # as the driver reads
    if number >= len(now):
        raise InputError(
            f"--device cuda:{number}: CUDA_VISIBLE_DEVICES shows {len(now)} GPUs here, counted from 0",
            field="device",
        )
    return now[number]


def split(count: int, system: Path = SYSTEM) -> list[tuple[int, ...]]:
    """The processors of this process in `count` shares, none of which crosses a NUMA node where that can be;
    empty where the system cannot bind processes.

    Both threads of a core stay in one share. With more shares than processors, shares overlap.
    """
    if not hasattr(os, "sched_getaffinity"):
        return []
    allowed = os.sched_getaffinity(0)
    nodes = [part for node in nodes_of(system) if (part := [cpu for cpu in node if cpu in allowed])]
    left = sorted(allowed - {cpu for node in nodes for cpu in node})
    nodes = [ordered(node, system) for node in ([*nodes, left] if left else nodes)]
    options = [_parted(nodes, count)]
    if count <= len(nodes):
        options.append([tuple(cpu for node in nodes[index::count] for cpu in node) for index in range(count)])
    # Clients are spread evenly, so what counts is the smallest share; then, that none is left over.
    return max(options, key=lambda shares: (min(map(len, shares)), sum(map(len, shares))))


def _parted(nodes: Sequence[Sequence[int]], count: int) -> list[tuple[int, ...]]:
    """Parts of nodes, more of large nodes. A node that is small beside the shares gets none."""
    members = [0] * len(nodes)
    places: list[tuple[int, int]] = []
    for _ in range(count):
        chosen = min(
            range(len(nodes)), key=lambda node: (-len(nodes[node]) / (members[node] + 1), members[node])
        )
        places.append((chosen, members[chosen]))
        members[chosen] += 1
    shares: list[tuple[int, ...]] = []
    for chosen, place in places:
        node = nodes[chosen]
        begin, end = place * len(node) // members[chosen], (place + 1) * len(node) // members[chosen]
        shares.append(tuple(node[begin:end]) or (node[begin % len(node)],))
    return shares


def nodes_of(system: Path) -> list[list[int]]:
    """The processors of each NUMA node."""
    folders = sorted((system / "node").glob("node[0-9]*"), key=lambda folder: int(folder.name[4:]))
    return [cpus for folder in folders if (cpus := _list(folder / "cpulist"))]


def ordered(cpus: Sequence[int], system: Path) -> list[int]:
    """Processors in the order of their cores, so that the threads of a core stand side by side."""

    def core(cpu: int) -> tuple[int, int]:
        siblings = _list(system / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        return min(siblings, default=cpu), cpu

    return sorted(cpus, key=core)


def _list(path: Path) -> list[int]:
    """Reads `0-3,8`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return []
    numbers: list[int] = []
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers

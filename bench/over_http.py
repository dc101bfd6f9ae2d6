"""Measures servers: the same requests go to one after the other, while the others are stopped."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .servers import Server, resident_mib
from .texts import MIXES, texts, twenty_words

QUERY = "why does mars look red"


@dataclass(frozen=True, slots=True)
class Case:
    says: str
    connections: int
    texts: int
    """Per request, for throughput in texts."""
    route: str
    inputs: tuple[tuple[str, ...], ...]
    """The texts of each request."""


@dataclass(slots=True)
class Measured:
    texts_per_s: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    client_cpu_s_per_1000: list[float] = field(default_factory=list)
    """Per 1000 requests."""
    failures: int = 0
    resident_mib: float = 0.0


def cases() -> list[Case]:
    short = tuple((text,) for text in twenty_words(512))
    mixed = texts(MIXES[-1])
    batches = tuple(tuple(mixed[start : start + 32]) for start in range(0, len(mixed), 32))
    documents = tuple(tuple(texts(MIXES[-1], seed=seed)[:100]) for seed in range(1, 5))
    return [
        Case("1 text of 20 words, concurrency 1", 1, 1, "embeddings", short),
        Case("1 text of 20 words, concurrency 16", 16, 1, "embeddings", short),
        Case("1 text of 20 words, concurrency 64", 64, 1, "embeddings", short),
        Case("32 texts of mixed length, concurrency 2", 2, 32, "embeddings", batches),
        Case("rerank of 100 documents of mixed length, concurrency 2", 2, 100, "rerank", documents),
    ]


def request_body(server: Server, case: Case, inputs: Sequence[str]) -> str:
    if case.route == "rerank":
        return json.dumps({"model": server.model, "query": QUERY, "documents": list(inputs)})
    return json.dumps({"model": server.model, "input": inputs[0] if case.texts == 1 else list(inputs)})


def vectors(server: Server, inputs: Sequence[str]) -> NDArray[np.float32]:
    """[texts, dim], as this server answers them."""
    body = json.dumps({"model": server.model, "input": list(inputs)}).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{server.embeddings}",
        body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        rows = json.load(answer)["data"]
    return np.array(
        [row["embedding"] for row in sorted(rows, key=lambda row: row["index"])], dtype=np.float32
    )


def run(
    servers: Sequence[Server],
    chosen: Sequence[Case],
    *,
    rounds: int,
    seconds: float,
    warm_s: float,
    say: Callable[[str], None],
) -> Mapping[tuple[str, int], Measured]:
    """Label and index of the case -> what was measured in each round. Servers are frozen before and
    afterwards."""
    measured = {(server.label, index): Measured() for server in servers for index in range(len(chosen))}
    for number in range(rounds):
        for index, case in enumerate(chosen):
            for server in servers:
                if getattr(server, case.route) is None:
                    continue
                server.thaw()
                try:
                    _measure(server, case, measured[server.label, index], seconds=seconds, warm_s=warm_s)
                finally:
                    server.freeze()
            say(f"round {number + 1} of {rounds}: {case.says}")
    return measured


def _measure(server: Server, case: Case, measured: Measured, *, seconds: float, warm_s: float) -> None:
    settings = {
        "path": getattr(server, case.route),
        "port": server.port,
        "bodies": [request_body(server, case, inputs) for inputs in case.inputs],
        "connections": case.connections,
        "warm_s": warm_s,
        "seconds": seconds,
        "pid": server.pid,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump(settings, file)
        file.flush()
        client = subprocess.run(
            [sys.executable, "-m", "bench.load", file.name], stdout=subprocess.PIPE, text=True, check=True
        )
    answer = json.loads(client.stdout)
    if not answer["answered"]:
        raise RuntimeError(
            f"{server.label}, {case.says}: no request succeeded in {seconds} s; last: {answer['problem']}"
        )
    done = answer["answered"] * case.texts
    measured.texts_per_s.append(done / answer["seconds"])
    measured.p50_s.append(float(np.percentile(answer["latencies_s"], 50)))
    measured.p99_s.append(float(np.percentile(answer["latencies_s"], 99)))
    measured.cpu_s_per_1000.append(answer["server_cpu_s"] / done * 1000)
    measured.client_cpu_s_per_1000.append(answer["client_cpu_s"] / answer["answered"] * 1000)
    measured.failures += answer["failures"]
    measured.resident_mib = resident_mib(server.pid)

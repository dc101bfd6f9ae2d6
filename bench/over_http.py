"""Measures servers: the same requests go to one after the other, while the others are stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .servers import Server, resident_mib
from .texts import Source
from .works import Case

QUERY = "why does mars look red"


QUERY_WORDS = 8
MOST_TOKENS_PER_S = 100_000
"""More than any server of one processor computes; texts of that many are made for each measurement."""


@dataclass(slots=True)
class Measured:
    texts_per_s: list[float] = field(default_factory=list)
    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    cpu_s_per_1000: list[float] = field(default_factory=list)
    client_cpu_s_per_1000: list[float] = field(default_factory=list)
    """Per 1000 requests."""
    failures: int = 0
    problem: str = ""
    """The last failure, in one line."""
    resident_mib: float = 0.0


def bodies(server: Server, case: Case, requests: Sequence[Sequence[str]]) -> list[str]:
    return [request_body(server, case, texts) for texts in requests]


def requests(source: Source, case: Case, seconds: float) -> list[list[str]]:
    """The texts of as many requests as `seconds` can need, all new; of a rerank the query first. Every server
    gets the same ones."""
    tokens = math.sqrt(case.mix.shortest * case.mix.longest) * case.texts
    count = math.ceil(MOST_TOKENS_PER_S * seconds / tokens) + 3 * case.connections
    queries = 1 if case.route == "rerank" else 0
    return [
        [*(source.words(QUERY_WORDS) for _ in range(queries)), *source.texts(case.mix, case.texts)]
        for _ in range(count)
    ]


def request_body(server: Server, case: Case, texts: Sequence[str]) -> str:
    if case.route == "rerank":
        query, *documents = texts
        return json.dumps({"model": server.model, "query": query, "documents": documents})
    return json.dumps({"model": server.model, "input": texts[0] if case.texts == 1 else list(texts)})


def vectors(server: Server, texts: Sequence[str]) -> NDArray[np.float32]:
    """[texts, dim], as this server answers them."""
    rows = _post(server, server.embeddings, {"model": server.model, "input": list(texts)})["data"]
    return np.array(
        [row["embedding"] for row in sorted(rows, key=lambda row: row["index"])], dtype=np.float32
    )


def scores(server: Server, texts: Sequence[str]) -> NDArray[np.float64] | None:
    """[texts], of the query and each of them; None: this server has no rerank."""
    if server.rerank is None:
        return None
    body = {"model": server.model, "query": QUERY, "documents": list(texts)}
    rows = _post(server, server.rerank, body)["results"]
    return np.array([row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])])


def _post(server: Server, path: str, body: dict[str, object]) -> dict[str, Any]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{server.port}{path}",
        json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.load(answer)


def run(
    servers: list[Server],
    chosen: Sequence[Case],
    *,
    rounds: int,
    seconds: float,
    warm_s: float,
    source: Source,
    say: Callable[[str], None],
    missing: list[str],
) -> Mapping[tuple[str, int], Measured]:
    """Label and index of the case -> what was measured in each round. Servers are frozen before and
    afterwards. No server gets a text twice. One that fails leaves `servers`, and a sentence in `missing`."""
    measured = {(server.label, index): Measured() for server in servers for index in range(len(chosen))}
    for number in range(rounds):
        for index, case in enumerate(chosen):
            texts = requests(source, case, seconds + warm_s)
            for server in list(servers):
                if getattr(server, case.route) is None:
                    continue
                server.thaw()
                try:
                    _measure(
                        server, case, texts, measured[server.label, index], seconds=seconds, warm_s=warm_s
                    )
                except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
                    missing.append(f"{server.label} failed while it was measured ({error})")
                    servers.remove(server)
                    server.stop()
                    continue
                server.freeze()
            say(f"round {number + 1} of {rounds}: {case.says}")
    return measured


def _measure(
    server: Server,
    case: Case,
    texts: Sequence[Sequence[str]],
    measured: Measured,
    *,
    seconds: float,
    warm_s: float,
) -> None:
    settings = {
        "path": getattr(server, case.route),
        "port": server.port,
        "bodies": bodies(server, case, texts),
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
    measured.problem = " ".join(answer["problem"].split())[:120] or measured.problem
    measured.resident_mib = resident_mib(server.pid)

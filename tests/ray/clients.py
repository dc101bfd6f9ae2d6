"""Clients of a server on Ray, and what they see of it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from poolrt.runtime import load

CLIENTS = 8
"""Each with one request at a time."""
SAME = 1e-6


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: Any
    replica: str


@dataclass(slots=True)
class Load:
    """What clients of one model saw."""

    replies: list[Reply] = field(default_factory=list)
    longest_s: float = 0.0

    @property
    def lost(self) -> int:
        return sum(reply.status != 200 for reply in self.replies)

    def vectors(self) -> list[Any]:
        return [reply.body["data"][0]["embedding"] for reply in self.replies]

    def report(self) -> str:
        return f"{len(self.replies)} requests, {self.lost} lost, the longest took {self.longest_s:.2f} s"


@dataclass(frozen=True, slots=True)
class Client:
    port: int

    def ask(self, path: str, body: Any = None) -> Reply:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as response:
                return Reply(response.status, json.load(response), response.headers["x-poolrt-replica"])
        except urllib.error.HTTPError as error:
            return Reply(error.code, json.load(error), error.headers.get("x-poolrt-replica", ""))

    @contextlib.contextmanager
    def under_load(self) -> Iterator[Load]:
        """Clients that ask for the vector of "hello" all the time."""
        seen, ending = Load(), threading.Event()

        def client() -> None:
            while not ending.is_set():
                begun = time.monotonic()
                reply = self.ask("/v1/embeddings", {"input": "hello"})
                seen.longest_s = max(seen.longest_s, time.monotonic() - begun)
                seen.replies.append(reply)

        clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
        for thread in clients:
            thread.start()
        try:
            yield seen
        finally:
            ending.set()
            for thread in clients:
                thread.join()


def expected(artifact: Path) -> Any:
    """The vector of "hello" by the runtime."""
    with load(artifact) as model:
        return np.asarray(model.embed(["hello"]))[0]


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    ending = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ending
        time.sleep(0.1)

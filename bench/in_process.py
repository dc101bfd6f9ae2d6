"""Texts per second inside one Python process, every library in turn: A B C A B C ..."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .conditions import environment


@dataclass(slots=True)
class Case:
    """One line of the table."""

    mix: str
    one_by_one: bool
    texts: int
    """In one round."""
    says: str
    start: int = 0
    """Of the first round's texts in the mix."""


@dataclass(slots=True)
class Measured:
    seconds: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    resident_mib: float = 0.0


class Peer:
    """A library in a process of its own (bench/peers.py)."""

    def __init__(
        self, label: str, kind: str, *, path: Path, texts: Path, threads: int, **more: str | None
    ) -> None:
        self.label = label
        chosen = {name: value for name, value in more.items() if value is not None}
        settings = json.dumps({"path": str(path), "texts": str(texts), "threads": threads, **chosen})
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.peers", kind, settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(threads),
        )
        ready = self._answer()
        self.version: str = ready["version"]
        self.ready_s: float = ready["ready_s"]

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"bench: {self.label} ended with exit code {self.process.wait()}; its messages stand above"
            )
        return json.loads(line)

    def ask(self, **request: object) -> dict:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def vectors(self, mix: str, count: int, file: Path) -> NDArray[np.float32]:
        """Of the first `count` texts of a mix, each by itself."""
        self.ask(mix=mix, start=0, count=count, vectors=str(file))
        return np.load(file)

    def close(self) -> None:
        self.process.communicate()


def run(
    peers: Sequence[Peer], cases: Sequence[Case], *, rounds: int, say: Callable[[str], None]
) -> Mapping[tuple[str, int], Measured]:
    """Label and index of the case -> what was measured in `rounds` rounds. One more round before them warms
    up and is not counted. Each round has texts of its own."""
    measured = {(peer.label, index): Measured() for peer in peers for index in range(len(cases))}
    for number in range(rounds + 1):
        for index, case in enumerate(cases):
            for peer in peers:
                answer = peer.ask(
                    mix=case.mix,
                    one_by_one=case.one_by_one,
                    start=case.start + number * case.texts,
                    count=case.texts,
                )
                if number == 0:
                    continue
                values = measured[peer.label, index]
                values.seconds.append(answer["seconds"])
                values.cpu_s.append(answer["cpu_s"])
                values.resident_mib = answer["resident_mib"]
        say(f"round {number} of {rounds}" + (" (warm-up)" if number == 0 else ""))
    return measured


def cosines(vectors: NDArray[np.float32], reference: NDArray[np.float32]) -> NDArray[np.float64]:
    """[texts, dim] and [texts, dim] -> [texts]."""
    a, b = vectors.astype(np.float64), reference.astype(np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.einsum("td,td->t", a, b) / np.maximum(norms, np.finfo(np.float64).tiny)

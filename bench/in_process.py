"""Texts per second inside one Python process, every library in turn: A B C A B C ..."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
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
        self,
        label: str,
        kind: str,
        *,
        path: Path,
        texts: Path,
        threads: int,
        python: str = sys.executable,
        **more: str | None,
    ) -> None:
        """Raises RuntimeError where it does not start.

        Args:
            python: the interpreter that has the library.
        """
        self.label = label
        chosen = {name: value for name, value in more.items() if value is not None}
        settings = json.dumps({"path": str(path), "texts": str(texts), "threads": threads, **chosen})
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [python, "-m", "bench.peers", kind, settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Beside the texts, so that what an earlier run worked out is not found.
            env={**environment(threads), "POOLRT_ENGINE_CACHE": str(texts.parent / "engines")},
        )
        ready = self._answer()
        self.version: str = ready["version"]
        self.import_s: float = ready["import_s"]
        self.first_ready_s: float | None = None
        """Of a first start, where that one works something out that later ones find."""
        self.ready_s = time.perf_counter() - started
        """From the start of its process to the first answer."""

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"it ended with exit code {self.process.wait()}")
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
        with contextlib.suppress(OSError):
            self.process.communicate()


def run(
    peers: list[Peer], cases: Sequence[Case], *, rounds: int, say: Callable[[str], None], missing: list[str]
) -> Mapping[tuple[str, int], Measured]:
    """Label and index of the case -> what was measured in `rounds` rounds. One more round before them warms
    up and is not counted. Each round has texts of its own. A peer that fails leaves `peers`, and a sentence
    in `missing`."""
    measured = {(peer.label, index): Measured() for peer in peers for index in range(len(cases))}
    for number in range(rounds + 1):
        for index, case in enumerate(cases):
            for peer in list(peers):
                try:
                    answer = peer.ask(
                        mix=case.mix,
                        one_by_one=case.one_by_one,
                        start=case.start + number * case.texts,
                        count=case.texts,
                    )
                except (RuntimeError, OSError) as error:
                    missing.append(f"{peer.label} failed while it was measured ({error})")
                    peers.remove(peer)
                    continue
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

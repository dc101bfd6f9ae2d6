"""Servers under test: started on loopback ports, and stopped by a signal while another one is measured."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY_S = 300
TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def tree(root: int) -> list[int]:
    """The process and everything below it, parents first."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    processes = [root]
    for pid in processes:  # grows while it is walked
        processes += parents.get(pid, [])
    return processes


def _stat(pid: int) -> list[str]:
    """/proc/PID/stat from the state on; the command before it may hold spaces and parentheses."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree, children that have ended included."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            total += sum(map(int, _stat(pid)[11:15]))
    return total / TICKS


def resident_mib(root: int) -> float:
    """Memory of a process tree; shared pages are counted once per process (PSS where the kernel tells it)."""
    total = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1024


@dataclass
class Server:
    label: str
    command: Sequence[str]
    """`{port}` stands for the port."""
    model: str
    """What requests name as `model`."""
    version: str
    log: Path
    variables: Mapping[str, str] = field(default_factory=dict)
    embeddings: str = "/v1/embeddings"
    rerank: str | None = "/rerank"
    """None: this server has no rerank for an embedding model."""
    ready: str = "/health"
    port: int = field(default_factory=free_port)
    first_ready_s: float | None = None
    """Of a first start, where that one works something out that later ones find."""
    ready_s: float = 0.0
    """From the command to readiness, of the start that is measured."""
    accuracy: str = ""
    """Of what it answered before the measurement."""

    def start(self) -> None:
        command = [part.replace("{port}", str(self.port)) for part in self.command]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.variables},
                start_new_session=True,
            )
        started = time.perf_counter()
        while not self._answers():
            if self._process.poll() is not None or time.perf_counter() - started > READY_S:
                end = self.log.read_text(encoding="utf-8", errors="replace")[-2000:]
                self.stop()
                raise RuntimeError(
                    f"{self.label} was not ready after {READY_S} s or ended; end of {self.log}:\n{end}"
                )
            time.sleep(0.05)
        self.ready_s = time.perf_counter() - started

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.ready}", timeout=5) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        """Stops the processes, because an idle server may poll and take time from another one."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in tree(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self) -> None:
        self.thaw()
        pids = tree(self.pid)
        self._process.terminate()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pid in pids[1:]:  # workers that outlived their parent
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

"""Runs the `poolrt` command as a user does: in processes of its own, installed or from a bare checkout."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest; from poolrt.runtime.commands.cli "
    "import main; sys.exit(main())"
)
READY_S = 60
"""Far above the second or two that it takes: the test machine may be busy."""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", MAIN, str(ROOT), *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"}


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=environment(), check=False)


def answer(*arguments: str | Path) -> Any:
    """What the command prints with --json."""
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@contextlib.contextmanager
def served(*artifacts: Path, flags: Sequence[str] = ()) -> Iterator[str]:
    """The address of a server of its own; see `running`."""
    with running(*artifacts, flags=flags) as (url, _):
        yield url


@contextlib.contextmanager
def running(*artifacts: Path, flags: Sequence[str] = ()) -> Iterator[tuple[str, int]]:
    """The address and process id of a server of its own, ended by SIGTERM as an operator would; it must exit
    with 0."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    arguments = command("serve", *artifacts, "--port", str(port), *flags)
    url = f"http://127.0.0.1:{port}"
    # A file, not a pipe: a pipe that nobody reads is full after some 900 requests, and the
    # server would wait for it.
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment())
        deadline = time.monotonic() + READY_S
        try:
            while not _is_ready(url):
                assert process.poll() is None, _read(log)
                assert time.monotonic() < deadline, "the server did not become ready"
                time.sleep(0.02)
            yield url, process.pid
        finally:
            process.terminate()
            try:
                process.wait(READY_S)
            finally:
                process.kill()
        assert process.returncode == 0, _read(log)


def _read(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def post(url: str, body: dict[str, object]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)

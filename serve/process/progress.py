"""Exports that a server runs: their steps, for /ready, and their lines, for stderr or the log."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import time
from collections.abc import Sequence

log = logging.getLogger("poolrt.serve")

END_S = 10.0
"""Seconds that an export gets to clear up when it is ended."""
_STEP = re.compile(r"\[(?P<number>\d+)/(?P<of>\d+)\] (?P<step>.+) \.\.\.")
"""A line with which `poolrt export` begins a step."""


class Progress:
    """What goes on before the models are opened: written by the main thread, read by the waiting room's."""

    def __init__(self, *, as_log: bool = False) -> None:
        """as_log: what an export says is lines of the log, else it goes to stderr as it is."""
        self._as_log = as_log
        self._begun = self._step_begun = time.monotonic()
        self._step: dict[str, object] = {"step": "looking for the artifacts"}
        self._child: subprocess.Popen[bytes] | None = None

    def run(self, program: Sequence[str]) -> tuple[int, str]:
        """Runs an export and shows what it says. Returns its exit code, and where the reason is."""
        # Its standard output goes there too, since ours belongs to whoever started this server.
        with subprocess.Popen(
            program,
            stdout=subprocess.PIPE if self._as_log else 2,
            stderr=subprocess.STDOUT if self._as_log else subprocess.PIPE,
        ) as child:
            self._child = child
            lines = child.stdout if self._as_log else child.stderr
            assert lines is not None, "it is a pipe"
            try:
                for line in lines:
                    self.say(line.decode(errors="replace").rstrip())
            except BaseException:  # Ctrl-C or a signal: it removes what it has written
                end(child)
                raise
        self._child = None
        return child.returncode, "see above"

    def say(self, line: str) -> None:
        if (match := _STEP.search(line)) is not None:
            self._step_begun = time.monotonic()
            self._step = {
                "step": match["step"],
                "number": int(match["number"]),
                "of": int(match["of"]),
            }
        if not self._as_log:
            print(line, file=sys.stderr, flush=True)
        elif line:
            log.info("%s", line)

    def stop(self) -> None:
        """Ends the export that runs now."""
        if (child := self._child) is not None:
            child.terminate()

    def plain(self) -> dict[str, object]:
        """The body of /ready."""
        now = time.monotonic()
        return {
            "status": "preparing",
            **self._step,
            "step_seconds": round(now - self._step_begun, 1),
            "seconds": round(now - self._begun, 1),
        }


def end(child: subprocess.Popen[bytes]) -> None:
    """Ends an export, which gets some seconds to clear up."""
    child.terminate()
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()

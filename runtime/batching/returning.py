"""Callers come back: whoever is answered often asks again at once, in the same moment as the others of the
batch. A lane that took the first of them would compute it alone and pay a launch for it."""

from __future__ import annotations

from dataclasses import dataclass

MOST_S = 0.025
"""Longest wait: of a large model's launch. What answering and reading 16 requests takes is less."""


@dataclass(slots=True)
class Returning:
    """What one lane knows of the callers that its last batch has answered."""

    callers: int = 0
    """That have not come back."""
    seen: int = 0
    """Calls of the worker when the batch ended."""
    until: float = 0.0
    """When the lane waits for them no longer (time.monotonic)."""

    def answered(self, callers: int, calls: int, now: float, launch_s: float) -> None:
        """A batch has ended that answered so many callers. `calls` are those of the worker so far.

        A launch's time is the right patience: a lane that waits so long for texts which do not come has lost
        no more than they would have saved.
        """
        self.callers, self.seen, self.until = callers, calls, now + min(launch_s, MOST_S)

    def patience_s(self, calls: int, now: float) -> float:
        """Seconds to wait for those who are missing; 0: none is, or it is too late."""
        return max(0.0, self.until - now) if calls - self.seen < self.callers else 0.0

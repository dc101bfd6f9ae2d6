"""What the family checks found, written down for docs/models.md while POOLRT_EVIDENCE names a file;
otherwise nothing happens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

SETTING = "POOLRT_EVIDENCE"


def note(**facts: Any) -> None:
    """One line of JSON under the name of the running test. pytest gives that name to every
    test, setup and teardown."""
    target, test = os.environ.get(SETTING), os.environ.get("PYTEST_CURRENT_TEST", "")
    if target:
        # One write, so that workers do not mix their lines
        with Path(target).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"test": test.rsplit(" ", 1)[0], **facts}) + "\n")

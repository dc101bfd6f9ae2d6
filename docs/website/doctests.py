"""An extension of griffe: examples in docstrings (`>>> ...`) are blocks of code, not quotations."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

EXAMPLE = re.compile(r"^( *)>>> .*(?:\n\1.*\S.*)*", re.MULTILINE)


def fenced(docstring: str) -> str:
    """The docstring with a fence around each run of examples, from `>>>` to the next empty line."""
    return EXAMPLE.sub(lambda match: f"{match[1]}```pycon\n{match[0]}\n{match[1]}```", docstring)


class Doctests(Extension):
    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called for everything that griffe reads."""
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)

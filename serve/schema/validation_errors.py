"""The problems of a request body in the form that vLLM's clients and tests read.

A message starts with a sentence for people (refusal_sentence.py). `N validation error(s):` and one line per
problem follow. Each line renders a dict with `type`, `loc`, `msg`, `input` and perhaps `ctx` (docs/http.md
2.4). Values are shortened, so that a 10 MB string takes one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

MAX_LINES = 20
"""Problems that a message lists. A list of 100 000 wrong values must not make a 10 MB response."""
MAX_SHOWN = 120
"""Characters of a wrong value."""

SHOWN = ("ge", "le", "expected")
"""Keys of a rule's context that its line repeats as `ctx`. The rule's text contains the others already."""

Loc = tuple[str | int, ...]
"""Path of a value in the request: ("body", "input", 0)."""


@dataclass(frozen=True, slots=True)
class Problem:
    kind: str
    """pydantic's name of the rule, e.g. `literal_error`, `missing`."""
    loc: Loc
    text: str
    value: Any
    context: dict[str, Any] | None = None

    def line(self) -> str:
        fields: dict[str, Any] = {
            "type": self.kind,
            "loc": dotted(self.loc),
            "msg": self.text,
            "input": short(self.value),
        }
        if self.context is not None:
            fields["ctx"] = self.context
        return repr(fields)


def short(value: object) -> str:
    """Returns a short text for any JSON value, without nested values."""
    if isinstance(value, list | dict):
        return f"<{type(value).__name__} of {len(value)} items>"
    if type(value) is int and value.bit_length() > 300:  # writing out a long integer takes quadratic time
        return f"<integer of {value.bit_length()} bits>"
    text = value[: MAX_SHOWN + 1] if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def dotted(loc: Loc) -> str:
    return ".".join(map(str, loc))


def problems_of(error: ValidationError | None) -> list[Problem]:
    """Returns pydantic's problems with a body, in pydantic's order; none for None."""
    if error is None:
        return []
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        kind, context = detail["type"], detail.get("ctx") or {}
        problems.append(
            Problem(
                kind=kind,
                loc=("body", *[key for key in detail["loc"] if type(key) is int or not _is_type(key)]),
                text=detail["msg"],
                value="..." if kind == "recursion_loop" else detail["input"],
                context={name: bound for name, bound in context.items() if name in SHOWN} or None,
            )
        )
    return problems


def _is_type(key: Any) -> bool:
    """Returns whether an entry of pydantic's path names no key but a member of a union: `str`, `list[int]`,
    `function-wrap[_read()]`."""
    return key in ("str", "int", "bool") or key.endswith("]")


def distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Returns the problems without those that several forms of a body share."""
    return list({(problem.kind, problem.loc, problem.text): problem for problem in problems}.values())


def message(problems: Sequence[Problem]) -> str:
    """Returns the list of problems as text, at most MAX_LINES of them."""
    count = len(problems)
    heading = (
        f"{count} validation error{'' if count == 1 else 's'}"
        if count <= MAX_LINES
        else f"{MAX_LINES} validation errors and more"
    )
    lines = [f"{heading}:"]
    lines += [f"  {problem.line()}" for problem in problems[:MAX_LINES]]
    if count > MAX_LINES:
        lines.append("  ... and more")
    return "\n".join(lines)

"""What is wrong with a request body, in the form that vLLM's clients and tests read.

A message starts with a sentence for people (refusal_sentence.py). `N validation error(s):` and one line per
problem follow. Each line renders a dict with `type`, `loc`, `msg`, `input` and perhaps `ctx` (docs/http.md
2.4). Values are shortened, so that a 10 MB string costs a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

MAX_LINES = 20
"""Problems told in full; a list of 100 000 wrong values must not make a 10 MB answer."""
MAX_SHOWN = 120
"""Characters of an offending value."""

SHOWN = ("ge", "le", "expected")
"""Keys of a rule's context that stand in its line; other contexts are in its sentence already."""

Loc = tuple[str | int, ...]
"""Where a value stands: ("body", "input", 0)."""


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
    """A few words for any JSON value: never long, never nested."""
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
    """pydantic's problems with a body, in their order; none for None."""
    if error is None:
        return []
    problems: list[Problem] = []
    for detail in error.errors(include_url=False):
        kind, context = detail["type"], detail.get("ctx")
        problems.append(
            Problem(
                kind=kind,
                loc=("body", *[step for step in detail["loc"] if type(step) is int or not _is_type(step)]),
                text=detail["msg"],
                value="..." if kind == "recursion_loop" else detail["input"],
                context={name: bound for name, bound in context.items() if name in SHOWN} or None
                if context
                else None,
            )
        )
    return problems


def _is_type(step: Any) -> bool:
    """Whether a step of pydantic's place is no key but a member of a union: `str`, `list[int]`,
    `function-wrap[_read()]`."""
    return step in ("str", "int", "bool") or step.endswith("]")


def distinct(problems: Sequence[Problem]) -> list[Problem]:
    """Each once, where several forms of a body have it."""
    return list({(problem.kind, problem.loc, problem.text): problem for problem in problems}.values())


def message(problems: Sequence[Problem]) -> str:
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

"""How the text of a flag becomes a value. Every reader raises ValueError with what was expected and what was
found; numbers may be written as 512, 1k or 1K."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ..json_objects import json_object as _json_object

_MULTIPLIERS = {
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "K": 2**10,
    "M": 2**20,
    "G": 2**30,
    "T": 2**40,
}
_SWITCHES = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def whole_number(text: str) -> int:
    """Reads `512`, `1k` (1000), `1K` (1024), `25.6k`, `2M`, ... as vLLM does."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([kKmMgGtT]?)", text.strip())
    if match is None:
        raise ValueError(f"expected a whole number such as 512, 1k (1000) or 1K (1024), found {text[:60]!r}")
    number, suffix = match.groups()
    if "." not in number:
        return int(number) * _MULTIPLIERS.get(suffix, 1)
    if not suffix.islower():
        hint = f"; did you mean {number}{suffix.lower()}?" if suffix else ""
        raise ValueError(f"a fraction needs a decimal suffix (k, m, g, t), found {text!r}{hint}")
    return round(float(number) * _MULTIPLIERS[suffix])


def fraction(text: str) -> float:
    """Reads `0.5`, `2`, `1e6`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"expected a number, found {text[:60]!r}")
    return value


def number(
    read: Callable[[str], float],
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Callable[[str], float]:
    """A reader that admits numbers within bounds only."""

    def bounded(text: str) -> float:
        value = read(text)
        if at_least is not None and value < at_least and at_most is None:
            raise ValueError(f"expected {at_least:g} or more, found {value:g}")
        if above is not None and value <= above:
            raise ValueError(f"expected more than {above:g}, found {value:g}")
        if at_most is not None and not (at_least or 0) <= value <= at_most:
            raise ValueError(f"expected {at_least or 0:g} to {at_most:g}, found {value:g}")
        return value

    return bounded


def length_or_auto(text: str) -> int | None:
    """Reads vLLM's --max-model-len: `auto` and -1 are the model's own limit, which is None."""
    if text.strip().lower() in ("auto", "-1"):
        return None
    if (value := whole_number(text)) < 1:
        raise ValueError(f"expected 1 or more, or auto, found {value}")
    return value


def switch(text: str) -> bool:
    """Reads what an environment variable says of a flag that is on or off."""
    if (value := _SWITCHES.get(text.strip().lower())) is None:
        raise ValueError(f"expected one of {', '.join(_SWITCHES)}, found {text[:60]!r}")
    return value


def choice(choices: Sequence[str]) -> Callable[[str], str]:
    """A reader that admits some words only."""

    def chosen(text: str) -> str:
        if text not in choices:
            raise ValueError(f"invalid choice: {text[:60]!r} (choose from {', '.join(choices)})")
        return text

    return chosen


def json_object(text: str) -> dict[str, Any]:
    """Reads a JSON object."""
    try:
        return _json_object(text)
    except ValueError as error:
        raise ValueError(f"{error} (found {text[:60]!r})") from None


def json_list(text: str) -> tuple[str, ...]:
    """Reads a JSON list of texts."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f'expected a JSON list of texts such as ["a", "b"], found {text[:60]!r}')
    return tuple(value)

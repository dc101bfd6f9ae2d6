"""The first line of a refused body's error: one sentence for people.

The list of problems that programs read follows it (validation_errors.py).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from .validation import Record, names, required
from .validation_errors import Problem, short

Form = tuple[tuple[str, ...], type[Record]]
"""One form of a body: the keys that a body needs for the form to be tried, and the form's record."""

LIKE = 0.6
"""Least similarity (difflib's ratio) of two names for a spelling mistake; `queries` and `query` have 0.67."""
PLAIN = {
    "string_type": "a text",
    "list_type": "a list",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "dict_type": "an object",
    "model_attributes_type": "an object",
}
"""pydantic's name of a rule -> what the rule expects."""
MOST_NAMES = 5
"""Unknown names that a sentence lists."""
MOST_LETTERS = 60
"""Characters of each of them."""


def sentence(value: Any, forms: Sequence[Form], problems: Sequence[Sequence[Problem]]) -> str:
    """Returns the sentence for a body that fits none of the forms.

    Args:
        problems: for each form, the problems of the body with it.
    """
    if type(value) is not dict:
        return f"the body is {_kind(value)}, expected a JSON object with {_needed(forms)}"
    nearest = min(range(len(forms)), key=lambda index: len(_missing(value, forms[index])))
    missing = _missing(value, forms[nearest])
    if missing:
        return _incomplete(value, forms, missing)
    return _wrong(problems[nearest]) + _slip(value, forms)


def _incomplete(value: Mapping[str, Any], forms: Sequence[Form], missing: Sequence[str]) -> str:
    unknown = _unknown(value, forms)
    needed = list(dict.fromkeys(name for form in forms for name in _missing(value, form)))
    for name in unknown:
        if meant := difflib.get_close_matches(name, needed, n=1, cutoff=LIKE):
            return f"`{name}` is unknown here, did you mean `{meant[0]}`?"
    also = f"; unknown here: {_names(unknown)}" if unknown else ""
    if len(forms) == 1:
        return f"{_names(missing)} {'is' if len(missing) == 1 else 'are'} missing{also}"
    return f"{_names(missing)} {'is' if len(missing) == 1 else 'are'} missing: send {_needed(forms)}{also}"


def _wrong(problems: Sequence[Problem]) -> str:
    first = problems[0]
    same = [problem for problem in problems if problem.loc[:2] == first.loc[:2]]
    # A value of a union has problems with each member. The deepest problem is of the member that was meant.
    depth = max(len(problem.loc) for problem in same)
    chosen = first if depth <= 2 else [problem for problem in same if len(problem.loc) == depth][-1]
    place = ".".join(map(str, chosen.loc[1:])) or "the body"
    if chosen.kind == "missing":
        return f"`{place}` is missing"
    if chosen.kind == "value_error":
        return chosen.text.removeprefix("Value error, ")
    alternatives = [problem for problem in same if problem.loc == first.loc] if depth <= 2 else [chosen]
    wanted = dict.fromkeys(
        PLAIN.get(problem.kind, problem.text.removeprefix("Input should be ")) for problem in alternatives
    )
    return f"`{place}`: expected {' or '.join(wanted)}, found {_shown(chosen.value)}"


def _shown(value: Any) -> str:
    if isinstance(value, list | dict | None):
        return _kind(value)
    return repr(short(value)) if isinstance(value, str) else short(value)


def _slip(value: Mapping[str, Any], forms: Sequence[Form]) -> str:
    """Returns a hint at a field that was ignored because its name is misspelled; "" where there is none."""
    absent = [name for _, form in forms for name in names(form) if name not in value]
    for name in _unknown(value, forms):
        if meant := difflib.get_close_matches(name, absent, n=1, cutoff=LIKE):
            return f"; `{name}` is unknown here, did you mean `{meant[0]}`?"
    return ""


def _missing(value: Mapping[str, Any], form: Form) -> list[str]:
    return [name for name in required(form[1]) if name not in value]


def _unknown(value: Mapping[str, Any], forms: Sequence[Form]) -> list[str]:
    known = {name for _, form in forms for name in names(form)}
    return [name[:MOST_LETTERS] for name in list(value)[: 4 * MOST_NAMES] if name not in known][:MOST_NAMES]


def _needed(forms: Sequence[Form]) -> str:
    ways = [_names(required(form)) for _, form in forms if required(form)]
    return ", or ".join(dict.fromkeys(ways)) or "its fields"


def _names(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case list():
            return "a list"
        case dict():
            return "an object"
        case bool():
            return "a boolean"
        case str():
            return "a text"
        case _:
            return "a number"

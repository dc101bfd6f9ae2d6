"""How every command reads its arguments: flags anywhere among the positionals, dashes or underscores in their
names, one line for what is wrong, and numbers as people write them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError

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
_KEPT = "\0"
"""Begins the stand-in of an argument behind `--`, which argparse must not take for a flag."""


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed has overloads by the namespace's type)
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        """As argparse, but a positional that follows a flag is one as well, and everything behind `--` is."""
        arguments = list(args or ())
        given = [spelled(argument) for argument in _before(arguments)]
        behind = arguments[len(given) + 1 :]
        stand_ins = {f"{_KEPT}{place}": argument for place, argument in enumerate(behind)}
        found = self.parse_intermixed_args([*given, *stand_ins], namespace)
        for name, value in vars(found).items() if stand_ins else ():
            setattr(found, name, _restored(value, stand_ins))
        return found


def _before(arguments: Sequence[str]) -> list[str]:
    """The arguments in front of `--`."""
    return list(arguments[: arguments.index("--")] if "--" in arguments else arguments)


def _restored(value: Any, stand_ins: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_restored(item, stand_ins) for item in value]
    if isinstance(value, Path):
        return Path(stand_ins[str(value)]) if str(value) in stand_ins else value
    return stand_ins.get(value, value) if isinstance(value, str) else value


def spelled(argument: str) -> str:
    """`--hf_overrides.num_labels=1` -> `--hf-overrides.num_labels=1`: of a flag the name only,
    in vLLM's two spellings."""
    if not re.match(r"--[A-Za-z]", argument):
        return argument
    name = re.match(r"--[\w-]*", argument)
    assert name is not None, "it begins with two dashes"
    return name[0].replace("_", "-") + argument[name.end() :]


def whole_number(text: str) -> int:
    """`512`, `1k` (1000), `1K` (1024), `25.6k`, `2M`, ... as vLLM reads them. Raises
    argparse.ArgumentTypeError."""
    found = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([kKmMgGtT]?)", text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected a whole number such as 512, 1k (1000) or 1K (1024), found {text!r}"
        )
    number, suffix = found.groups()
    if "." not in number:
        return int(number) * _MULTIPLIERS.get(suffix, 1)
    if not suffix.islower():
        told = f"; did you mean {number}{suffix.lower()}?" if suffix else ""
        raise argparse.ArgumentTypeError(
            f"a fraction needs a decimal suffix (k, m, g, t), found {text!r}{told}"
        )
    return round(float(number) * _MULTIPLIERS[suffix])


def positive(text: str) -> int:
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value


def natural(text: str) -> int:
    value = whole_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {value}")
    return value


def length_or_auto(text: str) -> int | None:
    """vLLM's --max-model-len: `auto` and -1 are the model's own limit, which is None."""
    return None if text.strip().lower() in ("auto", "-1") else positive(text)

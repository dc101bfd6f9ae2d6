"""How every command reads its arguments: flags stand anywhere among the positionals, their names have dashes
or underscores, a mistake is one line, and numbers may be written as 512, 1k or 1K."""

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
"""First character of the stand-in of an argument behind `--`, which argparse must not take for a flag."""


class Parser(argparse.ArgumentParser):
    """Raises InputError instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")

    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride] (typeshed has overloads by the namespace's type)
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        """Parses as argparse does, but positionals may follow flags, and every argument behind `--` is a
        positional. Raises InputError."""
        arguments = list(args or ())
        before = [spelled(argument) for argument in _before(arguments)]
        behind = arguments[len(before) + 1 :]
        stand_ins = {f"{_KEPT}{place}": argument for place, argument in enumerate(behind)}
        options = self.parse_intermixed_args([*before, *stand_ins], namespace)
        for name, value in vars(options).items() if stand_ins else ():
            setattr(options, name, _restored(value, stand_ins))
        return options


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
    """Returns a flag with dashes in its name, which vLLM spells with underscores too, and its path and value
    as they are: `--hf_overrides.num_labels=1` -> `--hf-overrides.num_labels=1`."""
    if not re.match(r"--[A-Za-z]", argument):
        return argument
    name = re.match(r"--[\w-]*", argument)
    assert name is not None, "it begins with two dashes"
    return name[0].replace("_", "-") + argument[name.end() :]


def whole_number(text: str) -> int:
    """Reads `512`, `1k` (1000), `1K` (1024), `25.6k`, `2M`, ... as vLLM does. Raises
    argparse.ArgumentTypeError."""
    match = re.fullmatch(r"([+-]?\d+(?:\.\d+)?)([kKmMgGtT]?)", text.strip())
    if match is None:
        raise argparse.ArgumentTypeError(
            f"expected a whole number such as 512, 1k (1000) or 1K (1024), found {text!r}"
        )
    number, suffix = match.groups()
    if "." not in number:
        return int(number) * _MULTIPLIERS.get(suffix, 1)
    if not suffix.islower():
        hint = f"; did you mean {number}{suffix.lower()}?" if suffix else ""
        raise argparse.ArgumentTypeError(
            f"a fraction needs a decimal suffix (k, m, g, t), found {text!r}{hint}"
        )
    return round(float(number) * _MULTIPLIERS[suffix])


def positive(text: str) -> int:
    """Reads a whole number from 1. Raises argparse.ArgumentTypeError."""
    value = whole_number(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {value}")
    return value


def natural(text: str) -> int:
    """Reads a whole number from 0. Raises argparse.ArgumentTypeError."""
    value = whole_number(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, found {value}")
    return value


def length_or_auto(text: str) -> int | None:
    """Reads vLLM's --max-model-len: `auto` and -1 are the model's own limit, which is None. Raises
    argparse.ArgumentTypeError."""
    return None if text.strip().lower() in ("auto", "-1") else positive(text)

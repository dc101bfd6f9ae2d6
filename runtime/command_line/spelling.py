"""The spellings of a command line: dashes or underscores in a flag's name, `--no-` forms, JSON objects with
dotted keys, several values behind one flag, flags anywhere among the positionals.

`normalised` turns all of these into the one plain spelling that click reads: `--name=value` and `--name`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import InputError
from ..json_objects import dotted
from .flags import Flag, Value


@dataclass(slots=True)
class Line:
    """A command line in plain spelling."""

    flags: list[str] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    """Flag -> how many arguments stand before its last use."""

    def arguments(self) -> list[str]:
        return [*self.flags, "--", *self.positionals]


def names(values: Iterable[Value]) -> dict[str, tuple[Value, bool]]:
    """Every name of every flag, and whether it turns its flag off."""
    table: dict[str, tuple[Value, bool]] = {}
    for value in values:
        if isinstance(value.declaration, Flag):
            table |= dict.fromkeys((value.name, *value.declaration.aliases), (value, False))
            if value.kind == "switch" and not value.declaration.ignored:
                table.setdefault(f"no-{value.name}", (value, True))
    return table


def normalised(arguments: Sequence[str], values: Iterable[Value], *, see: str) -> Line:
    """Raises InputError for a flag that is unknown, or lacks its value.

    Args:
        see: where the flags are listed, for errors: `poolrt serve --help`.
    """
    table, line = names(values), Line()
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument == "--":
            line.positionals += rest
            break
        if not _is_flag(argument):
            line.positionals.append(argument)
            continue
        written, equals, text = argument.partition("=")
        head, dot, path = written[2:].partition(".")
        head = dashed(head)
        if argument in ("-h", "--help"):
            line.flags.append("--help")
            continue
        value, negative = table.get(head, (None, False)) if argument.startswith("--") else (None, False)
        if value is None or (dot and value.kind != "object"):
            raise InputError(f"unrecognized arguments: {argument}{meant(written, table)}; see {see}")
        line.places[value.name] = len(arguments) - len(rest)
        if value.kind == "switch":
            if equals:
                raise InputError(
                    f"argument --{head}: it takes no value, found {text[:60]!r}; --no-{value.name} turns it "
                    f"off; see {see}",
                    field=value.name,
                )
            line.flags.append(f"--no-{value.name}" if negative else f"--{value.name}")
            continue
        texts = [text] if equals else _behind(rest, several=_takes_words(value)) or _bare(value)
        if not texts:
            raise InputError(f"argument {written}: a value is expected; see {see}", field=value.name)
        if dot:
            texts = [json.dumps(dotted(path, texts[0]))]
        if _takes_words(value):  # a later use replaces an earlier one, as in argparse
            line.flags = [flag for flag in line.flags if not flag.startswith(f"--{value.name}=")]
        line.flags += [f"--{value.name}={text}" for text in texts]
    return line


def dashed(name: str) -> str:
    """A name with dashes, which vLLM spells with underscores too."""
    return name.replace("_", "-")


def meant(written: str, known: Iterable[str], *, dashes: str = "--") -> str:
    """The end of an error's text, such as `; did you mean --port?`; empty where nothing is close."""
    word = dashed(written.lstrip("-").partition(".")[0])
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {dashes}{close[0]}?" if close else ""


def choose(word: str, known: Mapping[str, object], *, fold: bool = True) -> str:
    """`meant` for a word without dashes.

    Args:
        fold: underscores of the word are dashes.
    """
    if fold:
        return meant(word, known, dashes="")
    close = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {close[0]}?" if close else ""


def _takes_words(value: Value) -> bool:
    return isinstance(value.declaration, Flag) and value.declaration.words


def _bare(value: Value) -> list[str]:
    bare = value.declaration.bare if isinstance(value.declaration, Flag) else None
    return [] if bare is None else [bare]


def _is_flag(text: str) -> bool:
    """Whether an argument is a flag: not a negative number, nor a text of several words."""
    return (
        len(text) > 1
        and text.startswith("-")
        and re.fullmatch(r"-\d+(\.\d+)?|-\.\d+", text) is None
        and (" " not in text.partition("=")[0])
    )


def _behind(rest: list[str], *, several: bool) -> list[str]:
    """Takes the values of a flag from the arguments behind it."""
    taken: list[str] = []
    while rest and not _is_flag(rest[0]) and rest[0] != "--" and (several or not taken):
        taken.append(rest.pop(0))
    return taken

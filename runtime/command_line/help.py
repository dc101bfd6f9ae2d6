"""`poolrt COMMAND --help`: usage, groups of flags with their defaults and environment variables, examples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from .flags import MISSING, Argument, Flag, Value, text_of
from .terminal import console

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

GENERAL = "flags"
WIDEST = 36
"""Columns of flags and their values; help of a longer one begins on the next line."""


def label(value: Value) -> str:
    """A value as an error names it."""
    if isinstance(value.declaration, Argument):
        return value.declaration.metavar
    return f"--{value.name}"


def of_command(
    name: str, about: str, members: Sequence[Value], *, examples: Sequence[str] = (), notes: str = ""
) -> str:
    """The whole page, with colours where stdout is a terminal."""
    values = [
        value for value in members if not (isinstance(value.declaration, Flag) and value.declaration.hidden)
    ]
    arguments = [value for value in values if isinstance(value.declaration, Argument)]
    groups: dict[str, list[Value]] = {}
    for value in values:
        if isinstance(value.declaration, Flag):
            groups.setdefault(value.declaration.group or GENERAL, []).append(value)
    general = groups.pop(GENERAL, [])
    sections = [("arguments", arguments), *groups.items(), (GENERAL, general)]
    out = console()
    with out.capture() as capture:
        out.print(_usage(name, arguments))
        out.print(f"\n{about}")
        for title, rows in sections:
            if rows:
                out.print()
                out.print(f"{title}:", style="bold")
                out.print(*_rows([_row(value, name) for value in rows]), sep="\n")
        if examples:
            out.print()
            out.print("examples:", style="bold")
            for example in examples:
                out.print(f"  {example}", soft_wrap=True)
        if notes:
            out.print(f"\n{notes}")
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def _usage(name: str, arguments: Sequence[Value]) -> Text:
    from rich.text import Text

    text = Text.assemble(("usage: ", "bold"), f"poolrt {name} [FLAGS]")
    for value in arguments:
        word = label(value)
        if value.kind == "several":
            text.append(f" [{word} ...]")
        else:
            text.append(f" {word}" if value.default is MISSING else f" [{word}]")
    return text


def _row(value: Value, command: str) -> tuple[Text, Text]:
    from rich.text import Text

    declaration = value.declaration
    if isinstance(declaration, Argument):
        name, metavar = declaration.metavar, ""
    else:
        both = value.kind == "switch" and value.default is not False
        name = f"--{value.name}" + (f", --no-{value.name}" if both else "")
        metavar = "" if value.kind == "switch" else declaration.metavar or _metavar(value)
        if declaration.words:
            metavar += " ..."
        if declaration.bare is not None:
            metavar = f"[{metavar}]"
    spelled = Text.assemble((name, "bold cyan"), (f" {metavar}" if metavar else "", "cyan"))
    remarks = [*_default(value), *([f"env: {variable}"] if (variable := value.variable(command)) else [])]
    about = Text(declaration.help)
    if remarks:
        about.append(f"{' ' if declaration.help else ''}[{'; '.join(remarks)}]", "dim")
    return spelled, about


def _metavar(value: Value) -> str:
    if value.choices:
        return "|".join(value.choices)
    return {"object": "JSON"}.get(value.kind, value.name.rpartition("-")[2].upper())


def _default(value: Value) -> Iterable[str]:
    declaration = value.declaration
    if isinstance(declaration, Flag) and declaration.default:
        return [f"default: {declaration.default}"]
    if value.default in (MISSING, None, False, (), "") or value.default in ([], {}):
        return []
    return [f"default: {text_of(value.default)}"]


def _rows(rows: Sequence[tuple[Text, Text]]) -> Iterable[RenderableType]:
    from rich.padding import Padding
    from rich.table import Table

    width = min(max(len(spelled) for spelled, _ in rows), WIDEST)
    for spelled, about in rows:
        if len(spelled) > width:
            yield Padding(spelled, (0, 0, 0, 2))
            yield Padding(about, (0, 0, 0, width + 4))
            continue
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(width=0)
        grid.add_column(width=width)
        grid.add_column(overflow="fold")
        grid.add_row("", spelled, about)
        yield grid


def of_commands(abouts: Mapping[str, str]) -> str:
    """The page of `poolrt --help`."""
    from rich.text import Text

    out = console()
    with out.capture() as capture:
        out.print(Text.assemble(("usage: ", "bold"), "poolrt COMMAND [...]"))
        out.print("\nPooling models: export with the head, verify, compile, serve behind vLLM's API.\n")
        width = max(map(len, abouts))
        for name, about in abouts.items():
            out.print(Text.assemble("  ", (f"{name:<{width}}", "bold cyan"), f"  {about}"), soft_wrap=True)
        out.print()
        out.print(
            "poolrt COMMAND --help, or poolrt help COMMAND, says more; every command takes --json and "
            "--config. --version shows the version."
        )
    return capture.get().rstrip("\n")

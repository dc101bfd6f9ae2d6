"""The reference of the command line in Markdown, made of the declarations of the flags."""

from __future__ import annotations

from poolrt.runtime.command_line.flags import Argument, Flag, Value
from poolrt.runtime.commands import cli

INTRODUCTION = """\
# Command line

Made of the declarations that `poolrt COMMAND --help` shows too. Each flag also is an environment variable
and a name in the file of `--config`; a flag is stronger than a variable, and a variable than a file.
"""


def page() -> str:
    """The whole page, a section for each command."""
    parts = [INTRODUCTION]
    for command in sorted(cli.loaded(), key=lambda command: command.name or ""):
        name = command.name or ""
        values = [value for value in command.values if not _hidden(value)]
        arguments = [value for value in values if isinstance(value.declaration, Argument)]
        parts += [f"## poolrt {name}", "", (command.help or "").strip(), ""]
        if command.examples:
            parts += ["```", *command.examples, "```", ""]
        if arguments:
            parts += ["| argument | what it is |", "|---|---|"]
            parts += [
                f"| `{value.declaration.metavar}` | {_cell(value.declaration.help)} |" for value in arguments
            ]
            parts.append("")
        parts += ["| flag | default | variable | what it does |", "|---|---|---|---|"]
        parts += [_row(value, name) for value in values if isinstance(value.declaration, Flag)]
        parts.append("")
    return "\n".join(parts)


def _hidden(value: Value) -> bool:
    return isinstance(value.declaration, Flag) and (value.declaration.hidden or value.declaration.ignored)


def _row(value: Value, command: str) -> str:
    flag = value.declaration
    assert isinstance(flag, Flag)
    takes = "" if value.kind == "switch" else flag.metavar or "|".join(value.choices) or value.name.upper()
    spelled = f"`--{value.name} {takes}`".replace(" `", "`").replace("|", "\\|")
    default = flag.default or ("" if value.default in (None, False, (), [], {}) else str(value.default))
    if "MISSING" in default or "factory" in default:
        default = ""
    return f"| {spelled} | {_cell(default)} | `{value.variable(command)}` | {_cell(flag.help)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")

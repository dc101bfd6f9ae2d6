"""The declaration of a flag: an annotation of a parameter of a command, or of a field of a record.

    def shout(text: Annotated[str, Argument("TEXT", "what to shout")], *,
              times: Annotated[int, Flag("how often", at_least=1)] = 1): ...

Name, type and default are the parameter's own. The command line, the environment (`POOLRT_TIMES`), `--config`
files, `--help` and completion are made of it. This file imports no click, so that records of settings may
declare flags.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from . import values

MISSING = dataclasses.MISSING
Kind = Literal["switch", "single", "several", "object"]
"""on or off; one text; a list of texts; a JSON object that may come in parts."""


@dataclass(frozen=True, slots=True)
class Flag:
    """What `--name VALUE` means to a command."""

    help: str = ""
    group: str = ""
    """Title under which `--help` lists it."""
    metavar: str = ""
    name: str = ""
    """`max-items`; empty: the parameter's name."""
    aliases: tuple[str, ...] = ()
    """Older names, which are read and not shown."""
    read: Callable[[str], object] | None = None
    """Makes a value of a text, or raises ValueError with what was expected; None: by the parameter's type."""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    finish: Callable[[Any], object] | None = None
    """Makes the parameter's value of the whole object or list, after its parts were put together."""
    off: bool = False
    """The flag turns a parameter off that is on by default."""
    bare: str | None = None
    """The text that the flag stands for where no value follows it; None: it needs one."""
    words: bool = False
    """The list may stand behind one flag (`--api-key k1 k2`); else the flag is repeated."""
    variables: tuple[str, ...] = ()
    """Environment variables of other programs that are read too, behind poolrt's own."""
    own: bool = False
    """It belongs to one run of one command (a file to write), so the variable carries the command's name."""
    default: str = ""
    """How `--help` spells the default, where the value does not say it."""
    hidden: bool = False
    ignored: bool = False
    """vLLM has it and poolrt does without: accepted, without effect."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A positional: one, or all that remain where the parameter is a tuple."""

    metavar: str
    help: str = ""
    config: tuple[str, ...] = ()
    """Names under which a `--config` file may hold it."""
    variable: str = ""
    """Environment variable that is read where the command line has none."""
    complete: Literal["", "file", "dir"] | Callable[[], Iterable[str]] = ""
    """What a shell completes it to: a file, a folder, or a folder or one of the words of a function."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value that a command takes."""

    parameter: str
    declaration: Flag | Argument
    kind: Kind
    read: Callable[[str], object]
    default: Any
    """MISSING: it must be given."""
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`max-items`, of a positional its parameter's name."""
        own = self.declaration.name if isinstance(self.declaration, Flag) else ""
        return own or self.parameter.replace("_", "-")

    @property
    def key(self) -> str:
        """Its name among the values that were read."""
        return self.name.replace("-", "_")

    def variables(self, command: str) -> tuple[str, ...]:
        """The environment variables that set it, the strongest first."""
        if isinstance(self.declaration, Argument):
            return (self.declaration.variable,) if self.declaration.variable else ()
        if self.declaration.ignored:
            return ()
        own = f"POOLRT_{command.upper().replace('-', '_')}_{self.key.upper()}"
        shared = () if self.declaration.own else (f"POOLRT_{self.key.upper()}",)
        return (own, *shared, *self.declaration.variables)

    def variable(self, command: str) -> str:
        """The environment variable that `--help` shows."""
        names = [name for name in self.variables(command) if name.startswith("POOLRT_")]
        return names[min(1, len(names) - 1)] if names else ""


def declared(target: Callable[..., object]) -> list[Value]:
    """The values that a function or a record declares, those of the records among its parameters included."""
    collected: list[Value] = []
    for name, annotation, default in _parameters(target):
        flag = next((note for note in _notes(annotation) if isinstance(note, Flag | Argument)), None)
        if flag is not None:
            collected.append(_value(name, annotation.__origin__, default, flag))
        elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            collected += declared(annotation)
        else:
            assert inspect.isclass(target), f"{target.__name__}: parameter {name} has no Flag"
    return collected


def build(target: Callable[..., Any], values: Mapping[str, object]) -> Any:
    """Calls a function, or makes a record, with the values that were read for what it declares."""
    keywords: dict[str, Any] = {}
    for name, annotation, default in _parameters(target):
        flag = next((note for note in _notes(annotation) if isinstance(note, Flag | Argument)), None)
        if flag is not None:
            value = _value(name, annotation.__origin__, default, flag)
            content = values[value.key]
            if isinstance(content, list) and get_origin(_required(annotation.__origin__)) is tuple:
                content = tuple(content)
            keywords[name] = not content if isinstance(flag, Flag) and flag.off else content
        elif dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
            keywords[name] = build(annotation, values)
    return target(**keywords)


def _notes(annotation: Any) -> tuple[Any, ...]:
    return annotation.__metadata__ if get_origin(annotation) is Annotated else ()


def _parameters(target: Callable[..., object]) -> list[tuple[str, Any, Any]]:
    """(name, annotation, default) of each parameter."""
    hints = get_type_hints(target, include_extras=True)
    if dataclasses.is_dataclass(target):
        return [
            (
                field.name,
                hints[field.name],
                field.default if field.default_factory is MISSING else field.default_factory(),
            )
            for field in dataclasses.fields(target)
        ]
    return [
        (name, hints[name], MISSING if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(target).parameters.items()
    ]


def _value(name: str, annotation: Any, default: Any, declaration: Flag | Argument) -> Value:
    plain = _required(annotation)
    origin, arguments = get_origin(plain) or plain, get_args(plain)
    read = declaration.read if isinstance(declaration, Flag) else None
    kind: Kind = "single"
    choices: tuple[str, ...] = ()
    if plain is bool:
        kind, read = "switch", read or values.switch
    elif origin in (dict, Mapping) and read is None:
        kind, read = "object", values.json_object
    elif origin in (tuple, list) and not (
        isinstance(declaration, Flag) and declaration.read is values.json_list
    ):
        kind, read = "several", read or _reader(arguments[0], declaration)
    elif origin is Literal:
        choices = tuple(map(str, arguments))
        read = read or values.choice(choices)
    if isinstance(declaration, Flag) and declaration.off:
        default = not default
    if isinstance(declaration, Argument) and kind == "several" and default is MISSING:
        default = []
    return Value(name, declaration, kind, read or _reader(plain, declaration), default, choices)


def _required(annotation: Any) -> Any:
    """The annotation without `| None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0] if len(parts) == 1 else annotation
    return annotation


def _reader(annotation: Any, declaration: Flag | Argument) -> Callable[[str], object]:
    if annotation in (int, float):
        bounds = (
            (declaration.at_least, declaration.above, declaration.at_most)
            if isinstance(declaration, Flag)
            else (None, None, None)
        )
        return values.number(values.whole_number if annotation is int else values.fraction, *bounds)
    return Path if annotation is Path else str


def text_of(value: object) -> str:
    """A default as a command line spells it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, str | Path | int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple | list):
        return " ".join(map(text_of, value))
    return json.dumps(value)

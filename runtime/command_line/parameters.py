"""click's parameters, made of declared values.

A value comes from the command line, else from the environment, else from the `--config` file, else it is the
default. JSON objects are merged from all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from ..errors import InputError
from ..json_objects import gathered
from . import config_file, values
from .flags import Argument, Flag, Value


@dataclass(slots=True)
class Invocation:
    """Where the values of one call come from, beside the command line."""

    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)
    config: Mapping[str, Any] = field(default_factory=dict)
    config_name: str = ""


class Option(click.Option):
    """A flag."""

    def __init__(self, value: Value) -> None:
        self.value = value
        name = f"--{value.name}"
        if value.kind == "switch" and not _flag(value).ignored:
            name += f"/--no-{value.name}"
        super().__init__(
            [name, value.key],
            is_flag=value.kind == "switch",
            multiple=value.kind in ("several", "object"),
            default=None,
            type=None if value.kind == "switch" else str,
            help=_flag(value).help,
            hidden=_flag(value).hidden,
        )

    def handle_parse_result(self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]) -> Any:
        return _resolved(self, self.value, ctx, opts), args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if self.value.choices:
            return [CompletionItem(word) for word in self.value.choices if word.startswith(incomplete)]
        return [CompletionItem(incomplete, type="file")] if self.value.read is Path else []


class Positional(click.Argument):
    """An argument without a flag."""

    def __init__(self, value: Value) -> None:
        self.value = value
        several = value.kind == "several"
        super().__init__([value.key], nargs=-1 if several else 1, required=False, type=str)

    def handle_parse_result(self, ctx: click.Context, opts: Mapping[str, Any], args: list[str]) -> Any:
        return _resolved(self, self.value, ctx, opts), args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        assert isinstance(self.value.declaration, Argument)
        complete = self.value.declaration.complete
        if callable(complete):
            words = [CompletionItem(word) for word in complete() if word.startswith(incomplete)]
            return [*words, CompletionItem(incomplete, type="dir")]
        return [CompletionItem(incomplete, type=complete)] if complete else []


def _resolved(
    parameter: click.Parameter, value: Value, ctx: click.Context, opts: Mapping[str, Any]
) -> object:
    """The value of a parameter, which is put into the context. Raises InputError."""
    try:
        result, source = resolve(value, opts.get(value.key), ctx)
    except (InputError, ValueError):
        if not ctx.resilient_parsing:
            raise
        result, source = None, ParameterSource.DEFAULT
    ctx.params[value.key] = result
    ctx.set_parameter_source(value.key, source)
    return result


def resolve(value: Value, written: Any, ctx: click.Context) -> tuple[Any, ParameterSource]:
    """The value and where it comes from.

    Args:
        written: what the parser of the command line has: a text, a tuple of texts, a boolean; None: nothing.
    """
    invocation = ctx.find_root().obj or Invocation()
    command, see = ctx.info_name or "", f"{ctx.command_path} --help"
    collected: list[tuple[ParameterSource, str, list[str] | bool]] = []
    if (texts := _texts(value, written)) is not None:
        collected.append((ParameterSource.COMMANDLINE, f"argument {_label(value)}", texts))
    collected += from_environment(value, command, invocation.environment)
    if value.key in invocation.config:
        where = f"--config {invocation.config_name}: {value.key}"
        content = config_file.texts_of(value, invocation.config[value.key], where)
        collected.append((ParameterSource.DEFAULT_MAP, where, content))
    if not collected:
        return value.default, ParameterSource.DEFAULT
    source = collected[0][0]
    if value.kind == "object":
        parts = [
            read(value, text, where, see) for _, where, texts in reversed(collected) for text in _list(texts)
        ]
        return _finished(value, gathered(parts), collected[0][1]), source
    if isinstance(value.declaration, Argument) and value.kind == "several":
        # Artifacts of a file stand beside those of the command line.
        collected = [*collected[:0:-1], collected[0]]
        return [
            read(value, text, where, see) for _, where, texts in collected for text in _list(texts)
        ], source
    strongest = [entry for entry in collected if entry[0] == source]
    if value.kind == "several":
        several = [read(value, text, where, see) for _, where, texts in strongest for text in _list(texts)]
        return _finished(value, several, strongest[0][1]), source
    _, where, texts = strongest[0]
    if isinstance(texts, bool):
        return texts, source
    return read(value, texts[-1], where, see), source


def _flag(value: Value) -> Flag:
    assert isinstance(value.declaration, Flag)
    return value.declaration


def _label(value: Value) -> str:
    return f"--{value.name}" if isinstance(value.declaration, Flag) else value.declaration.metavar


def _list(texts: list[str] | bool) -> list[str]:
    assert not isinstance(texts, bool)
    return texts


def _texts(value: Value, written: Any) -> list[str] | bool | None:
    if value.kind == "switch":
        return written if isinstance(written, bool) else None
    if isinstance(written, tuple | list):
        # `--api-key ""` is no key.
        words = isinstance(value.declaration, Flag) and value.declaration.words
        return [text for text in written if text or not words] or None
    return [written] if isinstance(written, str) else None


def is_link(name: str, text: str) -> bool:
    """Whether Kubernetes set a variable: of a service called poolrt it tells pods `POOLRT_PORT=tcp://ADDRESS`,
    `POOLRT_SERVICE_HOST` and the like."""
    return name.startswith(("POOLRT_SERVICE_", "POOLRT_PORT_")) or text.startswith(
        ("tcp://", "udp://", "sctp://")
    )


def from_environment(
    value: Value, command: str, environment: Mapping[str, str]
) -> list[tuple[ParameterSource, str, list[str] | bool]]:
    """The strongest variable of poolrt, and those of other programs."""
    collected: list[tuple[ParameterSource, str, list[str] | bool]] = []
    for name in value.variables(command):
        if not (text := environment.get(name)) or is_link(name, text):
            continue
        if name.startswith("POOLRT_") and collected:
            continue
        if value.kind == "switch":
            content: list[str] | bool = _named(values.switch, text, name)
        elif value.kind == "several":
            content = (
                list(_named(values.json_list, text, name)) if text.lstrip().startswith("[") else text.split()
            )
        else:
            content = [text]
        collected.append((ParameterSource.ENVIRONMENT, name, content))
    return collected


def _named(read: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise InputError(f"{name}: {error}", field=name) from None


def read(value: Value, text: str, where: str, see: str = "") -> Any:
    """The value of a text. Raises InputError that says where the text comes from."""
    try:
        return value.read(text)
    except InputError:
        raise
    except ValueError as error:
        end = f"; see {see}" if where.startswith("argument ") else ""
        raise InputError(f"{where}: {error}{end}", field=value.name) from None


def _finished(value: Value, content: Any, where: str) -> Any:
    finish = value.declaration.finish if isinstance(value.declaration, Flag) else None
    if finish is None:
        return content
    try:
        return finish(content)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: {error}", field=value.name) from None


def parameter_of(value: Value) -> click.Parameter:
    return Option(value) if isinstance(value.declaration, Flag) else Positional(value)

"""The `poolrt` command: finds the subcommand and runs it. The list of subcommands runs none of their code."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import click
from click.shell_completion import CompletionItem, shell_complete

from .. import errors
from ..command_line.command import Command, finished
from ..command_line.spelling import choose
from ..version import version

GROUP = "poolrt.commands"
COMPLETE = "_POOLRT_COMPLETE"
"""The variable of click's completion protocol: `eval "$(_POOLRT_COMPLETE=bash_source poolrt)"`."""

# command -> (what it does, module:object inside the package, extra that installs the libraries it needs)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "export": (
        "make a verified artifact of a checkpoint (folder or hub id)",
        "exporter.cli:export",
        "export",
    ),
    "build": ("compile engines for an artifact", "exporter.cli:build", "export"),
    "verify": ("prove an artifact's numbers again", "exporter.cli:verify", "export"),
    "triton": (
        "write a model repository of Triton Inference Server",
        "exporter.triton.command:triton",
        "export",
    ),
    "inspect": ("show what an artifact is and can do", "runtime.commands.model_commands:inspect", "cpu"),
    "embed": ("embed texts", "runtime.commands.model_commands:embed", "cpu"),
    "embed-dataset": (
        "embed every row of a dataset into Parquet, resumably",
        "runtime.commands.dataset_command:embed_dataset",
        "dataset",
    ),
    "score": ("score a query against documents", "runtime.commands.model_commands:score", "cpu"),
    "rerank": ("sort documents by their score", "runtime.commands.model_commands:rerank", "cpu"),
    "classify": (
        "label texts, or the tokens of texts",
        "runtime.commands.classify_command:classify",
        "cpu",
    ),
    "bench": ("measure an artifact on this machine", "runtime.commands.model_commands:bench", "cpu"),
    "serve": ("serve artifacts over HTTP, with vLLM's API", "serve.cli:serve", "serve"),
    "list": ("list the stored artifacts", "runtime.commands.store_commands:list_artifacts", "hub"),
    "pull": (
        "store an artifact from the hub, a bucket or a web server",
        "runtime.commands.store_commands:pull",
        "hub",
    ),
    "push": (
        "publish an artifact to the hub, a bucket or a folder",
        "runtime.commands.store_commands:push",
        "hub",
    ),
    "rm": ("remove stored artifacts", "runtime.commands.store_commands:rm", "hub"),
    "prune": ("remove drafts and caches that nobody needs", "runtime.commands.store_commands:prune", "hub"),
    "recipes": ("list the models that have a recipe", "exporter.cli:recipes", "export"),
    "doctor": (
        "say what this machine offers and what is missing",
        "runtime.commands.model_commands:doctor",
        "cpu",
    ),
}


class Commands(click.Group):
    """`poolrt` for click's completion: its subcommands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_places())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _places():
            return None
        command = _command(cmd_name)
        return command if isinstance(command, click.Command) else click.Command(cmd_name)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return [
            CompletionItem(name, help=about)
            for name, about in _abouts().items()
            if name.startswith(incomplete)
        ]


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> int:
    """Runs one command and returns its exit code (see `errors`). It raises only under POOLRT_DEBUG=1.

    Args:
        arguments: the command and its own arguments; None: those of the process.
        environment: variables of flags; None: those of the process.
    """
    if arguments is None and (instruction := os.environ.get(COMPLETE)):
        return shell_complete(Commands("poolrt"), {}, "poolrt", COMPLETE, instruction)
    remaining = list(sys.argv[1:] if arguments is None else arguments)
    if remaining[:1] == ["help"] and len(remaining) > 1:
        remaining = [*remaining[1:], "--help"]
    if not remaining or remaining[0] in ("-h", "--help", "help"):
        return finished("", lambda: print(_usage()), extra=None)
    if remaining[0] in ("-V", "--version"):
        print(f"poolrt {version()}")
        return errors.EXIT_OK
    name = remaining.pop(0)
    extra = COMMANDS[name][2] if name in COMMANDS else None

    def run() -> object:
        command = _command(name)
        if isinstance(command, Command):
            return command(remaining, environment)
        if isinstance(command, click.Command):  # of another distribution
            return command.main(remaining, prog_name=f"poolrt {name}", standalone_mode=False)
        return command(remaining)

    return finished(name, run, extra=extra)


def loaded() -> list[Command]:
    """Every command that declares its flags, those left out whose libraries are missing."""
    commands: list[Command] = []
    for name in _places():
        with contextlib.suppress(ImportError):
            command = _command(name)
            commands += [command] if isinstance(command, Command) else []
    return commands


def _command(name: str) -> click.Command | Callable[[list[str]], object]:
    """The object that an entry point names: a click command, or a function that takes the remaining arguments
    and returns an exit code. Raises InputError."""
    places = _places()
    if name not in places:
        listed = f"the commands are {', '.join(places)}"
        raise errors.InputError(f"no such command{choose(name, places)}; {listed}")
    module, _, attribute = places[name].partition(":")
    return cast("click.Command", getattr(importlib.import_module(module), attribute))


def _places() -> dict[str, str]:
    """Command -> `module:object`: our own, and those that installed distributions add."""
    package = (__package__ or "poolrt.runtime.commands").rsplit(".", 2)[0]
    places = {name: f"{package}.{place}" for name, (_, place, _) in COMMANDS.items()}
    for entry in importlib.metadata.entry_points(group=GROUP):
        places.setdefault(entry.name, entry.value)
    return places


def _abouts() -> dict[str, str]:
    return {
        name: COMMANDS[name][0] if name in COMMANDS else f"added by {place.partition(':')[0]}"
        for name, place in _places().items()
    }


def _usage() -> str:
    from ..command_line.help import of_commands

    return of_commands(_abouts())

"""The `poolrt` command: finds the subcommand, runs it, prints an error in one line. The list of subcommands
runs none of their code."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import sys
from collections.abc import Callable, Sequence

from .. import errors, extras
from ..version import version

GROUP = "poolrt.commands"

# command -> (what it does, module:function inside the package, extra that installs the libraries it needs)
COMMANDS: dict[str, tuple[str, str, str]] = {
    "export": (
        "make a verified artifact of a checkpoint (folder or hub id)",
        "exporter.cli:export",
        "export",
    ),
    "build": ("compile engines for an artifact", "exporter.cli:build", "export"),
    "verify": ("prove an artifact's numbers again", "exporter.cli:verify", "export"),
    "inspect": ("show what an artifact is and can do", "runtime.commands.model_commands:inspect", "cpu"),
    "embed": ("embed texts", "runtime.commands.model_commands:embed", "cpu"),
    "embed-dataset": (
        "embed every row of a dataset into Parquet, resumably",
        "runtime.commands.dataset_command:embed_dataset",
        "dataset",
    ),
    "score": ("score a query against documents", "runtime.commands.model_commands:score", "cpu"),
    "rerank": ("sort documents by their score", "runtime.commands.model_commands:rerank", "cpu"),
    "bench": ("measure an artifact on this machine", "runtime.commands.model_commands:bench", "cpu"),
    "serve": ("serve artifacts over HTTP, with vLLM's API", "serve.cli:serve", "serve"),
    "recipes": ("list the models that have a recipe", "exporter.cli:recipes", "export"),
    "doctor": (
        "say what this machine offers and what is missing",
        "runtime.commands.model_commands:doctor",
        "cpu",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (see `errors`). It raises only under POOLRT_DEBUG=1.

    Args:
        arguments: the command and its own arguments; None: those of the process.
    """
    remaining = list(sys.argv[1:] if arguments is None else arguments)
    if remaining[:1] == ["help"] and len(remaining) > 1:
        remaining = [*remaining[1:], "--help"]
    if not remaining or remaining[0] in ("-h", "--help", "help"):
        print(_usage())
        return errors.EXIT_OK
    if remaining[0] in ("-V", "--version"):
        print(f"poolrt {version()}")
        return errors.EXIT_OK
    name = remaining.pop(0)
    try:
        command = _command(name)
        return _finished(command(remaining))
    except errors.PoolrtError as error:
        return _reported(name, error)
    except ModuleNotFoundError as error:
        known = extras.missing(error, COMMANDS[name][2]) if name in COMMANDS else None
        return _faulty(name, error) if known is None else _reported(name, known)
    except KeyboardInterrupt:
        _print_error(f"poolrt {name}: interrupted")
        return errors.EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`poolrt embed ... | head`). Python flushes stdout once more at
        # exit, so the rest of the output needs a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_INTERNAL
    except Exception as error:
        return _faulty(name, error)


def _reported(name: str, error: errors.PoolrtError) -> int:
    _print_error(f"poolrt {name}: {error}")
    return error.exit_code


def _faulty(name: str, error: Exception) -> int:
    if os.environ.get("POOLRT_DEBUG") == "1":
        raise error
    _print_error(f"poolrt {name}: internal error, {type(error).__name__}: {error}")
    _print_error(
        "this is a fault of poolrt: please report it with the output of the same command under "
        "POOLRT_DEBUG=1 and of `poolrt doctor`"
    )
    return errors.EXIT_INTERNAL


def _finished(code: object) -> int:
    # Writing the buffered output can fail too, and must fail where `main` reports it.
    sys.stdout.flush()
    return code if isinstance(code, int) else errors.EXIT_OK


def _command(name: str) -> Callable[[list[str]], object]:
    places = _places()
    if name not in places:
        raise errors.InputError(f"no such command; the commands are {', '.join(places)}")
    module, _, function = places[name].partition(":")
    return getattr(importlib.import_module(module), function)


def _places() -> dict[str, str]:
    """Command -> `module:function`: our own, and those that installed distributions add."""
    package = (__package__ or "poolrt.runtime.commands").rsplit(".", 2)[0]
    places = {name: f"{package}.{place}" for name, (_, place, _) in COMMANDS.items()}
    for entry in importlib.metadata.entry_points(group=GROUP):
        places.setdefault(entry.name, entry.value)
    return places


def _usage() -> str:
    lines = [
        "usage: poolrt COMMAND [...]",
        "",
        "Pooling models: export with the head, verify, compile, serve behind vLLM's API.",
        "",
    ]
    places = _places()
    width = max(map(len, places))
    for name, place in places.items():
        about = COMMANDS[name][0] if name in COMMANDS else f"added by {place.partition(':')[0]}"
        lines.append(f"  {name:<{width}}  {about}")
    return "\n".join(
        [
            *lines,
            "",
            (
                "poolrt COMMAND --help, or poolrt help COMMAND, says more; every command takes --json. "
                "--version shows the version."
            ),
        ]
    )


def _print_error(line: str) -> None:
    print(line, file=sys.stderr)

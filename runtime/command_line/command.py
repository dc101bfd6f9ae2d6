"""A command: a function whose parameters declare its flags, run with its errors in one line.

    @command(extra="serve", examples=["poolrt shout hello --times 2"])
    def shout(text: Annotated[str, Argument("TEXT", "what to shout")], *,
              times: Annotated[int, Flag("how often", at_least=1)] = 1) -> None:
        '''Shouts a text.'''

`shout(["hello", "--times", "2"])` returns its exit code.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from .. import errors, extras
from . import config_file, help, spelling
from .flags import MISSING, Flag, Value, build, declared
from .parameters import Invocation, from_environment, parameter_of
from .terminal import failure
from .values import switch

_CONFIG = Flag("YAML, JSON or TOML file with values of flags by their names", metavar="FILE", own=True)
CONFIG = Value("config", _CONFIG, "single", Path, None)
PLACES = "poolrt.places"


class Command(click.Command):
    """A subcommand of `poolrt`. Called with its arguments, it returns the exit code of `errors`."""

    def __init__(
        self,
        name: str,
        function: Callable[..., Any],
        *,
        extra: str,
        examples: Sequence[str] = (),
        notes: str = "",
        values: Sequence[Value] | None = None,
    ) -> None:
        """`values`: what the command takes; None: what the function declares."""
        self.function, self.extra, self.examples, self.notes = function, extra, tuple(examples), notes
        self.values = [*(declared(function) if values is None else values), CONFIG]
        super().__init__(
            name,
            params=[parameter_of(value) for value in self.values],
            help=inspect.cleandoc(function.__doc__ or ""),
        )

    def __call__(self, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Runs the command.

        Args:
            environment: variables of flags; None: those of the process.
        """
        variables = os.environ if environment is None else environment

        def run() -> object:
            with self.context(arguments, variables) as ctx:
                try:
                    return self.run(ctx)
                except errors.InputError as error:
                    if origins := self._origins(str(error), ctx):
                        error.args = (f"{error}; {origins}",)
                    raise

        as_json = _wants_json(arguments, variables)
        return finished(self.name or "", run, extra=self.extra, as_json=as_json, fail=self.fail)

    def fail(self, message: str) -> None:
        """Prints an error, in one line."""
        failure(f"poolrt {self.name}", message)

    def context(
        self, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> click.Context:
        """Reads the arguments: the values are the `params` of the result. Raises InputError, and click's Exit
        after --help."""
        group = click.Context(click.Group("poolrt"), info_name="poolrt")
        group.obj = Invocation(os.environ if environment is None else environment)
        return self.make_context(self.name, list(arguments), parent=group)

    def run(self, ctx: click.Context) -> object:
        """Calls the function with the values of a context."""
        return build(self.function, ctx.params)

    def invoke(self, ctx: click.Context) -> Any:
        return self.run(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        see = f"{ctx.command_path} --help"
        try:
            line = spelling.normalised(args, self.values, see=see)
        except errors.InputError:
            if not ctx.resilient_parsing:
                raise
            return super().parse_args(ctx, args)
        ctx.meta[PLACES] = line.places
        if "--help" not in line.flags and not ctx.resilient_parsing:
            self._read_config(ctx, line)
        rest = super().parse_args(ctx, line.arguments())
        missing = [help.label(value) for value in self.values if ctx.params[value.key] is MISSING]
        if missing and not ctx.resilient_parsing:
            raise errors.InputError(f"the following arguments are required: {', '.join(missing)}; see {see}")
        return rest

    def _read_config(self, ctx: click.Context, line: spelling.Line) -> None:
        invocation = ctx.find_root().obj
        variables = [invocation.environment.get(name) for name in reversed(CONFIG.variables(self.name or ""))]
        flags = [flag.partition("=")[2] for flag in line.flags if flag.startswith("--config=")]
        files = [file for file in (*variables, *flags) if file]
        if files:
            path = Path(files[-1])
            invocation.config = config_file.read(path, self.values)
            invocation.config_name = path.name

    def _origins(self, message: str, ctx: click.Context) -> str:
        """Which variables set the flags that a message names, for whoever has written none of them."""
        environment = ctx.find_root().obj.environment
        return ", ".join(
            f"--{value.name} is set by {from_environment(value, self.name or '', environment)[0][1]}"
            for value in self.values
            if ctx.get_parameter_source(value.key) == ParameterSource.ENVIRONMENT
            and re.search(rf"(?<![\w-])--{value.name}(?![\w-])", message)
        )

    def get_help(self, ctx: click.Context) -> str:
        return help.of_command(
            self.name or "", self.help or "", self.values, examples=self.examples, notes=self.notes
        )


def command(
    name: str = "", *, extra: str = "cpu", examples: Sequence[str] = (), notes: str = ""
) -> Callable[[Callable[..., Any]], Command]:
    """Makes a command of a function.

    Args:
        name: of the command; empty: the function's.
        extra: of the distribution, which installs the libraries that the command needs.
        examples: command lines for `--help`.
        notes: further paragraph of `--help`.
    """

    def decorated(function: Callable[..., Any]) -> Command:
        own = name or function.__name__.replace("_", "-")
        return Command(own, function, extra=extra, examples=examples, notes=notes)

    return decorated


def finished(
    name: str,
    run: Callable[[], object],
    *,
    extra: str | None,
    as_json: bool = False,
    fail: Callable[[str], None] | None = None,
) -> int:
    """Runs a command and returns its exit code (see `errors`). An error becomes one line on stderr, and with
    `as_json` an object on stdout. It raises only under POOLRT_DEBUG=1.

    Args:
        fail: prints an error; None: to stderr.
    """

    def failed(error: BaseException, code: int, message: str = "") -> int:
        if fail is not None:
            fail(message or str(error))
        else:
            failure(f"poolrt {name}", message or str(error))
        if as_json:
            fields = {"type": type(error).__name__, "message": message or str(error), "exit_code": code}
            print(json.dumps({"error": fields}, ensure_ascii=False), flush=True)
        return code

    try:
        code = run()
        # Writing the buffered output can fail too, and must fail where it is reported.
        sys.stdout.flush()
        return code if isinstance(code, int) else errors.EXIT_OK
    except errors.PoolrtError as error:
        if error.__cause__ is not None and _debugging():
            traceback.print_exception(error)
        return failed(error, error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        return failed(error, errors.EXIT_INPUT, error.format_message())
    except KeyboardInterrupt as error:
        return failed(error, errors.EXIT_INTERRUPTED, f"interrupted{f'; {error}' if error.args else ''}")
    except BrokenPipeError:
        # The reader of our output has gone (`poolrt embed ... | head`). Python flushes stdout once more at
        # exit, so the rest of the output needs a place to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return errors.EXIT_INTERNAL
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and extra is not None:
            missing = extras.missing(error, extra)
            if missing is not None:
                return failed(missing, missing.exit_code)
        if _debugging():
            raise
        code = failed(error, errors.EXIT_INTERNAL, f"internal error, {type(error).__name__}: {error}")
        print(
            "this is a fault of poolrt: please report it with the output of the same command under "
            "POOLRT_DEBUG=1 and of `poolrt doctor`",
            file=sys.stderr,
        )
        return code


def _debugging() -> bool:
    return os.environ.get("POOLRT_DEBUG") == "1"


def _wants_json(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    before = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--json" in before or "--no-json" in before:
        return "--json" in before
    try:
        return switch(environment.get("POOLRT_JSON", "0"))
    except ValueError:
        return False

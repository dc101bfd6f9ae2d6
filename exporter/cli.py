"""`poolrt export | build | verify | recipes`: arguments in, exit code out.

torch and transformers are imported when a command runs, so that --help is instant. The help texts of the
flags take this file above 300 lines.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime import extras, json_objects
from ..runtime.artifact.records import to_plain
from ..runtime.commands.command_line import Parser, spelled
from ..runtime.errors import EXIT_INPUT, EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_OK, PoolrtError
from .base import terminal
from .base.quiet import own_stdout

if TYPE_CHECKING:
    from .base.report import Report, Say

_EXPORT = """\
Makes a verified artifact of a checkpoint: a local folder or a hub id. What is guessed from its files is printed with the flag
that changes it. An interrupted export leaves nothing that loads.
"""  # noqa: E501
_CODES = (
    "exit codes: 0 done, 1 internal error, 2 input not usable, 3 too far from PyTorch or from the "
    "checkpoint's own library, 4 engine library, 130 interrupted"
)


def export(arguments: Sequence[str]) -> int:
    parser = _parser("export", _EXPORT)
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        help="folder with config.json and weights, or a hub id such as BAAI/bge-m3",
    )
    parser.add_argument(
        "--lora",
        metavar="ADAPTER",
        help="LoRA adapter in PEFT's format, a folder or hub id, merged into the weights",
    )
    parser.add_argument(
        "--name", help="name of the artifact (default: the checkpoint's own, then the adapter's)"
    )
    parser.add_argument("--out", default="artifacts", help="folder of artifacts (default: %(default)s)")
    parser.add_argument(
        "--precision",
        default="fp32",
        metavar="fp32|fp16|bf16|int8|int8-weights|int4-weights|auto",
        help="int8-weights, int4-weights: smaller weights only, for decoders on processors (also w8a16, "
        "w4a16, ...); auto: int8 if it is faster here and keeps its drift budget",
    )
    _add_target(
        parser,
        "also compile an engine, or prove and prepare OpenVINO here; repeat or list several "
        "(onnx is always made)",
    )
    parser.add_argument(
        "--hf-overrides",
        type=_object,
        default={},
        metavar="JSON",
        help="changes to config.json; also --hf-overrides.key value",
    )
    parser.add_argument(
        "--pooler-config",
        type=_object,
        default={},
        metavar="JSON",
        help="changes to the head; also --pooler-config.key value",
    )
    parser.add_argument(
        "--convert",
        default="auto",
        choices=("auto", "none", "embed", "classify", "reward"),
        help="what to make of the backbone",
    )
    parser.add_argument(
        "--runner",
        default="auto",
        choices=("auto", "pooling", "generate"),
        help="pooling is the only one there is",
    )
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument(
        "--subfolder",
        metavar="FOLDER",
        help="folder of the checkpoint inside a repository or folder that holds several",
    )
    parser.add_argument(
        "--no-recipe", action="store_true", help="do not use the recipe that poolrt has for this model"
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="accepted and ignored: code of a checkpoint is never run",
    )

    def run(options: argparse.Namespace, say: Say) -> Report:
        extras.require("export")
        if options.trust_remote_code:
            say(
                "note: --trust-remote-code has no effect; poolrt reads the weights with its own classes "
                "and never runs a checkpoint's code"
            )
        from . import pipeline

        return pipeline.export(
            options.checkpoint,
            name=options.name,
            out=options.out,
            precision=options.precision,
            target=options.target,
            hf_overrides=options.hf_overrides,
            convert=options.convert,
            runner=options.runner,
            pooler_config=options.pooler_config,
            revision=options.revision,
            subfolder=options.subfolder,
            recipe=None if options.no_recipe else "auto",
            lora=options.lora,
            progress=say,
        )

    return _run(parser, arguments, run)


def build(arguments: Sequence[str]) -> int:
    parser = _parser(
        "build", "Compiles engines for an artifact, from its own ONNX graph, and adds them to it."
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="folder of an artifact, its name in the store, or its address"
    )
    _add_target(parser, "what to compile for; repeat or list several", required=True)

    def run(options: argparse.Namespace, say: Say) -> Report:
        from . import pipeline

        return pipeline.build(options.artifact, target=options.target, progress=say)

    return _run(parser, arguments, run)


def verify(arguments: Sequence[str]) -> int:
    parser = _parser(
        "verify", "Proves an artifact again: every file, every engine that runs here, every task."
    )
    parser.add_argument(
        "artifact", metavar="ARTIFACT", help="folder of an artifact, its name in the store, or its address"
    )
    parser.add_argument(
        "--against",
        metavar="CHECKPOINT",
        help="compare with this checkpoint, by PyTorch and by its own library, as well; not only "
        "with golden.npz",
    )

    parser.add_argument(
        "--lora", metavar="ADAPTER", help="with --against: the adapter that was merged into the artifact"
    )

    def run(options: argparse.Namespace, say: Say) -> Report:
        from . import pipeline

        return pipeline.verified(options.artifact, against=options.against, lora=options.lora, progress=say)

    return _run(parser, arguments, run)


def recipes(arguments: Sequence[str]) -> int:
    parser = _parser(
        "recipes",
        "Lists the published models that poolrt has facts about; any other checkpoint of a "
        "known family exports as well.",
    )
    parser.add_argument(
        "pattern", nargs="?", default="", help="only those whose name or hub id contains this"
    )
    options = parser.parse_args(list(arguments))
    from .files.recipe import TASKS, all_recipes

    matching = [
        recipe
        for recipe in all_recipes()
        if options.pattern.lower() in " ".join((recipe.name, *recipe.match)).lower()
    ]
    if options.json:
        plain = [{**_object_of(recipe), "tasks": list(TASKS[recipe.task])} for recipe in matching]
        print(json.dumps(plain, ensure_ascii=False))
        return EXIT_OK
    if not matching:
        print(
            f"no recipe matches {options.pattern!r}; a checkpoint needs none unless its "
            "files leave something open"
        )
        return EXIT_OK
    rows = [("NAME", "KIND", "TASKS", "PARAMETERS", "DIM", "TOKENS", "LICENCE", "SCORES", "CHECKPOINT")]
    for recipe in matching:
        size = f"{recipe.parameters / 1e6:.0f} M" if recipe.parameters else "-"
        facts = (size, str(recipe.dimensions or "-"), str(recipe.max_tokens or "-"), recipe.licence or "-")
        published = str(sum(len(reference.scores) for reference in recipe.references) or "-")
        rows.append(
            (recipe.name, recipe.task, " ".join(TASKS[recipe.task]), *facts, published, recipe.match[0])
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(
        "\n-: read from the checkpoint at export. SCORES: published ones that `poolrt verify` compares "
        "with, given the real weights."
    )
    return EXIT_OK


def _object_of(record: Any) -> dict[str, Any]:
    plain = to_plain(record)
    assert isinstance(plain, dict)
    return plain


def _parser(command: str, description: str) -> Parser:
    parser = Parser(prog=f"poolrt {command}", description=description, epilog=_CODES, allow_abbrev=False)
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the report as JSON on stdout; progress goes to stderr either way",
    )
    return parser


def _add_target(parser: argparse.ArgumentParser, text: str, *, required: bool = False) -> None:
    parser.add_argument(
        "--target",
        action="append",
        required=required,
        default=None if required else [],
        metavar="onnx|openvino|tensorrt-rtx[:sm89,...]|tensorrt",
        help=text,
    )


def _object(text: str) -> dict[str, Any]:
    try:
        return json_objects.json_object(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str],
    command: Callable[[argparse.Namespace, Say], Report],
) -> int:
    """Parses the arguments, runs the command and prints its report. Returns the exit code.

    An error becomes one line on stderr, and with --json an object on stdout.
    """
    from .base.report import table

    wants_json = "--json" in arguments
    try:
        options = parser.parse_args(
            json_objects.undotted(
                [spelled(argument) for argument in arguments], ("--hf-overrides", "--pooler-config")
            )
        )
        if hasattr(options, "target"):
            options.target = _targets(options.target)
        with own_stdout(), terminal.interrupted_by_sigterm(), terminal.progress() as say:
            report = command(options, say)
    except PoolrtError as error:
        if error.__cause__ is not None and os.environ.get("POOLRT_DEBUG") == "1":
            traceback.print_exception(error)
        return _failed(str(error), type(error).__name__, error.exit_code, as_json=wants_json)
    except KeyboardInterrupt:
        return _failed(
            "interrupted; nothing was kept", "KeyboardInterrupt", EXIT_INTERRUPTED, as_json=wants_json
        )
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; nothing was kept: make room, or choose a folder on another disk with --out"
        return _failed(message, type(error).__name__, EXIT_INPUT, as_json=wants_json)
    except SystemExit as error:  # argparse after --help
        return int(error.code or 0)
    except Exception as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and (missing := extras.missing(error, "export")) is not None
        ):
            return _failed(str(missing), type(missing).__name__, missing.exit_code, as_json=wants_json)
        traceback.print_exc()
        message = (
            f"{type(error).__name__}: {error} (a mistake in poolrt, not of yours; "
            "please report the lines above)"
        )
        return _failed(message, type(error).__name__, EXIT_INTERNAL, as_json=wants_json)
    print(json.dumps(to_plain(report), ensure_ascii=False) if options.json else f"\n{table(report)}")
    return EXIT_OK


def _targets(values: Sequence[str]) -> list[str]:
    """`onnx,tensorrt-rtx:sm89,sm120` -> `onnx`, `tensorrt-rtx:sm89,sm120`: what starts with `sm` belongs to
    the target before it."""
    targets: list[str] = []
    for text in ",".join(values).split(","):
        if targets and text.strip().lower().startswith("sm"):
            targets[-1] += f",{text}"
        elif text.strip():
            targets.append(text.strip())
    return targets


def _failed(message: str, kind: str, code: int, *, as_json: bool) -> int:
    print(f"poolrt: {message}", file=sys.stderr)
    if as_json:
        print(
            json.dumps({"error": {"type": kind, "message": message, "exit_code": code}}, ensure_ascii=False)
        )
    return code

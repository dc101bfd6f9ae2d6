"""`poolrt export | build | verify | recipes`: arguments in, exit code out.

torch and transformers are imported when a command runs, so that --help is instant.
"""

from __future__ import annotations

import errno
import json as json_text
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from ..runtime import extras
from ..runtime.artifact.records import to_plain
from ..runtime.command_line import terminal as screen
from ..runtime.command_line.command import command
from ..runtime.command_line.flags import Argument, Flag
from ..runtime.commands.artifact_names import artifact_names
from ..runtime.errors import CheckpointError, PoolrtError
from .base import terminal
from .base.quiet import own_stdout

if TYPE_CHECKING:
    from .base.report import Report, Say

_CODES = (
    "exit codes: 0 done, 1 internal error, 2 input not usable, 3 too far from PyTorch or from the "
    "checkpoint's own library, 4 engine library, 130 interrupted"
)
_TARGETS = "onnx|openvino|tensorrt-rtx[:sm89,...]|tensorrt"

Json = Annotated[bool, Flag("print the report as JSON on stdout; progress goes to stderr either way")]
Artifact = Annotated[
    str,
    Argument(
        "ARTIFACT", "folder of an artifact, its name in the store, or its address", complete=artifact_names
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What is read of a checkpoint, and as what."""

    lora: Annotated[
        str | None,
        Flag(
            "LoRA adapter in PEFT's format, a folder or hub id, merged into the weights",
            group="checkpoint",
            metavar="ADAPTER",
            own=True,
        ),
    ] = None
    revision: Annotated[str | None, Flag("branch, tag or commit of a hub id", group="checkpoint")] = None
    subfolder: Annotated[
        str | None,
        Flag(
            "folder of the checkpoint inside a repository or folder that holds several",
            group="checkpoint",
            metavar="FOLDER",
        ),
    ] = None
    no_recipe: Annotated[
        bool, Flag("do not use the recipe that poolrt has for this model", group="checkpoint")
    ] = False
    trust_remote_code: Annotated[
        bool, Flag("accepted and ignored: code of a checkpoint is never run", group="checkpoint")
    ] = False
    hf_overrides: Annotated[
        dict[str, Any] | None,
        Flag("changes to config.json; also --hf-overrides.key value", group="head"),
    ] = None
    pooler_config: Annotated[
        dict[str, Any] | None,
        Flag("changes to the head; also --pooler-config.key value", group="head"),
    ] = None
    convert: Annotated[
        Literal["auto", "none", "embed", "classify", "reward"],
        Flag("what to make of the backbone", group="head"),
    ] = "auto"
    runner: Annotated[
        Literal["auto", "pooling", "generate"], Flag("pooling is the only one there is", group="head")
    ] = "auto"


@command(
    extra="export",
    examples=[
        "poolrt export sentence-transformers/all-MiniLM-L6-v2",
        "poolrt export ./checkpoint --precision int8 --target openvino",
        "poolrt export ./checkpoint --report",
        "poolrt export Qwen/Qwen3-Reranker-0.6B --precision fp16 --target tensorrt-rtx:sm89,sm120",
    ],
    notes=_CODES,
)
def export(
    checkpoint: Annotated[
        str,
        Argument(
            "CHECKPOINT",
            "folder with config.json and weights, or a hub id such as BAAI/bge-m3, with @REVISION or without",
            complete="dir",
        ),
    ],
    reading: Reading,
    *,
    name: Annotated[
        str | None,
        Flag("name of the artifact", default="the checkpoint's own, then the adapter's", own=True),
    ] = None,
    out: Annotated[str, Flag("folder of artifacts", metavar="FOLDER", own=True)] = "artifacts",
    precision: Annotated[
        str,
        Flag(
            "int8-weights, int4-weights: smaller weights only, for decoders on processors (also w8a16, "
            "w4a16, ...); auto: int8 if it is faster here and keeps its drift budget",
            metavar="fp32|fp16|bf16|int8|int8-weights|int4-weights|auto",
        ),
    ] = "fp32",
    target: Annotated[
        tuple[str, ...],
        Flag(
            "also compile an engine, or prove and prepare OpenVINO here; repeat or list several "
            "(onnx is always made)",
            metavar=_TARGETS,
        ),
    ] = (),
    report: Annotated[
        str | None,
        Flag(
            "also write the report as a page of HTML with plots; without FILE beside the artifact, as "
            "NAME.report.html",
            metavar="FILE",
            bare="",
            own=True,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Makes a verified artifact of a checkpoint: a local folder or a hub id.

    What is guessed from its files is printed with the flag that changes it. An interrupted export leaves
    nothing that loads.
    """

    def run(say: Say) -> Report:
        extras.require("export")
        if reading.trust_remote_code:
            say(
                "note: --trust-remote-code has no effect; poolrt reads the weights with its own classes "
                "and never runs a checkpoint's code"
            )
        from . import pipeline

        if report:
            from .report_page import page

            page.check(report)
        exported = pipeline.export(
            checkpoint,
            name=name,
            out=out,
            precision=precision,
            target=_targets(target),
            hf_overrides=reading.hf_overrides or {},
            convert=reading.convert,
            runner=reading.runner,
            pooler_config=reading.pooler_config or {},
            revision=reading.revision,
            subfolder=reading.subfolder,
            recipe=None if reading.no_recipe else "auto",
            lora=reading.lora,
            progress=say,
        )
        if report is None:
            return exported
        from .report_page import page

        return page.written(exported, report, progress=say)

    _report(run, as_json=json)


@command(
    extra="export",
    examples=["poolrt build artifacts/all-MiniLM-L6-v2 --target tensorrt-rtx:sm89 --target openvino"],
    notes=_CODES,
)
def build(
    artifact: Artifact,
    *,
    target: Annotated[tuple[str, ...], Flag("what to compile for; repeat or list several", metavar=_TARGETS)],
    json: Json = False,
) -> None:
    """Compiles engines for an artifact, from its own ONNX graph, and adds them to it."""

    def run(say: Say) -> Report:
        from . import pipeline

        return pipeline.build(artifact, target=_targets(target), progress=say)

    _report(run, as_json=json)


@command(
    extra="export",
    examples=[
        "poolrt verify artifacts/all-MiniLM-L6-v2",
        "poolrt verify artifacts/all-MiniLM-L6-v2 --against sentence-transformers/all-MiniLM-L6-v2",
    ],
    notes=_CODES,
)
def verify(
    artifact: Artifact,
    *,
    against: Annotated[
        str | None,
        Flag(
            "compare with this checkpoint as well, by PyTorch and by its own library",
            metavar="CHECKPOINT",
            own=True,
        ),
    ] = None,
    lora: Annotated[
        str | None,
        Flag("with --against: the adapter that was merged into the artifact", metavar="ADAPTER", own=True),
    ] = None,
    json: Json = False,
) -> None:
    """Proves an artifact again: every file, every engine that runs here, every task."""

    def run(say: Say) -> Report:
        from . import pipeline

        return pipeline.verified(artifact, against=against, lora=lora, progress=say)

    _report(run, as_json=json)


@command(extra="export", examples=["poolrt recipes", "poolrt recipes reranker --json | jq '.recipes[].name'"])
def recipes(
    pattern: Annotated[str, Argument("PATTERN", "only those whose name or hub id contains this")] = "",
    *,
    json: Annotated[bool, Flag("print one JSON object for machines")] = False,
) -> None:
    """Lists the published models that poolrt has facts about; any other checkpoint of a known family exports
    as well."""
    from .files.recipe import TASKS, all_recipes

    matching = [
        recipe
        for recipe in all_recipes()
        if pattern.lower() in " ".join((recipe.name, *recipe.match)).lower()
    ]
    if json:
        plain = [{**_object_of(recipe), "tasks": list(TASKS[recipe.task])} for recipe in matching]
        print(json_text.dumps({"recipes": plain}, ensure_ascii=False))
        return
    if not matching:
        print(f"no recipe matches {pattern!r}; a checkpoint needs none unless its files leave something open")
        return
    rows = [("NAME", "KIND", "TASKS", "PARAMETERS", "DIM", "TOKENS", "LICENCE", "SCORES", "CHECKPOINT")]
    for recipe in matching:
        size = f"{recipe.parameters / 1e6:.0f} M" if recipe.parameters else "-"
        facts = (size, str(recipe.dimensions or "-"), str(recipe.max_tokens or "-"), recipe.licence or "-")
        published = str(sum(len(reference.scores) for reference in recipe.references) or "-")
        rows.append(
            (recipe.name, recipe.task, " ".join(TASKS[recipe.task]), *facts, published, recipe.match[0])
        )
    screen.table(rows, right=(3, 4, 5, 7))
    print(
        "\n-: read from the checkpoint at export. SCORES: published ones that `poolrt verify` compares "
        "with, given the real weights."
    )


def _object_of(record: Any) -> dict[str, Any]:
    plain = to_plain(record)
    assert isinstance(plain, dict)
    return plain


def _report(run: Callable[[Say], Report], *, as_json: bool) -> None:
    """Runs the work of a command, with its progress on stderr, and prints its report."""
    from .base.report import table

    try:
        with own_stdout(), terminal.interrupted_by_sigterm(), terminal.progress() as say:
            report = run(say)
    except PoolrtError:
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("nothing was kept") from None
    except OSError as error:  # a full disk, a folder that may not be written
        message = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; nothing was kept: make room, or choose a folder on another disk with --out"
        raise CheckpointError(message) from error
    except ModuleNotFoundError:
        raise
    except Exception:
        # The same run again would take minutes.
        traceback.print_exc(file=sys.stderr)
        raise
    print(json_text.dumps(to_plain(report), ensure_ascii=False) if as_json else f"\n{table(report)}")


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

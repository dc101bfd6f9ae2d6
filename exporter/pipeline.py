"""checkpoint → plan → module → ONNX → precision → engines → verify → manifest: an export,
read from top to bottom."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..runtime import machine
from ..runtime.artifact import manifest as contract
from ..runtime.artifact import reading as artifacts
from ..runtime.artifact.manifest import Graph, Manifest
from ..runtime.errors import CheckpointError, InputError
from . import checkpoint, engine
from . import precision as precisions
from .base import artifact, report
from .base.large import is_large
from .base.report import ExportSteps, Report, Say
from .checkpoint import Checkpoint
from .detection import Convert, Runner
from .graph import onnx_files
from .heads import planning
from .proof import published_scores, verify

_READ, _LOAD, _TRACE, _LIBRARY, _LOWER, _WRITE, _VERIFY, _FINISH = (
    "read the checkpoint",
    "load the weights",
    "trace to ONNX",
    "compare with the checkpoint's own library",
    "lower the precision",
    "write the weights",
    "compare with PyTorch",
    "hash and put in place",
)

_MADE_WITH = ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime")
_REFUSED = (
    "nothing was kept; another --precision may hold, and fp32 always should: if it does not, please report it"
)


def export(
    source: str | Path,
    *,
    name: str | None = None,
    out: str | Path = "artifacts",
    precision: str = "fp32",
    target: Sequence[str] = ("onnx",),
    hf_overrides: Mapping[str, Any] | None = None,
    convert: Convert = "auto",
    runner: Runner = "auto",
    pooler_config: Mapping[str, object] | None = None,
    revision: str | None = None,
    recipe: Any = "auto",
    lora: str | Path | None = None,
    progress: Say = report.silent,
) -> Report:
    """Makes a verified artifact of a checkpoint and puts it into `out`/`name`, replacing one of that name.

    `lora`: folder or hub id of an adapter, which is merged into the weights.

    Raises InputError and CheckpointError before any work, EngineError, and VerificationError;
    then nothing is left behind.
    """
    targets = [engine.check(each) for each in engine.targets(target)]
    lowered = precisions.check(precision, targets, large=True)
    lowers = [_LOWER] if lowered != "fp32" else []
    titles = [_READ, _LOAD, _TRACE, _LIBRARY, *lowers, *map(_compiling, targets), _VERIFY, _FINISH]
    steps = ExportSteps(titles, progress, about=str(source))

    with steps(_READ):
        found = checkpoint.read(
            source, revision=revision, hf_overrides=hf_overrides, runner=runner, convert=convert,
            pooler_config=pooler_config,
            recipe=recipe, adapter=lora,
        )  # fmt: skip
        # int8 is chosen by running the whole graph, which has to fit into memory for that.
        large = lowered in ("fp32", "fp16", "bf16") and is_large(found.parameters)
        precisions.check(precision, targets, large=large)
        found = dataclasses.replace(found, large=large)
        plan = planning.plan(found)
    for line in plan.lines:
        progress(f"      {line}")

    with artifact.draft(out, name or _default_name(found)) as draft:
        with steps(_LOAD):
            progress("      importing torch and transformers, which takes some seconds")
            from .graph import tracing as graph
            from .proof import library_reference
            from .proof.reference import Reference

            module = graph.module(found, plan)
        with steps(_TRACE):
            if large:
                steps.insert(_WRITE, after=_LOWER if lowered != "fp32" else _LIBRARY)
                progress(
                    f"      {found.parameters / 1e9:.1f} billion parameters: read from the checkpoint's "
                    "files as they are needed"
                )
                model, base = (
                    graph.streamed_from_module(module, plan),
                    graph.described(plan, "model.onnx", ()),
                )
            else:
                model, base = None, graph.onnx_from_module(module, plan, draft.folder / "model.onnx")
        with steps(_LIBRARY):
            reading = (
                library_reference.against_twin(found)
                if large
                else library_reference.against_library(found, plan, module)
            )
            progress(f"      {report.reading(reading)}")
        for file, content in plan.files.items():
            (draft.folder / file).write_bytes(content)
        manifest = dataclasses.replace(_manifest(draft.final.name, found, plan, base), reading=reading)
        reference = Reference(module, base, plan.heads)
        notes: tuple[str, ...] = ()
        if model is not None:
            if lowered in ("fp16", "bf16"):
                with steps(_LOWER):
                    base, notes = precisions.lowered_in_place(model, base, lowered)
            with steps(_WRITE):
                base = _written(draft, model, base)
                manifest = dataclasses.replace(manifest, graphs=(base,))
        elif lowered != "fp32":
            with steps(_LOWER):
                probes = precisions.probes(draft.folder, manifest) if lowered in ("int8", "auto") else []
                chosen = precisions.chosen(lowered, draft.folder, manifest, reference, probes, progress)
                manifest, notes = dataclasses.replace(manifest, graphs=chosen.graphs), chosen.notes
        manifest = _compiled(draft.folder, manifest, targets, steps)
        with steps(_VERIFY):
            evidence, left_out = verify.against_reference(draft.folder, manifest, reference)
            verify.enforce(evidence, _REFUSED)
            verify.golden(draft.folder, manifest, reference)
        with steps(_FINISH):
            path = draft.commit(dataclasses.replace(manifest, evidence=tuple(evidence)))
    return _reported(path, steps, guesses=plan.lines, notes=(*notes, *left_out))


def build(path: str | Path, *, target: Sequence[str], progress: Say = report.silent) -> Report:
    """Adds engines to an artifact, or compiles them again; the artifact is replaced as a whole once they are
    proved as far as possible."""
    targets = [engine.check(each) for each in engine.targets(target)]
    if not targets:
        raise InputError("nothing to build: name a --target such as tensorrt-rtx:sm89", field="target")
    steps = ExportSteps(
        ["read and check the artifact", *map(_compiling, targets), _VERIFY, _FINISH], progress
    )
    with steps("read and check the artifact"):
        old = artifacts.read(path)
        if any(graph.precision == "int8" for graph in old.manifest.graphs):
            raise InputError(
                f"{path}: its graph is int8, which is for processors; export the checkpoint again with "
                "--precision fp16 and --target"
            )
    place = old.folder.resolve()
    with artifact.draft(place.parent, place.name) as draft:
        weights = {name for graph in old.manifest.graphs for name in graph.external}
        for file, entry in old.manifest.files.items():
            (draft.folder / file).parent.mkdir(parents=True, exist_ok=True)
            # Many gigabytes, which nothing here writes to, and which read() has just compared
            if file in weights:
                draft.hashed[file] = entry.sha256
                _link(old.folder / file, draft.folder / file)
            else:  # an engine may be compiled again under its name
                shutil.copyfile(old.folder / file, draft.folder / file)
        manifest = _compiled(draft.folder, old.manifest, targets, steps)
        with steps(_VERIFY):
            evidence, left_out = verify.against_golden(draft.folder, manifest)
            verify.enforce(evidence, "the artifact was left as it was")
            fresh = {
                each.engine
                for each in evidence
                if each.engine not in {known.engine for known in old.manifest.evidence}
            }
            kept = (*old.manifest.evidence, *(each for each in evidence if each.engine in fresh))
        with steps(_FINISH):
            final = draft.commit(dataclasses.replace(manifest, evidence=kept, name=old.manifest.name))
    return _reported(final, steps, notes=tuple(left_out))


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, where the disk allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def verified(
    path: str | Path,
    *,
    against: str | Path | None = None,
    lora: str | Path | None = None,
    progress: Say = report.silent,
) -> Report:
    """Proves an artifact again: from its golden answers, from its checkpoint (and adapter) where one is
    given, and from the scores that its recipe says were published. Changes nothing."""
    titles = ["read and check the artifact", *([_LOAD, _LIBRARY] if against is not None else []), _VERIFY]
    steps = ExportSteps(titles, progress, about=None if against is None else str(against))
    with steps("read and check the artifact"):
        opened = artifacts.read(path)
    reference, reading = None, opened.manifest.reading
    adapter = opened.manifest.source.adapter
    if against is not None and (adapter is None) != (lora is None):
        needs = (
            "has no adapter: leave --lora out"
            if adapter is None
            else (f"has the adapter {adapter.name} merged into it: give it with --lora")
        )
        raise InputError(f"{path}: {needs}", field="lora")
    if against is None and lora is not None:
        raise InputError("--lora goes with --against CHECKPOINT", field="lora")
    if against is not None:
        with steps(_LOAD):
            progress("      importing torch and transformers, which takes some seconds")
            from .graph import tracing as graph
            from .proof import library_reference
            from .proof.reference import Reference

            overrides = opened.manifest.source.overrides
            found = checkpoint.read(against, adapter=lora, **overrides)  # pyright: ignore[reportArgumentType]
            _same_weights(found, opened.manifest)
            found = dataclasses.replace(found, large=is_large(found.parameters))
            plan = planning.plan(found)
            module = graph.module(found, plan)
            reference = Reference(module, opened.manifest.graph("text"), plan.heads)
        with steps(_LIBRARY):
            reading = (
                library_reference.against_twin(found)
                if found.large
                else library_reference.against_library(found, plan, module)
            )
            progress(f"      {report.reading(reading)}")
    with steps(_VERIFY):
        _, evidence, left_out = verify.verified(path, reference)
        left_out += published_scores.checked(path)
    return report.of_artifact(
        opened.manifest, str(path), evidence=tuple(evidence), reading=reading, notes=tuple(left_out),
        seconds=steps.seconds,
        next=(f"poolrt serve {path}",),
    )  # fmt: skip


def _compiling(target: engine.Target) -> str:
    return f"compile for {target}"


def _written(draft: artifact.Draft, model: Any, graph: Graph) -> Graph:
    digests = onnx_files.save(model, draft.folder / graph.file, apart=True)
    draft.hashed.update(digests)
    return dataclasses.replace(graph, external=tuple(digests))


def _default_name(found: Checkpoint) -> str:
    sources = [found.source, *([] if found.adapter is None else [found.adapter.name])]
    return "-".join(source.rstrip("/").rsplit("/", 1)[-1] for source in sources)


def _manifest(name: str, found: Checkpoint, plan: planning.Plan, base: Graph) -> Manifest:
    """The manifest before precision, engines and evidence."""
    digests = {
        path.relative_to(found.folder).as_posix(): artifacts.sha256(path) for path in found.weight_files
    }
    adapter = (
        {
            path.relative_to(found.adapter.folder).as_posix(): artifacts.sha256(path)
            for path in found.adapter.files
        }
        if found.adapter
        else {}
    )
    versions = {name: version for name in _MADE_WITH if (version := machine.version(name))}
    return Manifest(
        format=contract.FORMAT,
        name=name,
        architecture=found.architecture,
        source=found.described(digests, adapter),
        tasks=plan.tasks,
        scoring=plan.scoring,
        text=plan.text,
        graphs=(base,),
        heads=plan.heads,
        chunked=plan.chunked,
        max_embed_tokens=plan.max_embed_tokens,
        config=plan.config,
        versions=versions,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _compiled(
    folder: Path, manifest: Manifest, targets: Sequence[engine.Target], steps: ExportSteps
) -> Manifest:
    """With an engine per target, each made of the graph in the least precision that engines compile."""
    compiled = []
    for target in targets:
        graph = engine.compilable(manifest)
        with steps(_compiling(target)):
            compiled.append(
                engine.engine_from_onnx(folder, graph, target, max_tokens=manifest.text.max_tokens)
            )
    files = {new.file for new in compiled}
    return dataclasses.replace(
        manifest, engines=(*(old for old in manifest.engines if old.file not in files), *compiled)
    )


def _same_weights(found: Checkpoint, manifest: Manifest) -> None:
    for file, expected in manifest.source.weights.items():
        path = found.folder / file
        if not path.is_file() or artifacts.sha256(path) != expected:
            raise CheckpointError(
                f"{path}: not the weights that this artifact was made of "
                f"({manifest.source.checkpoint}); give that checkpoint"
            )
    merged, given = manifest.source.adapter, found.adapter
    if merged is not None and given is not None:
        for path in given.files:
            if artifacts.sha256(path) != merged.files.get(path.relative_to(given.folder).as_posix()):
                raise CheckpointError(
                    f"{path}: not the adapter that was merged into this artifact ({merged.name}); "
                    "give that one"
                )


def _reported(
    path: Path, steps: ExportSteps, *, notes: tuple[str, ...], guesses: tuple[str, ...] = ()
) -> Report:
    manifest = artifacts.read(path, check="quick").manifest
    first = "embed" if "embed" in manifest.tasks else "inspect"
    following = (
        f'poolrt embed {path} "a text"' if first == "embed" else f"poolrt inspect {path}",
        f"poolrt serve {path}",
    )
    return report.of_artifact(
        manifest, str(path), guesses=guesses, evidence=manifest.evidence, reading=manifest.reading,
        notes=notes,
        seconds=dict(steps.seconds), next=following,
    )  # fmt: skip

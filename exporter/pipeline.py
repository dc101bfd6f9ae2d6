"""checkpoint → plan → module → ONNX → precision → engines → verify → manifest.

`export` reads from top to bottom in that order. `build` and `verified` repeat its last steps on an artifact.
A large model takes the same steps, but its graph stays in memory until the precision is lowered, and only
then its weights are written. One file above 300 lines, because the three commands share their steps.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime import machine
from ..runtime.artifact import digests
from ..runtime.artifact import manifest as contract
from ..runtime.artifact import reading as artifacts
from ..runtime.artifact.manifest import INTEGERS, Graph, GraphRole, Manifest, Reading
from ..runtime.engines import measured
from ..runtime.engines.table import Choice
from ..runtime.errors import CheckpointError, InputError
from ..runtime.store import resolving
from . import checkpoint as checkpoints
from . import engine
from .base import artifact, report
from .base.large import is_large
from .base.report import ExportSteps, Report, Say
from .checkpoint import Checkpoint
from .detection import Convert, Runner
from .graph import onnx_files
from .heads import planning
from .precision import choice, mixed, trials, weight_only
from .proof import evidence as proofs
from .proof import library_reference, published_scores, verify
from .proof.reference import Reference

if TYPE_CHECKING:
    import onnx_ir

    from .graph.tracing import PictureModel, PoolingModel

_READ, _OPEN, _LOAD, _TRACE, _LIBRARY, _LOWER, _WRITE, _VERIFY, _FINISH = (
    "read the checkpoint",
    "read and check the artifact",
    "load the weights",
    "trace to ONNX",
    "compare with the checkpoint's own library",
    "lower the precision",
    "write the weights",
    "compare with PyTorch",
    "hash and put in place",
)

TEXT_ALONE, TEXT, VISION = "model.onnx", "text.onnx", "vision.onnx"
"""Files of the fp32 graphs: of a model that reads text only, and of one that reads pictures."""
_IMPORTING = "      importing torch and transformers, which takes some seconds"
_VERSIONS_OF = ("torch", "transformers", "sentence-transformers", "onnx", "onnxruntime")
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
    subfolder: str | None = None,
    recipe: Any = "auto",
    lora: str | Path | None = None,
    progress: Say = report.silent,
) -> Report:
    """Makes a verified artifact of a checkpoint and puts it into `out`/`name`, replacing one of that name.

    `lora`: folder or hub id of an adapter, which is merged into the weights. `subfolder`: the folder of the
    checkpoint inside `source`, for repositories that keep several.

    Raises InputError and CheckpointError before any work, EngineError, and VerificationError;
    then nothing is left behind.
    """
    targets = _checked_targets(target)
    lowered = choice.check(precision, targets)
    lowers = [_LOWER] if lowered != "fp32" else []
    titles = [_READ, _LOAD, _TRACE, _LIBRARY, *lowers, *_last_steps(targets)]
    steps = ExportSteps(titles, progress, about=str(source))

    with steps(_READ):
        checkpoint = checkpoints.read(
            source,
            revision=revision,
            subfolder=subfolder,
            hf_overrides=hf_overrides,
            runner=runner,
            convert=convert,
            pooler_config=pooler_config,
            recipe=recipe,
            adapter=lora,
        )
        # int8 is chosen by running the whole graph, which has to fit into memory for that.
        large = lowered in choice.STREAMED and is_large(checkpoint.parameters)
        checkpoint = dataclasses.replace(checkpoint, large=large)
        plan = planning.plan(checkpoint)
    for line in plan.lines:
        progress(f"      {line}")

    with artifact.draft(out, name or _default_name(checkpoint)) as draft:
        with steps(_LOAD):
            progress(_IMPORTING)
            module = _module(checkpoint, plan)
            pictures = _pictures(checkpoint, plan, module)
        with steps(_TRACE):
            if large:
                steps.insert(_WRITE, after=_LOWER if lowered != "fp32" else _LIBRARY)
                progress(
                    f"      {checkpoint.parameters / 1e9:.1f} billion parameters: read from the "
                    "checkpoint's files as they are needed"
                )
            streamed, graphs = _traced(module, pictures, plan, draft.folder, large=large)
        with steps(_LIBRARY):
            reading = _compared_with_library(checkpoint, plan, module, pictures, progress)
        for file, content in plan.files.items():
            (draft.folder / file).write_bytes(content)
        manifest = _manifest(draft.final.name, checkpoint, plan, graphs, reading)
        reference = _reference(module, pictures, plan, graphs[0])
        notes: tuple[str, ...] = ()
        if streamed:
            if lowered in ("fp16", "bf16"):
                with steps(_LOWER):
                    graphs, notes = mixed.lowered_in_place(streamed, graphs, lowered)
            elif lowered in ("int8-weights", "int4-weights"):
                with steps(_LOWER):
                    graphs = weight_only.quantised_in_place(streamed, graphs, lowered)
            with steps(_WRITE):
                graphs = tuple(_written(draft, *pair) for pair in zip(streamed, graphs, strict=True))
                if lowered == "bf16":
                    longest = plan.text.max_tokens
                    wide = mixed.widened(draft.folder, streamed, graphs, longest=longest)
                    graphs = (*wide, *graphs)
                manifest = dataclasses.replace(manifest, graphs=graphs)
        elif lowered != "fp32":
            with steps(_LOWER):
                probes = trials.probes(draft.folder, manifest) if lowered in choice.MEASURED else []
                chosen = choice.chosen(lowered, draft.folder, manifest, reference, probes, progress)
                manifest, notes = dataclasses.replace(manifest, graphs=chosen.graphs), chosen.notes
        manifest = _compiled(draft.folder, manifest, targets, steps)
        with steps(_VERIFY):
            also = _openvino(draft.folder, manifest, targets)
            compared, left_out = verify.against_reference(draft.folder, manifest, reference, also=also)
            evidence, too_far = proofs.divided(compared)
            verify.enforce(evidence, _REFUSED)
            verify.golden(draft.folder, manifest, reference)
        with steps(_FINISH):
            path = draft.commit(dataclasses.replace(manifest, evidence=tuple(evidence)))
    taken = _prepared(path, targets, steps)
    return _reported(path, steps, guesses=plan.lines, notes=(*notes, *left_out, *too_far, *taken))


def build(path: str | Path, *, target: Sequence[str], progress: Say = report.silent) -> Report:
    """Adds engines to an artifact, or compiles them again, and replaces the artifact as a whole.

    Every engine that runs on this machine is compared with the golden answers first. Raises InputError,
    ArtifactError, EngineError and VerificationError; then the artifact is left as it was.
    """
    path, targets = resolving.artifact(path), _checked_targets(target)
    if not targets:
        raise InputError("nothing to build: name a --target such as tensorrt-rtx:sm89", field="target")
    steps = ExportSteps([_OPEN, *_last_steps(targets)], progress)

    with steps(_OPEN):
        opened = artifacts.read(path)
        compiled = any(target.compiled for target in targets)
        integers = [graph.stored for graph in opened.manifest.graphs if graph.stored in INTEGERS]
        if compiled and integers:
            raise InputError(
                f"{path}: its graph is {integers[0]}, which is for processors; export the checkpoint "
                "again with --precision fp16 and --target"
            )
    place = opened.folder.resolve()
    with artifact.draft(place.parent, place.name) as draft:
        _take_over(draft, opened)
        manifest = _compiled(draft.folder, opened.manifest, targets, steps)
        with steps(_VERIFY):
            also = _openvino(draft.folder, manifest, targets)
            compared, left_out = verify.against_golden(draft.folder, manifest, also=also)
            evidence, too_far = proofs.divided(compared)
            verify.enforce(evidence, "the artifact was left as it was")
            # What was compared with PyTorch at export says more than the golden answers do.
            proved = {row.engine for row in opened.manifest.evidence}
            fresh = tuple(row for row in evidence if row.engine not in proved)
        with steps(_FINISH):
            kept = (*opened.manifest.evidence, *fresh)
            final = draft.commit(dataclasses.replace(manifest, evidence=kept, name=opened.manifest.name))
    taken = _prepared(final, targets, steps)
    return _reported(final, steps, notes=(*left_out, *too_far, *taken))


def verified(
    path: str | Path,
    *,
    against: str | Path | None = None,
    lora: str | Path | None = None,
    progress: Say = report.silent,
) -> Report:
    """Proves an artifact again and changes nothing.

    It is compared with its golden answers, with the scores that its recipe says were published, and with the
    checkpoint `against` (into which the adapter `lora` is merged), where there is one. Raises InputError,
    ArtifactError, CheckpointError and VerificationError.
    """
    path = resolving.artifact(path)
    titles = [_OPEN, *([_LOAD, _LIBRARY] if against is not None else []), _VERIFY]
    steps = ExportSteps(titles, progress, about=None if against is None else str(against))

    with steps(_OPEN):
        opened = artifacts.read(path)
    _check_adapter(path, opened.manifest, against=against, lora=lora)
    reference, reading = None, opened.manifest.reading
    if against is not None:
        with steps(_LOAD):
            progress(_IMPORTING)
            overrides, inside = opened.manifest.source.overrides, opened.manifest.source.subfolder
            if inside is not None and Path(against).is_dir() and not (Path(against) / inside).is_dir():
                inside = None  # the checkpoint's own folder
            checkpoint = checkpoints.read(against, subfolder=inside, adapter=lora, **overrides)  # pyright: ignore[reportArgumentType]
            _check_weights(checkpoint, opened.manifest)
            checkpoint = dataclasses.replace(checkpoint, large=is_large(checkpoint.parameters))
            plan = planning.plan(checkpoint)
            module = _module(checkpoint, plan)
            pictures = _pictures(checkpoint, plan, module)
            reference = _reference(module, pictures, plan, opened.manifest.graph("text"))
        with steps(_LIBRARY):
            reading = _compared_with_library(checkpoint, plan, module, pictures, progress)
    with steps(_VERIFY):
        evidence, left_out = verify.verified(path, reference)
        left_out += published_scores.checked(path)
    return report.of_artifact(
        opened.manifest,
        str(path),
        evidence=tuple(evidence),
        reading=reading,
        notes=tuple(left_out),
        seconds=steps.seconds,
        next=(f"poolrt serve {path}",),
    )


# --- steps
# ------------------------------------------------------------------------------------------------------------


def _checked_targets(spellings: Sequence[str]) -> list[engine.Target]:
    return [engine.check(target) for target in engine.targets(spellings)]


def _compiling(target: engine.Target) -> str:
    return f"compile for {target}" if target.compiled else f"measure {target} here"


def _last_steps(targets: Sequence[engine.Target]) -> list[str]:
    before = [_compiling(target) for target in targets if target.compiled]
    after = [_compiling(target) for target in targets if not target.compiled]
    return [*before, _VERIFY, _FINISH, *after]


def _openvino(folder: Path, manifest: Manifest, targets: Sequence[engine.Target]) -> list[Choice]:
    return verify.in_openvino(folder, manifest) if engine.Target("openvino") in targets else []


def _prepared(path: Path, targets: Sequence[engine.Target], steps: ExportSteps) -> list[str]:
    """Measures what `engine="auto"` takes of a finished artifact, for its first start here, and compiles it
    into the cache, where a target asks for it; returns a note per graph."""
    notes: list[str] = []
    for target in targets:
        if not target.compiled:
            with steps(_compiling(target)):
                opened = artifacts.read(path, check="quick")
                roles: dict[GraphRole, None] = dict.fromkeys(graph.role for graph in opened.manifest.graphs)
                for role in roles:
                    taken = measured.choose(opened.folder, opened.manifest, measured.stated("auto"), role)
                    notes.append(taken.notes[-1] if taken.notes else f"{taken.name} is taken here")
    return notes


def _module(checkpoint: Checkpoint, plan: planning.Plan) -> PoolingModel:
    from .graph import tracing

    return tracing.module(checkpoint, plan)


def _pictures(checkpoint: Checkpoint, plan: planning.Plan, module: PoolingModel) -> PictureModel | None:
    from .graph import tracing

    return tracing.picture_module(checkpoint, plan, module)


def _traced(
    module: PoolingModel, pictures: PictureModel | None, plan: planning.Plan, folder: Path, *, large: bool
) -> tuple[list[onnx_ir.Model], tuple[Graph, ...]]:
    """The fp32 graphs, that of texts first: written into `folder`, or of a large model in memory (returned
    first), their weights still in the checkpoint's files."""
    from .graph import interface, tracing

    if pictures is None:
        if large:
            model = tracing.streamed_from_module(module, plan)
            return [model], (tracing.described(plan, TEXT_ALONE, (), model=model),)
        return [], (tracing.onnx_from_module(module, plan, folder / TEXT_ALONE),)
    if large:
        streamed = [
            tracing.streamed_from_module(module, plan),
            tracing.streamed_from_pictures(pictures, plan),
        ]
        return streamed, (
            tracing.described(plan, TEXT, ()),
            tracing.recorded(interface.vision(plan), VISION),
        )
    return [], (
        tracing.onnx_from_module(module, plan, folder / TEXT),
        tracing.onnx_from_pictures(pictures, plan, folder / VISION),
    )


def _reference(
    module: PoolingModel, pictures: PictureModel | None, plan: planning.Plan, graph: Graph
) -> Reference:
    apart = plan.vision is not None and plan.vision.images.apart
    return Reference(module, graph, plan.heads, pictures, apart=apart)


def _compared_with_library(
    checkpoint: Checkpoint,
    plan: planning.Plan,
    module: PoolingModel,
    pictures: PictureModel | None,
    progress: Say,
) -> Reading:
    """A large checkpoint cannot be loaded twice, so a shrunken twin of it is compared. Where a model that
    reads pictures has none, tokens are compared, for which nothing is loaded."""
    if checkpoint.large:
        reading = library_reference.against_twin(checkpoint)
    else:
        reading = library_reference.against_library(checkpoint, plan, module, pictures)
    if checkpoint.large and not reading.twin and plan.vision is not None and not plan.vision.images.apart:
        tokens = library_reference.against_library(checkpoint, plan, module, pictures)
        reading = dataclasses.replace(tokens, why="; ".join(filter(None, [reading.why, tokens.why])))
    progress(f"      {report.reading(reading)}")
    return reading


def _written(draft: artifact.Draft, model: onnx_ir.Model, graph: Graph) -> Graph:
    digests = onnx_files.save(model, draft.folder / graph.file, apart=True)
    draft.hashed.update(digests)
    return dataclasses.replace(graph, external=tuple(digests))


def _compiled(
    folder: Path, manifest: Manifest, targets: Sequence[engine.Target], steps: ExportSteps
) -> Manifest:
    """The manifest with an engine per target, compiled from the graph in the least precision that engines
    compile."""
    compiled: list[contract.Engine] = []
    roles: dict[GraphRole, None] = dict.fromkeys(graph.role for graph in manifest.graphs)
    for target in targets:
        if not target.compiled:
            continue
        with steps(_compiling(target)):
            compiled += [
                engine.engine_from_onnx(
                    folder,
                    engine.compilable(manifest, role),
                    target,
                    max_tokens=manifest.text.max_tokens,
                    images=manifest.images,
                )
                for role in roles
            ]
    files = {new.file for new in compiled}
    return dataclasses.replace(
        manifest, engines=(*(old for old in manifest.engines if old.file not in files), *compiled)
    )


def _take_over(draft: artifact.Draft, opened: artifacts.Artifact) -> None:
    """Brings the files of an artifact into the draft that will replace it."""
    weights = {name for graph in opened.manifest.graphs for name in graph.external}
    for file, entry in opened.manifest.files.items():
        target = draft.folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        if file in weights:
            # Many gigabytes: a link saves the copy, and the hash was compared when the artifact was read.
            # Nothing writes to them, while an engine may be compiled again under its name.
            draft.hashed[file] = entry.sha256
            _link(opened.folder / file, target)
        else:
            shutil.copyfile(opened.folder / file, target)


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, where the disk allows it."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# --- records
# ------------------------------------------------------------------------------------------------------------


def _default_name(checkpoint: Checkpoint) -> str:
    sources = [checkpoint.source, *([] if checkpoint.adapter is None else [checkpoint.adapter.name])]
    names = [source.rstrip("/").rsplit("/", 1)[-1] for source in sources]
    inside = [] if checkpoint.subfolder is None else checkpoint.subfolder.split("/")
    return "-".join([names[0], *inside, *names[1:]])


def _manifest(
    name: str, checkpoint: Checkpoint, plan: planning.Plan, graphs: tuple[Graph, ...], reading: Reading
) -> Manifest:
    """The manifest before precision, engines and evidence."""
    adapter = checkpoint.adapter
    return Manifest(
        format=contract.FORMAT,
        name=name,
        architecture=checkpoint.architecture,
        source=checkpoint.described(
            _digests(checkpoint.folder, checkpoint.weight_files),
            {} if adapter is None else _digests(adapter.folder, adapter.files),
        ),
        tasks=plan.tasks,
        scoring=plan.scoring,
        text=plan.text,
        images=None if plan.vision is None else plan.vision.images,
        graphs=graphs,
        heads=plan.heads,
        chunked=plan.chunked,
        max_embed_tokens=plan.max_embed_tokens,
        config=plan.config,
        versions={package: version for package in _VERSIONS_OF if (version := machine.version(package))},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        reading=reading,
    )


def _digests(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """Path inside `folder` -> sha256."""
    return {path.relative_to(folder).as_posix(): digests.sha256(path) for path in files}


def _check_adapter(
    path: str | Path, manifest: Manifest, *, against: str | Path | None, lora: str | Path | None
) -> None:
    """Raises InputError unless `lora` is named exactly where the artifact has an adapter merged into it."""
    adapter = manifest.source.adapter
    if against is not None and (adapter is None) != (lora is None):
        needs = (
            "has no adapter: leave --lora out"
            if adapter is None
            else f"has the adapter {adapter.name} merged into it: give it with --lora"
        )
        raise InputError(f"{path}: {needs}", field="lora")
    if against is None and lora is not None:
        raise InputError("--lora goes with --against CHECKPOINT", field="lora")


def _check_weights(checkpoint: Checkpoint, manifest: Manifest) -> None:
    """Raises CheckpointError unless the artifact was made of these very files."""
    for file, expected in manifest.source.weights.items():
        path = checkpoint.folder / file
        if not path.is_file() or digests.sha256(path) != expected:
            raise CheckpointError(
                f"{path}: not the weights that this artifact was made of "
                f"({manifest.source.checkpoint}); give that checkpoint"
            )
    merged, adapter = manifest.source.adapter, checkpoint.adapter
    if merged is not None and adapter is not None:
        for path in adapter.files:
            if digests.sha256(path) != merged.files.get(path.relative_to(adapter.folder).as_posix()):
                raise CheckpointError(
                    f"{path}: not the adapter that was merged into this artifact "
                    f"({merged.name}); give that one"
                )


def _reported(
    path: Path, steps: ExportSteps, *, notes: tuple[str, ...], guesses: tuple[str, ...] = ()
) -> Report:
    manifest = artifacts.read(path, check="quick").manifest
    embeds = "embed" in manifest.tasks
    return report.of_artifact(
        manifest,
        str(path),
        guesses=guesses,
        evidence=manifest.evidence,
        reading=manifest.reading,
        notes=notes,
        seconds=dict(steps.seconds),
        next=(
            f'poolrt embed {path} "a text"' if embeds else f"poolrt inspect {path}",
            f"poolrt serve {path}",
        ),
    )

"""Compares poolrt's reading of a checkpoint with the checkpoint's own library: token ids, hidden states and
answers of real texts.

verify.py compares engines with our PyTorch module. This compares that module with code that is not ours. The
two must agree on everything that the checkpoint's files decide. poolrt follows vLLM where vLLM differs from
the library: a stored prompt is applied on request only, and the number of labels decides the activation.
There the comparison stops before that choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.artifact import manifest as contract
from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Manifest, Reading, Task
from ...runtime.errors import VerificationError
from ...runtime.inputs.preparation import Preparation
from ...runtime.json_objects import merged
from ...runtime.loader import prepared_for
from ...runtime.outputs import Floats
from ..files import sentence_files
from . import library_heads, library_models
from .library_answers import TowersLibrary
from .library_comparison import OWN_ONLY, Comparison
from .library_models import Unreadable
from .pictures import beside, conditional, pages, prompted, qwen_vl
from .pictures.assembled import Assembled
from .pictures.conditional import Conditional
from .pictures.nemotron_vl import NemotronVL
from .pictures.pages import Pages
from .pictures.phi3_v import Phi3Vision
from .pictures.qwen_vl import QwenVL
from .pictures.seen import Seen
from .reference import Reference

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..graph.tracing import PictureModel, PoolingModel
    from ..heads.planning import Plan

ASSEMBLED: dict[str, type[Assembled]] = {"LlamaNemotronVLModel": NemotronVL, "Phi3VModel": Phi3Vision}
"""First name of a family that transformers has no class of -> its parts."""


def compare(source: str | Path, **options: Any) -> Reading:
    """Reads a checkpoint as `poolrt export` does and compares the reading with its own library.

    `options` go to `checkpoint.read`. Raises CheckpointError, and VerificationError where the two disagree.
    """
    from .. import checkpoint as checkpoints
    from ..graph import tracing
    from ..heads import planning

    checkpoint = checkpoints.read(source, **options)
    plan = planning.plan(checkpoint)
    module = tracing.module(checkpoint, plan)
    return against_library(checkpoint, plan, module, tracing.picture_module(checkpoint, plan, module))


def against_twin(checkpoint: Checkpoint) -> Reading:
    """Compares a shrunken twin (twin.py) of a checkpoint that is too large to be loaded twice.

    Returns and raises as `against_library`.
    """
    from . import twin

    options = dict(checkpoint.overrides)
    # The twin is narrower, so widths of the original are left out.
    for key, inner in (("hf_overrides", "matryoshka_dimensions"), ("pooler_config", "dimensions")):
        values = options.get(key)
        if isinstance(values, Mapping):
            options[key] = {name: value for name, value in values.items() if name != inner}
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        try:
            folder = twin.write(checkpoint, Path(place) / checkpoint.source.rsplit("/", 1)[-1])
            reading = compare(folder, recipe=checkpoint.recipe, **options)
        except VerificationError:
            raise
        except Exception as error:
            # The mistake is the twin's: twin_scale.py does not know all numbers of every config.json.
            return Reading(
                reference=OWN_ONLY,
                why=f"too large to be loaded twice, and its shrunken twin cannot be read: {error}",
            )
    why = [reading.why] if reading.why else []
    why += ["the adapter was left out of the twin"] if checkpoint.adapter is not None else []
    return dataclasses.replace(reading, twin=True, why="; ".join(why))


def against_library(
    checkpoint: Checkpoint, plan: Plan, module: PoolingModel, pictures: PictureModel | None = None
) -> Reading:
    """Returns what agreed and with which library, or `own reading only` and why no library reads the
    checkpoint. Raises VerificationError where the two disagree."""
    with contextlib.ExitStack() as stack:
        config = _config(checkpoint)
        folder = stack.enter_context(_overridden(checkpoint, config))
        try:
            library = library_models.opened(checkpoint, plan, folder, config)
            preparation = stack.enter_context(_prepared(checkpoint, plan))
            reading = Comparison(checkpoint, plan, module, preparation, library).reading()
            if pictures is not None and isinstance(library, TowersLibrary):
                reading = _with_pictures(checkpoint, plan, pictures, library, reading)
            elif pictures is not None:
                inner = folder / checkpoint.inner.relative_to(checkpoint.folder)
                reading = _with_prompts(checkpoint, plan, (module, pictures), inner, config, reading)
        except Unreadable as error:
            reading = Reading(reference=OWN_ONLY, why=str(error))
        # Libraries name the folder they read; a manifest names none of the exporting machine.
        return dataclasses.replace(reading, why=reading.why.replace(str(folder), checkpoint.source))


def _with_pictures(
    checkpoint: Checkpoint, plan: Plan, pictures: PictureModel, library: TowersLibrary, reading: Reading
) -> Reading:
    """The reading, with pictures that are embedded apart. Raises VerificationError where they disagree."""
    assert plan.vision is not None, "a model with a vision half has a plan of it"
    unit = plan.heads["embed"].activation == "l2"
    try:
        agreements, processor = beside.compared(
            checkpoint.source,
            checkpoint.inner,
            plan.vision.images,
            Seen(pictures),
            library.pictures,
            unit=unit,
        )
    except beside.Missing as error:
        return dataclasses.replace(reading, why="; ".join(filter(None, [reading.why, str(error)])))
    return dataclasses.replace(
        reading,
        agreements=(*reading.agreements, *agreements),
        why="; ".join(filter(None, [reading.why, f"pictures were prepared by {processor}"])),
    )


def _with_prompts(
    checkpoint: Checkpoint,
    plan: Plan,
    modules: tuple[PoolingModel, PictureModel],
    folder: Path,
    config: Mapping[str, Any],
    reading: Reading,
) -> Reading:
    """The reading, with prompts that have pictures in them. Raises VerificationError where they disagree.

    `folder`: of config.json. `config`: the same with overrides.
    """
    from ..graph.tracing import described

    try:
        reader = _reader(checkpoint, plan, folder, config)
        images = dataclasses.replace(_images(plan), kernel=reader.kernel)
        answers = Reference(modules[0], described(plan, "model.onnx", ()), plan.heads, modules[1]).answers
        with _prepared(checkpoint, plan, images) as preparation:
            if isinstance(reader, Pages):
                prompts, theirs = pages.prompts(preparation), reader.answers
            else:
                prompts = prompted.forms(images, preparation)
                theirs = functools.partial(_of_prompt, checkpoint, plan, reader)
            agreements = prompted.compared(checkpoint.source, prompts, answers, reader, theirs)
    except prompted.Missing as error:
        return dataclasses.replace(reading, why="; ".join(filter(None, [reading.why, str(error)])))
    return Reading(
        reference=reader.name,
        why=f"pictures were prepared by {reader.processor}",
        agreements=(*reading.agreements, *agreements),
    )


def _of_prompt(
    checkpoint: Checkpoint, plan: Plan, reader: QwenVL | Conditional | Assembled, hidden: Floats
) -> Mapping[Task, Floats]:
    return library_heads.of_prompt(checkpoint, plan, hidden, reader.logits)


def _reader(
    checkpoint: Checkpoint, plan: Plan, folder: Path, config: Mapping[str, Any]
) -> QwenVL | Conditional | Assembled | Pages:
    """Raises Missing where no class of transformers reads the checkpoint's pictures."""
    if checkpoint.large:
        raise prompted.Missing("too large to be loaded twice, so its answers to pictures are not compared")
    published = checkpoint.family.names[0]
    if published in pages.CLASSES:
        if checkpoint.adapter is not None:
            raise prompted.Missing("its pictures are not compared, transformers reads it without its adapter")
        return Pages(folder, published)
    if published in ASSEMBLED:
        if checkpoint.adapter is not None:
            raise prompted.Missing("its pictures are not compared, its parts are read without its adapter")
        return ASSEMBLED[published](folder, config)
    if published in conditional.FAMILIES:
        reader = Conditional(folder, config)
    elif published in qwen_vl.BODIES:
        # The library knows the files' bounds, and nothing of those of a recipe.
        recipe = checkpoint.recipe
        bounds = _images(plan).patches if recipe is not None and recipe.pixels is not None else None
        reader = QwenVL(folder, config, published, bounds)
    else:
        raise prompted.Missing("what it computes of pictures and of the texts beside them is not compared")
    adapter = checkpoint.adapter or checkpoint.built_in
    if adapter is not None:
        if checkpoint.family.spelled is None:
            raise prompted.Missing(
                "its pictures are not compared, the adapter's tensors have no common names"
            )
        reader.adapted(adapter, checkpoint.family.spelled)
    return reader


def _images(plan: Plan) -> Images:
    assert plan.vision is not None, "a model with a vision half has a plan of it"
    return plan.vision.images


# --- the two sides
# ------------------------------------------------------------------------------------------------------------


def _config(checkpoint: Checkpoint) -> dict[str, Any]:
    """config.json as the library reads it: with the overrides of the recipe and of the user."""
    config = sentence_files.json_file(checkpoint.inner / "config.json", dict)
    recipe = dict(checkpoint.recipe.hf_overrides) if checkpoint.recipe is not None else {}
    users = checkpoint.overrides.get("hf_overrides") or {}
    overrides = merged(recipe, users if isinstance(users, Mapping) else {})
    import transformers

    if not all(hasattr(transformers, str(name)) for name in overrides.get("architectures") or ()):
        del overrides["architectures"]  # a name of vLLM's own
    return merged(config, overrides)


@contextlib.contextmanager
def _overridden(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Iterator[Path]:
    """The checkpoint's folder, or one of links to its files beside another config.json."""
    if config == sentence_files.json_file(checkpoint.inner / "config.json", dict):
        yield checkpoint.folder
        return
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        target = Path(place)
        inside = checkpoint.inner.relative_to(checkpoint.folder)
        source = checkpoint.folder
        # Only the folders on the way to config.json are real ones
        for name in (*inside.parts, "config.json"):
            for entry in source.iterdir():
                if entry.name != name:
                    (target / entry.name).symlink_to(entry.resolve())
            source, target = source / name, target / name
            if name != "config.json":
                target.mkdir()
        target.write_text(json.dumps(config), encoding="utf-8")
        yield Path(place)


@contextlib.contextmanager
def _prepared(checkpoint: Checkpoint, plan: Plan, images: Images | None = None) -> Iterator[Preparation]:
    """The text side as the artifact will have it. `images`: how pictures are prepared; None: as planned."""
    from ..graph.tracing import described

    manifest = Manifest(
        format=contract.FORMAT,
        name=checkpoint.source,
        architecture=checkpoint.architecture,
        source=contract.Source(checkpoint=checkpoint.source),
        tasks=plan.tasks,
        scoring=plan.scoring,
        text=plan.text,
        images=images if images is not None or plan.vision is None else plan.vision.images,
        graphs=(described(plan, "model.onnx", ()),),
        heads=plan.heads,
    )
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        for name, content in plan.files.items():
            (Path(place) / name).write_bytes(content)
        yield prepared_for(Path(place), manifest)

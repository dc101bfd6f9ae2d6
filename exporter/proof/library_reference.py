"""poolrt's reading of a checkpoint against the checkpoint's own library: token ids, hidden states
and answers of real texts.

Engines are compared with our PyTorch module (verify.py); this compares that module with code that is not
ours. What the two must agree on is everything that the checkpoint's files decide. Where poolrt follows vLLM
on purpose (a stored prompt is not applied unasked, activations by the number of labels), the part before
that choice is compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.artifact import manifest as contract
from ...runtime.artifact.manifest import Manifest, Reading
from ...runtime.errors import VerificationError
from ...runtime.inputs.preparation import Preparation
from ...runtime.json_objects import merged
from ..files import sentence_files
from . import library_models
from .library_comparison import OWN_ONLY, Comparison
from .library_models import Unreadable

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..graph.tracing import PoolingModel
    from ..heads.planning import Plan


def compare(source: str | Path, **asked: Any) -> Reading:
    """Reads a checkpoint as `poolrt export` does and compares the reading with its own library. `asked`
    goes to `checkpoint.read`.

    Raises CheckpointError, and VerificationError where the two disagree.
    """
    from .. import checkpoint
    from ..graph import tracing
    from ..heads import planning

    found = checkpoint.read(source, **asked)
    plan = planning.plan(found)
    return against_library(found, plan, tracing.module(found, plan))


def against_twin(found: Checkpoint) -> Reading:
    """The same of a shrunken twin (twin.py), for a checkpoint that is too large to be loaded twice.
    Raises VerificationError."""
    from . import twin

    asked = dict(found.overrides)
    # Widths of the original
    for key, inner in (("hf_overrides", "matryoshka_dimensions"), ("pooler_config", "dimensions")):
        values = asked.get(key)
        if isinstance(values, Mapping):
            asked[key] = {name: value for name, value in values.items() if name != inner}
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        try:
            folder = twin.write(found, Path(place) / found.source.rsplit("/", 1)[-1])
            reading = compare(folder, recipe=found.recipe, **asked)
        except VerificationError:
            raise
        except Exception as error:
            # A twin is only as good as what we know of config.json's numbers; the original is not to blame.
            return Reading(
                reference=OWN_ONLY,
                why=(f"too large to be loaded twice, and its shrunken twin cannot be read: {error}"),
            )
    why = [reading.why] if reading.why else []
    why += ["the adapter was left out of the twin"] if found.adapter is not None else []
    return dataclasses.replace(reading, twin=True, why="; ".join(why))


def against_library(found: Checkpoint, plan: Plan, module: PoolingModel) -> Reading:
    """What agreed, and with which library; `own reading only` and why, where there is none to ask.
    Raises VerificationError."""
    with contextlib.ExitStack() as stack:
        config = _config(found)
        folder = stack.enter_context(_as_asked(found, config))
        try:
            library = library_models.opened(found, plan, folder, config)
            preparation = stack.enter_context(_prepared(found, plan))
            reading = Comparison(found, plan, module, preparation, library).reading()
        except Unreadable as error:
            reading = Reading(reference=OWN_ONLY, why=str(error))
        # Libraries name the folder they read; a manifest names none of the exporting machine.
        return dataclasses.replace(reading, why=reading.why.replace(str(folder), found.source))


# --- the two sides
# ------------------------------------------------------------------------------------------------------------


def _config(found: Checkpoint) -> dict[str, Any]:
    """config.json as the library shall see it: with the recipe's and the user's overrides."""
    config = sentence_files.json_file(found.inner / "config.json", dict)
    recipe = dict(found.recipe.hf_overrides) if found.recipe is not None else {}
    asked = found.overrides.get("hf_overrides") or {}
    overrides = merged(recipe, asked if isinstance(asked, Mapping) else {})
    import transformers

    if not all(hasattr(transformers, str(name)) for name in overrides.get("architectures") or ()):
        del overrides["architectures"]  # a name of vLLM's own
    return merged(config, overrides)


@contextlib.contextmanager
def _as_asked(found: Checkpoint, config: Mapping[str, Any]) -> Iterator[Path]:
    """The checkpoint's folder, or one of links to its files beside another config.json."""
    if config == sentence_files.json_file(found.inner / "config.json", dict):
        yield found.folder
        return
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        target = Path(place)
        inside = found.inner.relative_to(found.folder)
        source = found.folder
        # Folders on the way to config.json are real ones, all else are links
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
def _prepared(found: Checkpoint, plan: Plan) -> Iterator[Preparation]:
    """The text side as the artifact will have it."""
    from ..graph.tracing import described

    manifest = Manifest(
        format=contract.FORMAT, name=found.source, architecture=found.architecture,
        source=contract.Source(checkpoint=found.source),
        tasks=plan.tasks, scoring=plan.scoring, text=plan.text, graphs=(described(plan, "model.onnx", ()),),
        heads=plan.heads,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="poolrt-") as place:
        for name, content in plan.files.items():
            (Path(place) / name).write_bytes(content)
        yield Preparation(Path(place), manifest)

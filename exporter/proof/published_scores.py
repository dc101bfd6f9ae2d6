"""Compares an artifact's scores with those that others published for the model.

Only the published weights reach them, so small fixtures that bear a model's name are left out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime import load
from ...runtime.artifact import reading
from ...runtime.artifact.manifest import INTEGERS, Manifest, RoleName
from ...runtime.errors import VerificationError
from ...runtime.model import Model
from ..base.large import is_large_graph
from ..files import recipe as recipes
from ..files.recipe import PublishedScores, Recipe

# The smallest published model has 4.4 million parameters (ms-marco-TinyBERT-L-2); fixtures named like a model
# have some ten thousand.
_FEWEST = 3_000_000
PICTURES = "POOLRT_PUBLISHED_PICTURES"
"""The environment variable that names a folder with the pictures of published scores, by their file names."""
_WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1, "int8-weights": 1, "int4-weights": 0.5}


def checked(path: str | Path) -> list[str]:
    """Returns lines that say what was compared, or why nothing was. Raises VerificationError beyond a
    published tolerance.

    int8 artifacts are compared but never refused, because their drift budget is wider than what was
    published.
    """
    opened = reading.read(path, check="quick")
    # A checkpoint in an unnamed folder is known by the artifact's name.
    recipe = recipes.find(opened.manifest.source.checkpoint) or recipes.find(opened.manifest.name)
    if recipe is None or not recipe.references:
        return []
    reason = _not_checkable(opened.folder, opened.manifest, recipe)
    if reason is not None:
        return [f"published scores of {recipe.name}: not checked, {reason}"]
    lines, failed = [], []
    with load(opened.folder, check="quick") as model:
        for reference in recipe.references:
            if missing := _missing(reference):
                lines.append(
                    f"published scores of {recipe.name} ({reference.task}): not checked, put "
                    f"{', '.join(missing)} of {reference.pictures} into a folder that {PICTURES} names"
                )
                continue
            worst, holds = _compared(model, reference)
            lines.append(f"published scores of {recipe.name} ({reference.task}): {worst}; {reference.source}")
            if not holds and opened.manifest.graph("text").stored not in INTEGERS:
                failed.append(lines[-1])
    if failed:
        raise VerificationError(
            "published scores are not reached:" + "".join(f"\n  {line}" for line in failed)
        )
    return lines


def _not_checkable(folder: Path, manifest: Manifest, recipe: Recipe) -> str | None:
    graph = manifest.graph("text")
    stored = sum(
        manifest.files[name].size for name in (graph.file, *graph.external) if name in manifest.files
    )
    if stored // _WIDTHS[graph.stored] < _FEWEST:
        return f"{stored / 1e6:.1f} MB of weights are not the published model, only its name"
    widths = {head.dim for head in manifest.heads.values()}
    if (
        recipe.dimensions is not None
        and recipe.task in ("embed", "late-interaction", "sparse")
        and recipe.dimensions not in widths
    ):
        return (
            f"its vectors have {', '.join(map(str, sorted(widths)))} dimensions, the published "
            f"model's {recipe.dimensions}"
        )
    if is_large_graph(folder, graph):
        return "the graph is too large to be run whole here"
    return None


def _documents(reference: PublishedScores) -> list[str | Path]:
    """The documents: texts, or paths of pictures."""
    if not reference.pictures:
        return list(reference.documents)
    return [Path(os.environ.get(PICTURES, "")) / name for name in reference.documents]


def _missing(reference: PublishedScores) -> list[str]:
    """File names of pictures that are not in the folder of PICTURES."""
    return [path.name for path in _documents(reference) if isinstance(path, Path) and not path.is_file()]


def _compared(model: Model, reference: PublishedScores) -> tuple[str, bool]:
    scores = np.asarray(_scores(model, reference), np.float64)
    expected = np.array(reference.scores)
    differences = np.abs(scores - expected)
    allowed = reference.tolerance * (np.abs(expected) if reference.relative else np.ones_like(expected))
    share = " of the score" if reference.relative else ""
    worst = float((differences / np.abs(expected) if reference.relative else differences).max())
    holds = bool(np.isfinite(scores).all() and (differences <= allowed).all())
    shown = " ".join(f"{score:.5f}" for score in scores)
    line = f"{shown}, at most {worst:.5f}{share} apart, {reference.tolerance:g} is allowed"
    return line, holds and math.isfinite(worst)


def _scores(model: Model, reference: PublishedScores) -> Sequence[float] | NDArray[np.float32]:
    if reference.task in ("rerank", "maxsim"):
        return [output.outputs.score for output in model.score(reference.query, _documents(reference))]
    query = _vectors(model, [reference.query], "query")
    documents = _vectors(model, reference.documents, "document")
    products = documents @ query[0]
    if model.manifest.heads["embed"].sparse:
        return products
    return products / (np.linalg.norm(documents, axis=1) * np.linalg.norm(query[0]))


def _vectors(model: Model, texts: Sequence[str], side: RoleName) -> NDArray[np.float32]:
    """[texts, dim], with the stored prompt of the side where there is one, as the model's own library
    does."""
    text = model.manifest.text
    if side in text.roles:
        return np.asarray(model.embed(list(texts), role=side))
    return np.asarray(model.embed(list(texts), prompt_name=side if side in text.prompts else None))

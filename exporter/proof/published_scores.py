"""The scores that others published for a model, against what its artifact answers: proof from outside, where
the real weights are there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...runtime import load
from ...runtime.artifact import reading
from ...runtime.artifact.manifest import Manifest, RoleName
from ...runtime.errors import VerificationError
from ...runtime.model import Model
from ..base.large import is_large_graph
from ..files import recipe as recipes
from ..files.recipe import PublishedScores, Recipe

# The smallest published model has 4.4 million parameters (ms-marco-TinyBERT-L-2); fixtures named like a model
# have some ten thousand.
_FEWEST = 3_000_000
_WIDTHS = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 1}


def checked(path: str | Path) -> list[str]:
    """Lines that say what was compared, or why nothing was. Raises VerificationError
    beyond a published tolerance.

    int8 artifacts are told, not judged: their drift budget is wider than what was published.
    """
    opened = reading.read(path, check="quick")
    # Weights that came from an unnamed folder are known by the name that the artifact was given.
    found = recipes.find(opened.manifest.source.checkpoint) or recipes.find(opened.manifest.name)
    if found is None or not found.references:
        return []
    reason = _not_checkable(opened.folder, opened.manifest, found)
    if reason is not None:
        return [f"published scores of {found.name}: not checked, {reason}"]
    lines, failed = [], []
    with load(opened.folder, check="quick") as model:
        for reference in found.references:
            worst, holds = _compared(model, reference)
            lines.append(f"published scores of {found.name} ({reference.task}): {worst}; {reference.source}")
            if not holds and opened.manifest.graph("text").precision != "int8":
                failed.append(lines[-1])
    if failed:
        raise VerificationError(
            "published scores are not reached:" + "".join(f"\n  {line}" for line in failed)
        )
    return lines


def _not_checkable(folder: Path, manifest: Manifest, found: Recipe) -> str | None:
    graph = manifest.graph("text")
    stored = sum(
        manifest.files[name].size for name in (graph.file, *graph.external) if name in manifest.files
    )
    if stored // _WIDTHS[graph.precision] < _FEWEST:
        return f"{stored / 1e6:.1f} MB of weights are not the published model, only its name"
    widths = {head.dim for head in manifest.heads.values()}
    if (
        found.dimensions is not None
        and found.task in ("embed", "late-interaction", "sparse")
        and found.dimensions not in widths
    ):
        return (
            f"its vectors have {', '.join(map(str, sorted(widths)))} dimensions, the published model's "
            f"{found.dimensions}"
        )
    if is_large_graph(folder, graph):
        return "the graph is too large to be run whole here"
    return None


def _compared(model: Model, reference: PublishedScores) -> tuple[str, bool]:
    found = np.asarray(_scores(model, reference), np.float64)
    expected = np.array(reference.scores)
    apart = np.abs(found - expected)
    allowed = reference.tolerance * (np.abs(expected) if reference.relative else np.ones_like(expected))
    share = " of the score" if reference.relative else ""
    told = float((apart / np.abs(expected)).max()) if reference.relative else float(apart.max())
    holds = bool(np.isfinite(found).all() and (apart <= allowed).all())
    scores = " ".join(f"{score:.5f}" for score in found)
    return (
        f"{scores}, at most {told:.5f}{share} apart, {reference.tolerance:g} is allowed"
    ), holds and math.isfinite(told)


def _scores(model: Model, reference: PublishedScores) -> Sequence[float] | NDArray[np.float32]:
    if reference.task in ("rerank", "maxsim"):
        return [one.outputs.score for one in model.score(reference.query, list(reference.documents))]
    query = _vectors(model, [reference.query], "query")
    documents = _vectors(model, reference.documents, "document")
    products = documents @ query[0]
    if model.manifest.heads["embed"].sparse:
        return products
    return products / (np.linalg.norm(documents, axis=1) * np.linalg.norm(query[0]))


def _vectors(model: Model, texts: Sequence[str], side: RoleName) -> NDArray[np.float32]:
    """As the models' own library embeds this side: with its stored prompt, where it has one."""
    text = model.manifest.text
    if side in text.roles:
        return np.asarray(model.embed(list(texts), role=side))
    return np.asarray(model.embed(list(texts), prompt_name=side if side in text.prompts else None))

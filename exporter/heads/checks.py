"""Checks that a planned head leaves out no tensor of the checkpoint's own head."""

from __future__ import annotations

from collections.abc import Iterable

from ...runtime.errors import CheckpointError
from ..checkpoint import Checkpoint
from ..families._published_class import class_name
from ..files.adapter_merge import Merged, Rows
from .layers import LayerStep


def check_classifier(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError for a classifier with more layers than the plan has.

    This concerns the family of everything that transformers reads: its models share one description of a
    head.
    """
    family = checkpoint.family
    if checkpoint.kind != "classify" or family.model_types:
        return
    native = class_name(checkpoint.config, checkpoint.architecture, "classify")
    known = native is not None if family.sequence is None else native is None or not family.sequence.assumed
    if known:
        return
    inside = (*family.prefixes, "classifier.weight", "classifier.bias", "score.weight", "score.bias")
    # A pooler belongs to the head although its tensors are inside the backbone: hidden states do not pass it.
    rest = sorted(name for name in checkpoint.weights if not name.startswith(inside) or ".pooler." in name)
    if rest and any(name.startswith(family.prefixes) for name in checkpoint.weights):
        raise CheckpointError(
            f"{checkpoint.source}: the head of {checkpoint.architecture} has tensors that poolrt does not "
            f"know: {', '.join(rest[:5])}; `--convert embed` uses the backbone alone"
        )


def check_adapter(checkpoint: Checkpoint, steps: Iterable[LayerStep]) -> None:
    """Raises CheckpointError for tensors of the adapter that no head uses, and for a head that shares an
    adapted table.

    PEFT changes the look-up of a tied table but not the output, so the adapted model has two versions of it.
    """
    weights = checkpoint.weights
    if not isinstance(weights, Merged) or weights.base is None:
        return
    used = {
        name
        for step in steps
        if not step.layer.where
        for name in (step.weight, step.bias, step.residual)
        if name is not None
    }
    # Trained rows are no problem: PEFT puts them into a tied output too.
    split = {
        name for name, steps in weights.changes.items() if not all(isinstance(step, Rows) for step in steps)
    } | weights.brought
    # A projection of tokens (embedding_proj_layer) is no table.
    tables = (name for name in used if "embed" in name and "_proj" not in name)
    shared = sorted(name for name in tables if name in split)
    if shared:
        raise CheckpointError(
            f"{checkpoint.source}: the adapter changes {', '.join(shared)}, which the head shares: the "
            "adapted model has two versions of "
            "it, a merged one cannot; untie them in the checkpoint and train the adapter on that"
        )
    unused = sorted(set(weights.places) - set(weights.base.places) - used)
    if unused and checkpoint.overrides.get("convert") != "embed":
        raise CheckpointError(
            f"{checkpoint.source}: the adapter brings tensors that this {checkpoint.kind} model does "
            f"not use: {', '.join(unused)}; "
            "choose its head with --convert classify, or leave it out with --convert embed"
        )

"""The abilities of a model, by which routes find the models that can respond: its tasks, `pooling` (any
model), `score` (pairs of texts), `sparse` (weights of tokens)."""

from __future__ import annotations

from ...runtime.model import Model


def abilities_of(model: Model) -> frozenset[str]:
    manifest = model.manifest
    abilities = {"pooling", *model.tasks}
    if manifest.scoring is not None:
        abilities.add("score")
    if any(head.sparse and task in abilities for task, head in manifest.heads.items()):
        abilities.add("sparse")
    return frozenset(abilities)

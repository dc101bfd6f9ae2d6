"""What a model can be asked for, in words: its tasks, `pooling` (any model), `score` (pairs of texts),
`sparse` (weights of tokens)."""

from __future__ import annotations

from ...runtime.model import Model


def abilities_of(model: Model) -> frozenset[str]:
    manifest = model.manifest
    words = {"pooling", *model.tasks}
    if manifest.scoring is not None:
        words.add("score")
    if any(head.sparse and task in words for task, head in manifest.heads.items()):
        words.add("sparse")
    return frozenset(words)

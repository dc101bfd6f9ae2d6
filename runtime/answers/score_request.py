"""What a score request says: both sides as lists of text, the task that compares them, the preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..artifact.manifest import Manifest, Task
from ..errors import InputError, UnsupportedTask
from ..inputs.items import Style, TokenLimits
from ..inputs.multimodal.contents import Content, is_picture
from ..inputs.pairs import check_counts
from ..inputs.preparation import Preparation
from .params import PoolingParams

Side = str | Content
"""A query or a document: its text, or its text and pictures."""
TASK: dict[str, Task] = {
    "bi-encoder": "embed",
    "late-interaction": "token_embed",
    "cross-encoder": "classify",
    "listwise": "token_embed",
}
"""How a model scores -> the task whose rows are compared."""


def style(manifest: Manifest, wanted: Style, *, templated: bool = False) -> Style:
    """Returns `vllm` where it is wanted and scores differ by it, else `model`
    (docs/decisions/score-preparation.md). Raises InputError for any other word.

    A cross-encoder that has a template keeps it, because its scores mean nothing without one.

    Args:
        templated: whether the caller brings a template.
    """
    if wanted not in ("model", "vllm"):
        raise InputError(f"preparation {wanted!r} is not 'model' or 'vllm'", field="preparation")
    apart = manifest.scoring in ("bi-encoder", "late-interaction")
    differs = bool(manifest.text.roles) or any(head.sparse for head in manifest.heads.values())
    joined = manifest.scoring == "cross-encoder" and manifest.text.score_template is None and not templated
    return wanted if (apart and differs) or joined else "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRequest:
    """How both sides of a score are to be prepared."""

    limits: TokenLimits
    params: PoolingParams
    template: str | None = None
    """Jinja text of a score template; None: the model's own."""
    variables: Mapping[str, Any] | None = None
    """Of the score template."""
    max_tokens_per_query: int = 0
    """Cuts each text of the first side before anything else; 0: not."""
    max_tokens_per_doc: int = 0
    """The same of the second side."""


def sides(preparation: Preparation, data_1: Any, data_2: Any) -> tuple[list[Side], list[Side]]:
    """Returns both sides as lists of text, or of Content where there are pictures. Raises InputError with
    vLLM's texts and in its order: content first, then counts."""
    first, second = (
        [preparation.side(item, f"{name}[{index}]") for index, item in enumerate(side(data, name))]
        for data, name in ((data_1, "data_1"), (data_2, "data_2"))
    )
    check_counts(first, second)
    for name, texts in (("data_1", first), ("data_2", second)):
        for index, text in enumerate(texts):
            if not isinstance(text, str | Content):
                raise InputError(f"{name}[{index}]: expected text, found {type(text).__name__}", field=name)
    return first, second


def side(data: Any, name: str) -> list[Any]:
    """Returns one side of a comparison as a list. Raises InputError for what is neither text nor a list."""
    if isinstance(data, str | Mapping | Content) or is_picture(data):
        return [data]
    if (isinstance(data, Sequence) and not isinstance(data, bytes | bytearray)) or (
        isinstance(data, np.ndarray) and data.ndim == 1
    ):
        return list(data)
    raise InputError(f"{name}: expected text or a list of texts, found {type(data).__name__}", field=name)


def task_of(manifest: Manifest) -> Task:
    """Returns the task whose rows are compared. Raises UnsupportedTask, with vLLM's texts, for a
    model that scores nothing."""
    if manifest.scoring is None:
        if "classify" in manifest.heads:
            labels = manifest.heads["classify"].dim
            raise UnsupportedTask(
                f"Scoring API is only enabled for num_labels == 1. This model has {labels}; use classify.",
                field=None,
            )
        raise UnsupportedTask(
            f"This model does not support the Scoring API. Its tasks are {', '.join(manifest.tasks)}.",
            field=None,
        )
    return TASK[manifest.scoring]

"""From what a model returns to columns of Arrow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..answers.sparse import token_weights
from ..artifact.manifest import Head
from ..inputs.encoder import Encoder
from ..outputs import PoolingOutput, RequestOutput
from .settings import Settings

if TYPE_CHECKING:
    import pyarrow as pa

Result = RequestOutput[PoolingOutput]


def columns(
    results: Sequence[Result | None], settings: Settings, head: Head, encoder: Encoder
) -> dict[str, pa.Array]:
    """The columns of a task (`settings.COLUMNS`); a row without a result is null in all of them."""
    import pyarrow as pa

    arrays = [None if result is None else result.outputs.data for result in results]
    width = settings.dimensions or head.dimensions or head.dim
    match settings.task:
        case "embed":
            return {"embedding": vectors(arrays, width, settings)}
        case "token_embed":
            return {"token_embeddings": _nested(arrays, lambda rows: vectors(rows, width, settings))}
        case "token_classify":
            # A head that is `flat` gives [tokens], every other [tokens, labels].
            shaped = [None if array is None else array.reshape(len(array), -1) for array in arrays]
            labels = next((array.shape[1] for array in shaped if array is not None and len(array)), head.dim)
            return {"token_scores": _nested(shaped, lambda rows: vectors(rows, labels, settings))}
        case "classify":
            labels = [None if array is None or not head.labels else _label(head, array) for array in arrays]
            return {"scores": vectors(arrays, head.dim, settings)} | (
                {"label": pa.array(labels, pa.string())} if head.labels else {}
            )
        case "sparse":
            weights = [None if result is None else token_weights(result, head, encoder) for result in results]
            return {
                "sparse_indices": _nested(
                    [None if row is None else np.fromiter(row.keys(), np.int32, len(row)) for row in weights],
                    lambda rows: pa.array(_joined(rows, np.int32)),
                ),
                "sparse_values": _nested(
                    [
                        None if row is None else np.fromiter(row.values(), np.float32, len(row))
                        for row in weights
                    ],
                    lambda rows: pa.array(_joined(rows, np.float32).astype(settings.numbers)),
                ),
            }


def vectors(rows: Sequence[NDArray[Any] | None], width: int, settings: Settings) -> pa.Array:
    """A column of vectors, [width] each.

    Args:
        rows: [width] each; [tokens, width] stands for so many vectors; None is null.
    """
    import pyarrow as pa

    if not settings.fixed_size:
        flat = [None if row is None else row.reshape(-1) for row in rows]
        if any(row is not None and row.ndim > 1 for row in rows):
            whole = _joined(flat, np.float32).astype(settings.numbers)
            offsets = np.arange(0, whole.size + 1, width, dtype=np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(whole))
        return _nested(flat, lambda parts: pa.array(_joined(parts, np.float32).astype(settings.numbers)))
    missing = [row is None for row in rows]
    filled = [np.zeros(width, np.float32) if row is None else row.reshape(-1) for row in rows]
    values = pa.array(_joined(filled, np.float32).astype(settings.numbers))
    mask = pa.array(missing, pa.bool_()) if any(missing) else None
    return pa.FixedSizeListArray.from_arrays(values, width, mask=mask)


def _nested(
    rows: Sequence[NDArray[Any] | None], inner: Callable[[list[NDArray[Any]]], pa.Array]
) -> pa.ListArray:
    """A list of each row's members, [members, ...]; None is null."""
    import pyarrow as pa

    lengths = [0 if row is None else len(row) for row in rows]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    mask = np.array([row is None for row in rows] + [False])
    values = inner([row for row in rows if row is not None])
    return pa.ListArray.from_arrays(pa.array(offsets, mask=mask if mask.any() else None), values)


def _joined(rows: Sequence[NDArray[Any] | None], kind: type[np.generic]) -> NDArray[Any]:
    filled = [row for row in rows if row is not None]
    return np.concatenate(filled) if filled else np.zeros(0, kind)


def _label(head: Head, array: NDArray[Any]) -> str | None:
    best = int(array.argmax())
    return head.labels[best] if best < len(head.labels) else None

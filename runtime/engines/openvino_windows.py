"""Attention within a window in a graph that OpenVINO reads: each block of queries is multiplied with the keys
that its window reaches, two blocks of them, and with no others.

The blocks are one more axis, and the graph's own mask is cut to them, so that it decides as before. For short
texts that is more work, not less, so long texts have a compiled graph of their own
(docs/decisions/openvino.md).
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

_NAMED = re.compile(r"\(keys (-?\d+) to (-?\d+)\)$")
"""What exporter/graph/passes/blocks.py writes behind the name of an attention with a window."""
WIDEST = 512
"""Windows of more keys than this gain too little at the lengths that models with such windows read."""
LONG_WINDOWS = 4
"""Texts of more tokens than so many of the widest window are long."""
_MASKED = np.float32(-1e30)
_END = np.iinfo(np.int64).max
_HEADS, _TOKENS, _WIDTH = 1, 2, 3


def of_name(name: str) -> tuple[int, int] | None:
    """The window (left, right) of an attention by the name of its node, in keys before and behind a query's
    own; None where it has none, or one that is too wide."""
    bounds = _NAMED.search(name)
    if bounds is None:
        return None
    left, right = -int(bounds[1]), int(bounds[2])
    return (left, right) if left >= 0 <= right and 0 < left + right <= WIDEST else None


def cut(model: Any, library: Any, windows: dict[str, tuple[int, int]]) -> int:
    """Rewrites in place every attention whose softmax has one of these names; returns their number."""
    changes, blocks = 0, dict[tuple[str, tuple[int, int]], _Blocks]()
    for node in model.get_ordered_ops():
        window = windows.get(node.get_friendly_name()) if node.get_type_name() == "Softmax" else None
        if window is None:
            continue
        scores, readers = node.input_value(0).get_node(), list(node.output(0).get_target_inputs())
        product = scores.input_value(0).get_node() if scores.get_type_name() == "Add" else None
        weighted = readers[0].get_node() if len(readers) == 1 else None
        if product is None or product.get_type_name() != "MatMul" or weighted is None:
            continue
        if weighted.get_type_name() != "MatMul" or any(map(_turns, (product, weighted))):
            continue
        mask = scores.input_value(1)
        queries, keys, values = product.input_value(0), product.input_value(1), weighted.input_value(1)
        width = values.get_partial_shape()[_WIDTH]
        if width.is_dynamic:
            continue
        key = mask.get_node().get_friendly_name(), window
        if key not in blocks:  # one for all layers
            blocks[key] = _Blocks(library.opset13, queries, mask, window)
        result = blocks[key].weighted(queries, keys, values, width.get_length())
        weighted.output(0).replace(result.output(0))
        changes += 1
    if changes:
        model.validate_nodes_and_infer_types()
    return changes


def _turns(product: Any) -> bool:
    attributes = product.get_attributes()
    return bool(attributes["transpose_a"] or attributes["transpose_b"])


class _Blocks:
    """Blocks of as many queries as the window has keys, of one text length and mask.

    With `left` zeros in front, and behind them what fills the last block and `right` more, keys are one block
    more than queries, and a block of queries reaches the keys of the block at its place and the next.
    """

    def __init__(self, ops: Any, queries: Any, mask: Any, window: tuple[int, int]) -> None:
        self._ops, (self._left, self._right) = ops, window
        self._size = size = sum(window)
        self._tokens = ops.gather(ops.shape_of(queries, "i64"), np.array([_TOKENS]), np.int64(0))
        self._number = ops.divide(ops.add(self._tokens, _vector(size - 1)), _vector(size))
        self._extra = ops.subtract(ops.multiply(self._number, _vector(size)), self._tokens)
        self._mask = self._of_mask(mask)
        """[batch or 1, 1, blocks, size, 2 size], added to the scores."""

    def weighted(self, queries: Any, keys: Any, values: Any, width: int) -> Any:
        """The values, [batch, heads, tokens, width], weighted by the softmax of the scores.

        Args:
            queries: [batch, heads, tokens, width of keys], scaled.
            keys: [batch, heads, width of keys, tokens].
        """
        ops = self._ops
        turned = ops.transpose(keys, np.array([0, _HEADS, _WIDTH, _TOKENS]))
        scores = ops.matmul(self._cut(queries, 0, 0), self._reached(turned), False, True)
        weights = ops.softmax(ops.add(scores, self._mask), 4)
        joined = ops.reshape(
            ops.matmul(weights, self._reached(values), False, False), np.array([0, 0, -1, width]), True
        )
        return ops.slice(joined, _vector(0), self._tokens, _vector(1), _vector(_TOKENS))

    def _reached(self, value: Any) -> Any:
        """[batch, heads, blocks, 2 size, width] of keys or values."""
        ops, blocks = self._ops, self._cut(value, self._left, self._right)
        first = ops.slice(blocks, _vector(0), _vector(-1), _vector(1), _vector(_TOKENS))
        second = ops.slice(blocks, _vector(1), _vector(_END), _vector(1), _vector(_TOKENS))
        return ops.concat([first, second], 3)

    def _cut(self, value: Any, before: int, behind: int) -> Any:
        """[batch, heads, blocks, size, width], with zeros around."""
        ops = self._ops
        none = np.array([0, 0], np.int64)
        begin = np.array([0, 0, before, 0])
        end = ops.concat([none, ops.add(self._extra, _vector(behind)), _vector(0)], 0)
        padded = ops.pad(value, begin, end, "constant", np.float32(0))
        last = ops.gather(ops.shape_of(value, "i64"), np.array([_WIDTH]), np.int64(0))
        shape = ops.concat([none, np.array([-1, self._size]), last], 0)
        return ops.reshape(padded, shape, True)

    def _of_mask(self, mask: Any) -> Any:
        """The mask, [batch or 1, 1, tokens, tokens], of each block and the keys that it reaches.

        Rows of a block begin one behind another; with `size` elements behind each block of rows they begin
        at the next block's keys, so that all blocks are one slice.
        """
        ops, size = self._ops, self._size
        rows = ops.multiply(self._number, _vector(size))
        end = ops.concat([np.array([0, 0]), self._extra, ops.add(self._extra, _vector(self._right))], 0)
        padded = ops.pad(mask, np.array([0, 0, 0, self._left]), end, "constant", _MASKED)
        row = ops.add(rows, _vector(size))
        batch = ops.gather(ops.shape_of(mask, "i64"), np.array([0]), np.int64(0))
        flat = ops.reshape(padded, ops.concat([batch, _vector(-1)], 0), False)
        longer = ops.pad(flat, np.array([0, 0]), ops.concat([_vector(0), rows], 0), "constant", _MASKED)
        shifted = ops.reshape(longer, ops.concat([batch, self._number, _vector(-1)], 0), False)
        block = ops.slice(shifted, _vector(0), ops.multiply(row, _vector(size)), _vector(1), _vector(2))
        shape = ops.concat([batch, self._number, np.array([size, -1])], 0)
        reached = ops.slice(
            ops.reshape(block, shape, False), _vector(0), _vector(2 * size), _vector(1), _vector(3)
        )
        return ops.unsqueeze(reached, np.int64(1))


def _vector(number: int) -> Any:
    return np.array([number], np.int64)

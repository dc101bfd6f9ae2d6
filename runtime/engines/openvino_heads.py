"""Attention of grouped heads in a graph that OpenVINO reads: keys and values are not repeated.

A decoder has fewer heads of keys and values than of queries, and torch repeats the former until there are as
many. The queries of one group are put behind one another instead, [batch, groups, heads * tokens, width], so
keys and values stay as they are. A prefix is repeated for the rows of a batch in the precision of the
products. Results are the same products and sums (docs/decisions/openvino.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

_KEYS_TURNED = [0, 1, 3, 2]


@dataclass(frozen=True, slots=True)
class _Attention:
    """Attention whose keys and values are repeated. Values are those of OpenVINO's graph."""

    queries: Any
    """[batch, heads, tokens, width], scaled."""
    keys: Any
    """[batch, groups, keys, width], not repeated."""
    values: Any
    scale: Any
    """Of the keys; None: they have none."""
    mask: Any
    """[batch or 1, 1, tokens, keys], added to the scores."""
    result: Any
    """[batch, heads, tokens, width]."""
    groups: int
    heads: int
    """Of queries."""


def group(model: Any, library: Any, precision: str) -> int:
    """Rewrites in place every attention of grouped heads that is understood; returns their number.

    Args:
        library: the module `openvino`.
        precision: OpenVINO's name of that of the products, in which a prefix is repeated.
    """
    softmaxes = [node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax"]
    attentions = [attention for node in softmaxes if (attention := _read(node)) is not None]
    masks: dict[tuple[str, int], Any] = {}
    for attention in attentions:
        _rewrite(attention, library.opset13, precision, masks)
    if attentions:
        model.validate_nodes_and_infer_types()
    return len(attentions)


def _rewrite(attention: _Attention, ops: Any, precision: str, masks: dict[tuple[str, int], Any]) -> None:
    groups, times = attention.groups, attention.heads // attention.groups
    width = attention.queries.get_partial_shape()[3].get_length()
    key = attention.mask.get_node().get_friendly_name(), times
    if key not in masks:  # one for all layers
        masks[key] = ops.concat([attention.mask] * times, 2)
    queries = ops.reshape(attention.queries, np.array([0, groups, -1, width]), True)
    if attention.scale is not None:
        # There are fewer queries behind a prefix than keys.
        queries = ops.multiply(queries, attention.scale)
    keys, values = (_repeated(value, ops, precision) for value in (attention.keys, attention.values))
    scores = ops.matmul(queries, ops.transpose(keys, np.array(_KEYS_TURNED)), False, False)
    weighted = ops.matmul(ops.softmax(ops.add(scores, masks[key]), 3), values, False, False)
    result = ops.reshape(weighted, np.array([0, attention.heads, -1, width]), True)
    attention.result.replace(result.output(0))


def _repeated(value: Any, ops: Any, precision: str) -> Any:
    """Returns keys or values behind those of a prefix, which are repeated for each row; without a prefix the
    value itself."""
    joined = value.get_node()
    before = joined.input_value(0).get_node() if joined.get_type_name() == "Concat" else None
    if before is None or before.get_type_name() != "Broadcast" or joined.get_input_size() != 2:
        return value
    prefix, own = before.input_value(0), joined.input_value(1)
    shape = prefix.get_partial_shape()
    if len(shape) != 4 or shape[0].is_dynamic or shape[0].get_length() != 1:
        return value
    rows = ops.gather(ops.shape_of(own, "i64"), np.array([0]), np.int64(0))
    if precision != "f32":
        prefix = ops.convert(prefix, precision).output(0)
    tiled = ops.tile(prefix, ops.concat([rows, np.array([1, 1, 1])], 0))
    return ops.concat([tiled if precision == "f32" else ops.convert(tiled, "f32"), own], 2).output(0)


# --- reading


def _read(softmax: Any) -> _Attention | None:
    """Returns what the softmax belongs to; None where keys and values are not repeated, or otherwise."""
    added = _before(softmax, "Add")
    scores = None if added is None else _before(added, "MatMul")
    readers = list(softmax.output(0).get_target_inputs())
    if added is None or scores is None or len(readers) != 1:
        return None
    weighted, mask = readers[0].get_node(), added.input_value(1)
    if weighted.get_type_name() != "MatMul" or any(map(_turns, (scores, weighted))):
        return None
    turned, scale = scores.input_value(1).get_node(), None
    if turned.get_type_name() == "Multiply" and _is_scalar(turned.input_value(1)):
        turned, scale = turned.input_value(0).get_node(), turned.input_value(1)
    if turned.get_type_name() != "Transpose" or _constant(turned.input_value(1)) != _KEYS_TURNED:
        return None
    keys, values = _once(turned.input_value(0)), _once(weighted.input_value(1))
    queries = scores.input_value(0)
    if keys is None or values is None or _axis(mask, 1) != 1:
        return None
    # The number of heads is known of the repeated keys; that of the queries follows from their width.
    heads, groups, width = _axis(turned.input_value(0), 1), _axis(keys, 1), _axis(queries, 3)
    if heads is None or groups is None or heads % groups or _axis(values, 1) != groups:
        return None
    if width is None or _axis(values, 3) != width:
        return None
    return _Attention(queries, keys, values, scale, mask, weighted.output(0), groups, heads)


def _once(value: Any) -> Any | None:
    """Returns the [batch, groups, keys, width] of which `value` is a repetition along the second axis; None:
    it is none."""
    reshaped = value.get_node()
    repeated = _before(reshaped, "Broadcast") if reshaped.get_type_name() == "Reshape" else None
    lifted = None if repeated is None else _before(repeated, "Unsqueeze")
    if lifted is None or _constant(lifted.input_value(1)) not in (2, [2]):
        return None
    return lifted.input_value(0)


def _before(node: Any, kind: str) -> Any | None:
    """Returns the node of the first input, if it is of this kind."""
    source = node.input_value(0).get_node()
    return source if source.get_type_name() == kind else None


def _turns(product: Any) -> bool:
    attributes: Mapping[str, Any] = product.get_attributes()
    return bool(attributes["transpose_a"] or attributes["transpose_b"])


def _axis(value: Any, place: int) -> int | None:
    """Returns the size of one of four axes; None where it is not known."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic or len(shape) != 4 or shape[place].is_dynamic:
        return None
    return shape[place].get_length()


def _constant(value: Any) -> Any:
    """Returns the numbers of a constant; None for another value."""
    node = value.get_node()
    return node.data.tolist() if node.get_type_name() == "Constant" else None


def _is_scalar(value: Any) -> bool:
    node = value.get_node()
    return node.get_type_name() == "Constant" and node.data.size == 1

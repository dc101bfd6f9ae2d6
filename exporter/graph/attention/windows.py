"""Which keys a mask admits, told from how the graph computes it: those within a window around the query.

The mask of a causal or a sliding layer compares positions. This reads the comparison, and never guesses: what
it cannot read admits all keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....runtime.artifact.manifest import PAST

if TYPE_CHECKING:
    import onnx_ir as ir

TOKENS = "tokens"
"""Name of the axis of a text's tokens, which are the queries."""
# A masked score is at most this, so its share of the softmax is 0.
MASKED = -1e30


@dataclass(frozen=True, slots=True)
class Window:
    """The keys at k that a query may reach whose own key is at q: first <= k - q <= last. None: no bound on
    that side."""

    first: int | None = None
    last: int | None = None

    def __and__(self, other: Window) -> Window:
        firsts = [bound for bound in (self.first, other.first) if bound is not None]
        lasts = [bound for bound in (self.last, other.last) if bound is not None]
        return Window(max(firsts, default=None), min(lasts, default=None))

    def __or__(self, other: Window) -> Window:
        """The smallest window that holds both."""
        first = None if self.first is None or other.first is None else min(self.first, other.first)
        last = None if self.last is None or other.last is None else max(self.last, other.last)
        return Window(first, last)

    @property
    def around(self) -> bool:
        """Whether every query reaches its own key, so that no query is left without keys at the edges."""
        return (self.first is None or self.first <= 0) and (self.last is None or self.last >= 0)

    @property
    def label(self) -> str:
        """What stands behind the name of an attention with bounds on both sides, for engines that compute the
        window alone (runtime/engines/openvino_windows.py). Empty for others."""
        return "" if self.first is None or self.last is None else f" (keys {self.first} to {self.last})"


EVERYTHING = Window()


def of_added(value: ir.Value | None) -> Window:
    """The window of a value that is added to scores, or of scores with such values added."""
    node = value.producer() if value is not None else None
    if node is None:
        return EVERYTHING
    if node.op_type == "Add":
        return of_added(node.inputs[0]) & of_added(node.inputs[1])
    if node.op_type == "Where":
        masked = scalar(node.inputs[2])
        return _of_condition(node.inputs[0]) if masked is not None and masked <= MASKED else EVERYTHING
    return EVERYTHING


def scalar(value: ir.Value | None) -> float | None:
    """Returns the number that a constant of one element holds."""
    tensor = value.const_value if value is not None else None
    return float(tensor.numpy().item()) if tensor is not None and tensor.size == 1 else None


def _of_condition(value: ir.Value | None) -> Window:
    node = value.producer() if value is not None else None
    if node is None:
        return EVERYTHING
    if node.op_type == "And":
        return _of_condition(node.inputs[0]) & _of_condition(node.inputs[1])
    if node.op_type == "Or":
        return _of_condition(node.inputs[0]) | _of_condition(node.inputs[1])
    if node.op_type == "Unsqueeze" and axes(node.inputs[0])[-2:] == axes(value)[-2:]:
        return _of_condition(node.inputs[0])
    if node.op_type in ("LessOrEqual", "Less"):
        return _of_order(node.inputs[0], node.inputs[1], strict=node.op_type == "Less")
    if node.op_type in ("GreaterOrEqual", "Greater"):
        return _of_order(node.inputs[1], node.inputs[0], strict=node.op_type == "Greater")
    return EVERYTHING


def _of_order(low: ir.Value | None, high: ir.Value | None, *, strict: bool) -> Window:
    """The window of `low <= high`, or of `low < high`."""
    distance = low.producer() if low is not None else None
    if distance is not None and distance.op_type == "Abs":
        line, most = _line(distance.inputs[0]), scalar(high)
        if line in (_Line(1, -1), _Line(-1, 1)) and most is not None and most == int(most):
            reach = int(most) - strict
            return Window(-reach, reach)
        return EVERYTHING
    left, right = _line(low), _line(high)
    if left is None or right is None:
        return EVERYTHING
    difference = left.plus(right, -1)
    if difference.past:
        return EVERYTHING
    # queries * q + keys * k + constant <= 0
    if (difference.queries, difference.keys) == (-1, 1):
        return Window(last=-difference.constant - strict)
    if (difference.queries, difference.keys) == (1, -1):
        return Window(first=difference.constant + strict)
    return EVERYTHING


@dataclass(frozen=True, slots=True)
class _Line:
    """The number queries * q + keys * k + past * p + constant for each pair of a query and a key. q and k are
    their places among the tokens behind the prefix, whose p tokens are at -p to -1."""

    queries: int = 0
    keys: int = 0
    past: int = 0
    constant: int = 0

    def plus(self, other: _Line, times: int) -> _Line:
        return _Line(
            self.queries + times * other.queries,
            self.keys + times * other.keys,
            self.past + times * other.past,
            self.constant + times * other.constant,
        )


def _line(value: ir.Value | None) -> _Line | None:
    """Returns the line of a value that is computed from positions; None where it cannot be read."""
    if value is None:
        return None
    if (number := scalar(value)) is not None:
        return _Line(constant=int(number)) if number == int(number) else None
    if is_past(value):
        return _Line(past=1)
    begin, place = _counted(value), _place(value)
    if begin is not None and place is not None:
        return begin.plus(place, 1)
    node = value.producer()
    if node is None or node.op_type not in ("Add", "Sub"):
        return None
    left, right = _line(node.inputs[0]), _line(node.inputs[1])
    if left is None or right is None:
        return None
    return left.plus(right, 1 if node.op_type == "Add" else -1)


def _place(value: ir.Value) -> _Line | None:
    """Returns what positions along an axis are that is counted from 0: those of queries, or of keys."""
    sizes = axes(value)
    if sizes[-2:] == [TOKENS, "1"]:
        return _Line(queries=1)
    if sizes and is_keys(sizes[-1]) and sizes[-2:-1] in ([], ["1"]):
        return _Line(keys=1, past=0 if sizes[-1] == TOKENS else 1)
    return None


def _counted(value: ir.Value | None) -> _Line | None:
    """Returns where the positions begin that a Range counts, reshaped or not, with numbers added or not; None
    for anything else."""
    node = value.producer() if value is not None else None
    if node is None:
        return None
    if node.op_type in ("Unsqueeze", "Cast", "Identity"):
        return _counted(node.inputs[0])
    if node.op_type in ("Add", "Sub"):
        begin, more = _counted(node.inputs[0]), _number(node.inputs[1])
        return None if begin is None or more is None else begin.plus(more, 1 if node.op_type == "Add" else -1)
    if node.op_type != "Range" or scalar(node.inputs[2]) != 1:
        return None
    return _number(node.inputs[0])


def _number(value: ir.Value | None) -> _Line | None:
    """Returns the line of a constant, or of the prefix's length."""
    if value is not None and is_past(value):
        return _Line(past=1)
    number = scalar(value)
    return _Line(constant=int(number)) if number is not None and number == int(number) else None


def is_past(value: ir.Value) -> bool:
    """Whether a value is the number of tokens of the prefix."""
    node = value.producer()
    while node is not None and node.op_type in ("Squeeze", "Cast", "Identity"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    if node is None or node.op_type != "Shape":
        return False
    prefix, start, end = node.inputs[0], node.attributes.get("start"), node.attributes.get("end")
    return (
        prefix is not None
        and prefix.is_graph_input()
        and start is not None
        and end is not None
        and axes(prefix)[start.as_int() : end.as_int()] == [PAST]
    )


def is_keys(axis: str) -> bool:
    """Whether an axis is that of keys: of the tokens, behind those of a prefix in a graph that takes one."""
    return axis == TOKENS or set(axis.split(" + ")) == {TOKENS, PAST}


def axes(value: ir.Value | None) -> list[str]:
    """Names and sizes of a value's axes; empty where they are not known."""
    return [str(axis) for axis in value.shape] if value is not None and value.shape is not None else []

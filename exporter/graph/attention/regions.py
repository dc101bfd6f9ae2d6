"""The nodes of one attention: what computes its scores, its softmax and its result, and what is added in
between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .windows import EVERYTHING, TOKENS, Window, axes, is_keys, of_added, scalar

if TYPE_CHECKING:
    import onnx_ir as ir

ELEMENTWISE = frozenset({
    "Abs", "Add", "And", "Cast", "Div", "Equal", "Greater", "GreaterOrEqual", "Identity", "Less",
    "LessOrEqual", "Max", "Min", "Mul", "Neg", "Not", "Or", "Sub", "Tanh", "Where",
})  # fmt: skip
_RANK = 4  # [batch, heads, tokens, width]


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(q k + what is added) v, whose every intermediate value is read by the next node only."""

    repeated: Mapping[ir.Value, ir.Value]
    """Keys and values with a head for each head of queries -> those that several of these share; empty where
    none are shared."""
    repeats: tuple[ir.Node, ...]
    """The nodes that compute the former from the latter, in order."""
    before: tuple[ir.Node, ...]
    """Scalings of queries and keys and the transpose of keys, in order; nothing else reads their results."""
    scores: ir.Node
    """The product q k. Its inputs: queries [batch, heads, tokens, width] and keys [batch, heads, width,
    keys]; there are more keys than tokens behind a prefix."""
    between: tuple[ir.Node, ...]
    """From the scores to the softmax's input, element by element."""
    softmax: ir.Node
    weighted: ir.Node
    """The product of the softmax and the values [batch, heads, keys, width]."""
    zeroed: ir.Node | None
    """The multiplication that gives rows without a key zeros (passes/empty_rows.py)."""
    sides: tuple[ir.Value, ...]
    """Computed values that `between` and `zeroed` read beside the scores: masks, biases."""
    heads: int
    sharing: int
    """Heads of queries that share one head of keys and values."""
    window: Window

    @property
    def nodes(self) -> tuple[ir.Node, ...]:
        last = () if self.zeroed is None else (self.zeroed,)
        return (*self.repeats, *self.before, self.scores, *self.between, self.softmax, self.weighted, *last)

    @property
    def result(self) -> ir.Value:
        return (self.zeroed or self.weighted).outputs[0]


def find(softmax: ir.Node) -> Attention | None:
    """Returns the attention around a softmax over keys; None where it has another form."""
    axis = softmax.attributes.get("axis")
    probabilities = softmax.outputs[0]
    if axis is None or axis.as_int() not in (-1, _RANK - 1):
        return None
    weighted = _only_reader(probabilities, "MatMul")
    if weighted is None or weighted.inputs[0] is not probabilities:
        return None
    way = _back_to_scores(softmax.inputs[0])
    if way is None:
        return None
    scores, between = way
    before, inputs = _before(scores)
    heads = _heads(inputs[0], weighted.inputs[1], inputs[1])
    if heads is None:
        return None
    own = {node.outputs[0] for node in (scores, *between)}
    sides = [value for node in between for value in node.inputs if value is not None and value not in own]
    zeroed = _zeroing(weighted.outputs[0])
    if zeroed is not None:
        sides += [value for value in zeroed.inputs if value is not None and value is not weighted.outputs[0]]
    computed = dict.fromkeys(value for value in sides if value.const_value is None)
    constant = [value for value in sides if value.const_value is not None]
    if not all(value.const_value is not None and value.const_value.size == 1 for value in constant):
        return None
    window = of_added(softmax.inputs[0])
    repeats = [_repeat(value) for value in (inputs[1], weighted.inputs[1])]
    known = [repeat for repeat in repeats if repeat is not None]
    numbers = {axes(chain[0].inputs[0])[1] for chain in known}
    if len(known) < len(repeats) or len(numbers) != 1:
        known = []
    return Attention(
        repeated={chain[-1].outputs[0]: _first(chain[0]) for chain in known},
        repeats=tuple(node for chain in known for node in chain),
        before=tuple(before),
        scores=scores,
        between=tuple(between),
        softmax=softmax,
        weighted=weighted,
        zeroed=zeroed,
        sides=tuple(computed),
        heads=heads,
        sharing=heads // int(numbers.pop()) if known else 1,
        window=window if window.around else EVERYTHING,
    )


def is_square(value: ir.Value | None) -> bool:
    """Whether a value has an element for each pair of query and key."""
    sizes = axes(value)
    return sizes[-2:-1] == [TOKENS] and is_keys(sizes[-1])


def square_cone(value: ir.Value) -> list[ir.Node]:
    """Returns the nodes, in order, that compute a value of pairs element by element out of values that can be
    cut instead; empty where the value itself is such a one. Whether a row admits any key counts as such."""
    cone: dict[ir.Node, None] = {}

    def walk(value: ir.Value | None) -> None:
        node = value.producer() if value is not None else None
        if node is None or node in cone or not is_square(value):
            return
        # An axis in front of the two of pairs.
        widened = node.op_type == "Unsqueeze" and is_square(node.inputs[0])
        if not widened and node.op_type not in ELEMENTWISE:
            return
        for source in node.inputs:
            walk(source)
        cone[node] = None

    reduced = value.producer()
    if reduced is not None and reduced.op_type == "ReduceMax" and is_square(reduced.inputs[0]):
        walk(reduced.inputs[0])
        cone[reduced] = None
    else:
        walk(value)
    return list(cone)


def can_be_cut(attention: Attention) -> bool:
    """Whether what is added to the scores has axes that a block can cut."""
    for value in attention.sides:
        leaves = [value]
        if cone := square_cone(value):
            inside = {node.outputs[0] for node in cone}
            leaves = [
                source
                for node in cone
                for source in node.inputs
                if source is not None and source not in inside and source.const_value is None
            ]
        heads = axes(value)[-3:-2] or ["1"]
        if heads not in (["1"], [str(attention.heads)]):
            return False
        for leaf in leaves:
            sizes = axes(leaf)
            known = leaf.shape is not None and sizes[-2:-1] in ([], ["1"], [TOKENS])
            if not known or (sizes and sizes[-1] != "1" and not is_keys(sizes[-1])):
                return False
    return all(value.dtype is not None for value in attention.sides)


def _only_reader(value: ir.Value, kind: str) -> ir.Node | None:
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.op_type != kind:
        return None
    return uses[0].node


def _back_to_scores(value: ir.Value | None) -> tuple[ir.Node, list[ir.Node]] | None:
    """Returns the product that computes scores, and the nodes from there to `value`, in order."""
    between: list[ir.Node] = []
    while value is not None:
        node = value.producer()
        if node is None or len(list(value.uses())) != 1 or value.is_graph_output():
            return None
        if node.op_type == "MatMul":
            computed = all(source is not None and source.const_value is None for source in node.inputs)
            return (node, between[::-1]) if computed else None
        if node.op_type not in ELEMENTWISE:
            return None
        between.append(node)
        ways = [source for source in node.inputs if _leads_to_product(source)]
        value = ways[0] if len(ways) == 1 else None
    return None


def _leads_to_product(value: ir.Value | None) -> bool:
    """Whether a product computes the value, up to what works element by element."""
    node = value.producer() if value is not None else None
    if node is None:
        return False
    if node.op_type == "MatMul":
        return True
    return node.op_type in ELEMENTWISE and any(_leads_to_product(source) for source in node.inputs)


def _before(scores: ir.Node) -> tuple[list[ir.Node], list[ir.Value]]:
    """Returns scalings and transposes in front of the product, and the values in front of those."""
    nodes: list[ir.Node] = []
    inputs: list[ir.Value] = []
    for value in scores.inputs:
        chain: list[ir.Node] = []
        assert value is not None
        while (node := value.producer()) is not None and len(list(value.uses())) == 1:
            scaled = node.op_type in ("Mul", "Div") and scalar(node.inputs[1]) is not None
            turned = node.op_type == "Transpose" and list(node.attributes["perm"].as_ints()) == [0, 1, 3, 2]
            if not (scaled or turned) or node.inputs[0] is None:
                break
            chain.append(node)
            value = node.inputs[0]
        nodes += chain[::-1]
        inputs.append(value)
    return nodes, inputs


def _heads(queries: ir.Value, values: ir.Value | None, keys: ir.Value) -> int | None:
    """Returns the number of heads, which queries, keys and values must share; None for another form."""
    if values is None:
        return None
    known = [axes(value) for value in (queries, values, keys)]
    if any(len(shape) != _RANK for shape in known):
        return None
    heads = {shape[1] for shape in known}
    if known[0][2] != TOKENS or not is_keys(known[1][2]) or len(heads) != 1:
        return None
    (number,) = heads
    return int(number) if number.isdigit() else None


def _repeat(value: ir.Value | None) -> list[ir.Node] | None:
    """Returns the nodes, in order, that repeat each head of [batch, heads, keys, width] several times; None
    for others."""
    chain: list[ir.Node] = []
    for kind in ("Reshape", "Expand", "Unsqueeze"):
        node = value.producer() if value is not None and len(list(value.uses())) == 1 else None
        if node is None or node.op_type != kind:
            return None
        chain.append(node)
        value = node.inputs[0]
    reshape, expand, unsqueeze = chain
    shared, wide, spread, whole = (
        axes(value)
        for value in (_first(unsqueeze), unsqueeze.outputs[0], expand.outputs[0], reshape.outputs[0])
    )
    if len(shared) != _RANK or len(whole) != _RANK or not shared[1].isdigit() or not whole[1].isdigit():
        return None
    times = str(int(whole[1]) // int(shared[1]))
    same = wide == [*shared[:2], "1", *shared[2:]] and spread == [*shared[:2], times, *shared[2:]]
    return chain[::-1] if same and whole[2:] == shared[2:] else None


def _first(node: ir.Node) -> ir.Value:
    value = node.inputs[0]
    assert value is not None, f"{node.name} reads nothing"
    return value


def _zeroing(attended: ir.Value) -> ir.Node | None:
    node = _only_reader(attended, "Mul")
    return node if node is not None and (node.name or "").startswith("empty/") else None

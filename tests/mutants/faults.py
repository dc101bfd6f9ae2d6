"""Which small faults can be planted in a source file: each is one change of one node of its syntax tree."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip
TWINS = {"min": "max", "max": "min", "any": "all", "all": "any", "argmin": "argmax", "argmax": "argmin",
    "zeros": "ones", "ones": "zeros",
         "floor": "ceil", "ceil": "floor", "partition": "rpartition", "removeprefix": "removesuffix",
         "removesuffix": "removeprefix",
         "bisect_left": "bisect_right", "bisect_right": "bisect_left", "startswith": "endswith",
         "endswith": "startswith"}  # fmt: skip
ERRORS = (
    "InputError",
    "UnsupportedTask",
    "EngineError",
    "ArtifactError",
    "CheckpointError",
    "Overload",
    "DeadlineExceeded",
)
LONG_TEXT = 40
"""Longer strings are sentences for people."""


@dataclass(frozen=True, slots=True)
class Fault:
    number: int
    """Its place among the faults of its file."""
    line: int
    kind: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.line}: {self.kind}: {self.before} -> {self.after}"


@dataclass(slots=True)
class _Place:
    """A node, and how to put another one in its stead (None: take it out)."""

    node: ast.AST
    put: Callable[[ast.AST | None], None]
    parents: tuple[ast.AST, ...]


def faults(source: str) -> Iterator[Fault]:
    """Every fault of a file, in the order of its lines. What only types, documents or speaks
    to people is left alone."""
    for number, (place, kind, changed) in enumerate(_all(ast.parse(source))):
        after = "nothing" if changed is None else _short(changed)
        yield Fault(number, getattr(place.node, "lineno", 0), kind, _short(place.node), after)


def planted(source: str, number: int) -> str | None:
    """The file with that fault in it; None where it reads the same."""
    tree = ast.parse(source)
    plain = ast.unparse(tree)
    place, _, changed = next(itertools.islice(_all(tree), number, None))
    place.put(changed)
    whole = ast.unparse(ast.fix_missing_locations(tree))
    return None if whole == plain else whole


def _all(tree: ast.AST) -> Iterator[tuple[_Place, str, ast.AST | None]]:
    for place in _places(tree, ()):
        for kind, changed in _changes(place):
            yield place, kind, changed


def _short(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:90]


def _places(node: ast.AST, parents: tuple[ast.AST, ...]) -> Iterator[_Place]:
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_comment", "ctx") or (
            isinstance(node, ast.Assert)
        ):
            continue
        if isinstance(value, list):
            for index, child in enumerate(value):
                if isinstance(child, ast.AST) and not _silent(child):
                    yield _Place(
                        child, lambda new, value=value, index=index: _put(value, index, new), (*parents, node)
                    )
                    yield from _places(child, (*parents, node))
        elif isinstance(value, ast.AST) and not _silent(value):
            yield _Place(value, lambda new, node=node, name=name: setattr(node, name, new), (*parents, node))
            yield from _places(value, (*parents, node))


def _put(values: list[ast.AST], index: int, new: ast.AST | None) -> None:
    values[index] = ast.Pass() if new is None else new


def _silent(node: ast.AST) -> bool:
    """Imports, docstrings, type aliases, logging."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.JoinedStr):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
        return True
    if (
        isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Subscript)
        and isinstance(node.value.value, ast.Name)
    ):
        return node.value.value.id in ("Literal", "Callable", "NDArray", "Annotated")
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Call)
        and ast.unparse(node.value.func).startswith(("log.", "logging."))
    )


def _changes(place: _Place) -> Iterator[tuple[str, ast.AST | None]]:
    node, parent = place.node, place.parents[-1]
    said = any(isinstance(one, ast.Raise) for one in place.parents)  # a message
    match node:
        case ast.Compare(ops=[operator, *_]) if type(operator) in COMPARISONS:
            changed = copy.deepcopy(node)
            changed.ops[0] = COMPARISONS[type(operator)]()
            yield "comparison", changed
        case ast.BoolOp():
            changed = copy.deepcopy(node)
            changed.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield "and/or", changed
            for index in range(len(node.values)):
                rest = [value for number, value in enumerate(node.values) if number != index]
                yield "condition dropped", rest[0] if len(rest) == 1 else ast.BoolOp(op=node.op, values=rest)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=inner):
            yield "sign", inner
        case ast.BinOp(op=operator) if type(operator) in ARITHMETIC and not said:
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(operator)]()
            yield "arithmetic", changed
        case ast.AugAssign(op=operator) if type(operator) in ARITHMETIC:
            changed = copy.deepcopy(node)
            changed.op = ARITHMETIC[type(operator)]()
            yield "arithmetic", changed
        case ast.IfExp():
            yield "branches swapped", ast.IfExp(test=node.test, body=node.orelse, orelse=node.body)
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield "constant", ast.Constant(value + 1 if isinstance(value, int) else value * 1000 + 0.001)
            if isinstance(value, int) and value > 1:
                yield "constant", ast.Constant(value - 1)
        case ast.Constant(value=str() as value) if (
            not said and 0 < len(value) <= LONG_TEXT and not isinstance(parent, ast.FormattedValue)
        ):
            yield "text", ast.Constant("" if " " in value else value + "x")
        case ast.Call():
            yield from _calls(node)
        case ast.Raise(exc=ast.Call(func=ast.Name(id=name))) if name in ERRORS:
            changed = copy.deepcopy(node)
            assert isinstance(changed.exc, ast.Call)
            changed.exc.func = ast.Name("RuntimeError" if name == "InputError" else "InputError")
            if not changed.exc.keywords or name != "InputError":
                yield "error class", changed
            yield "statement", None
        case ast.If() | ast.While():
            if isinstance(node, ast.If):
                yield "condition", _tested(node, False)
                yield "condition", _tested(node, True)
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "result", ast.Return(ast.Constant(None))
        case ast.Break() | ast.Continue() | ast.Delete():
            yield "statement", None
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise():
            yield "statement", None
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", None
        case ast.Tuple(elts=[first, second, *rest]) | ast.List(elts=[first, second, *rest]):
            if isinstance(node.ctx, ast.Load) and not isinstance(parent, ast.Subscript | ast.Compare):
                yield "order", type(node)(elts=[second, first, *rest], ctx=ast.Load())
    if isinstance(node, ast.AugAssign):
        yield "statement", None


def _tested(node: ast.If, value: bool) -> ast.If:
    changed = copy.copy(node)
    changed.test = ast.Constant(value)
    return changed


def _calls(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    name = (
        node.func.id
        if isinstance(node.func, ast.Name)
        else node.func.attr
        if isinstance(node.func, ast.Attribute)
        else ""
    )
    if name in ("field", "TypeVar", "About"):
        return
    if name in TWINS:
        changed = copy.deepcopy(node)
        if isinstance(changed.func, ast.Name):
            changed.func.id = TWINS[name]
        elif isinstance(changed.func, ast.Attribute):
            changed.func.attr = TWINS[name]
        yield "twin", changed
    if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
        yield "call dropped", node.func.value  # .copy(), .strip(), .lower()
    if (
        name in ("sorted", "reversed", "float", "int", "str", "bool", "list", "tuple", "abs", "round", "dict")
        and len(node.args) == 1
    ):
        yield "call dropped", node.args[0]
    for index, keyword in enumerate(node.keywords):
        if keyword.arg is not None and keyword.arg not in (
            "field",
            "param",
            "strict",
            "help",
            "description",
            "metavar",
        ):
            changed = copy.copy(node)
            changed.keywords = [one for number, one in enumerate(node.keywords) if number != index]
            yield "argument dropped", changed
    if (
        len(node.args) == 2
        and name not in ("min", "max", "minimum", "maximum")
        and not any(isinstance(one, ast.Starred) for one in node.args)
    ):
        changed = copy.copy(node)
        changed.args = [node.args[1], node.args[0]]
        yield "arguments swapped", changed

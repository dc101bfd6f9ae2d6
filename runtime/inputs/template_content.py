"""Whether a template reads a message's content part by part, from its syntax tree."""

from __future__ import annotations

from collections.abc import Iterable

from jinja2 import nodes


def sees_parts(root: nodes.Template) -> bool:
    """True for a template with a loop over `message.content`, over a variable named `content`, or over a
    macro's parameter that receives a message's content. vLLM's `--chat-template-content-format auto` reads
    templates the same way."""
    messages = _aliases(root, {"messages"})
    items = {
        loop.target.name
        for loop in root.find_all(nodes.For)
        if isinstance(loop.target, nodes.Name) and _reads(loop.iter, messages)
    }
    in_macros: set[int] = set()
    for macro in root.find_all(nodes.Macro):
        parameters = set(_content_parameters(root, macro, items))
        for loop in macro.find_all(nodes.For):
            in_macros.add(id(loop))
            if isinstance(loop.iter, nodes.Name) and loop.iter.name in parameters:
                return True
    return any(
        _reads_content(loop.iter, items)
        or (id(loop) not in in_macros and isinstance(loop.iter, nodes.Name) and loop.iter.name == "content")
        for loop in root.find_all(nodes.For)
    )


def _aliases(root: nodes.Template, names: set[str]) -> set[str]:
    """`names` and all variables that are assigned from them, directly or not."""
    while True:
        assigned = {
            assign.target.name
            for assign in root.find_all(nodes.Assign)
            if isinstance(assign.target, nodes.Name) and _reads(assign.node, names)
        }
        if assigned <= names:
            return names
        names = names | assigned


def _content_parameters(root: nodes.Template, macro: nodes.Macro, items: set[str]) -> Iterable[str]:
    """Parameters of a macro that receive a message's content in some call."""
    names = [argument.name for argument in macro.args]
    for call in root.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name) and call.node.name == macro.name:
            yield from (
                name for name, value in zip(names, call.args, strict=False) if _reads_content(value, items)
            )
            yield from (
                named.key
                for named in call.kwargs
                if named.key in names and _reads_content(named.value, items)
            )


def _core(node: nodes.Node | None) -> nodes.Node | None:
    """An expression without its filters, tests and slices."""
    while True:
        if isinstance(node, nodes.Filter | nodes.Test) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        else:
            return node


def _reads(node: nodes.Node, names: set[str]) -> bool:
    core = _core(node)
    return isinstance(core, nodes.Name) and core.ctx == "load" and core.name in names


def _reads_content(node: nodes.Node, names: set[str]) -> bool:
    core = _core(node)
    if isinstance(core, nodes.Getattr):
        return core.attr == "content" and _reads(core.node, names)
    return (
        isinstance(core, nodes.Getitem)
        and isinstance(core.arg, nodes.Const)
        and core.arg.value == "content"
        and _reads(core.node, names)
    )

"""The HTTP reference in Markdown, made of the server's own OpenAPI document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from poolrt.serve.pages import openapi
from poolrt.serve.settings import Settings

INTRODUCTION = """\
# HTTP reference

Made of the OpenAPI document of this version with everything switched on; a running server shows its own at
`/docs` and `/openapi.json`. [What each route reads and returns](../http.md) says the same in words, with
limits and errors.
"""


def page() -> str:
    """The whole page, a section for each route."""
    document = openapi.document(Settings(runtime_lora=True, batch_folder=Path("batches")))
    parts = [INTRODUCTION, "| route | what it does |\n|---|---|"]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            name = f"[`{method.upper()} {path}`](#{_anchor(method, path)})"
            parts.append(f"| {name} | {_cell(operation['summary'])} |")
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            title = f"## {method.upper()} {path} {{#{_anchor(method, path)}}}"
            parts += ["", title, "", operation["summary"] + ".", ""]
            parts += _operation(operation, document["components"]["schemas"])
    parts += ["", "## Schemas", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"### {name}", "", *(_rows(schema) or [_type(schema)]), ""]
    return "\n".join(parts) + "\n"


def _anchor(method: str, path: str) -> str:
    return re.sub(r"\W+", "-", f"{method} {path}").strip("-").lower()


def _operation(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        forms = content["schema"].get("anyOf", [content["schema"]])
        for form in forms:
            about = form.get("description", "").strip().split("\n")[0]
            lines += [f"Body: `{media}`" + (f", {about}" if about else ""), "", *_rows(form), ""]
    statuses = []
    for status, response in operation["responses"].items():
        kinds = ", ".join(
            f"`{media}` {_type(content['schema'])}".strip()
            for media, content in response.get("content", {}).items()
        )
        statuses.append(f"| {status} | {_cell(response['description'])} | {kinds} |")
    return [*lines, "| status | when | content |", "|---|---|---|", *statuses]


def _rows(schema: dict[str, Any]) -> list[str]:
    """A table of an object's fields; nothing for a schema that is no object."""
    fields = schema.get("properties", {})
    if not fields:
        return []
    required = schema.get("required", [])
    lines = ["| field | type | default | meaning |", "|---|---|---|---|"]
    # What a client writes first stands first.
    for name in sorted(fields, key=lambda name: (name not in required, name != "model")):
        field = fields[name]
        default = "required" if name in required else _value(field)
        lines.append(f"| `{name}` | {_type(field)} | {default} | {_cell(field.get('description', ''))} |")
    return lines


def _value(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if default is None else f"`{default!r}`"


def _type(schema: dict[str, Any]) -> str:
    """A type in words, links to named schemas included."""
    if reference := schema.get("$ref"):
        name = reference.rsplit("/", 1)[-1]
        return f"[`{name}`](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(filter(None, map(_type, schema[key]))))
    if "enum" in schema:
        return " or ".join(f"`{value!r}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']!r}`"
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of {_type(schema.get('items', {})) or 'anything'}"
    return " or ".join(kind) if isinstance(kind, list) else str(kind)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[")

"""Chat and score templates: Jinja in a sandbox, with the settings and names that Hugging Face templates are
written for.

They are those of transformers' chat_template_utils (5.23): trimmed blocks, loop controls, `{% generation %}`,
`raise_exception`, `tojson` without HTML escapes, `strftime_now`. Templates come from checkpoints and are not
trusted: values are plain JSON types, a template can change nothing and reach no attribute with an underscore.

This file is long because the sandbox and all that enters it are read together.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import jinja2.utils

from ..errors import ArtifactError, InputError
from .template_content import sees_parts

ContentFormat = Literal["string", "openai"]
# Names that the renderer itself sets. vLLM refuses them as template variables.
RESERVED = ("chat_template", "tools", "tokenize")
_TAG = "CONTINUE_FINAL_MESSAGE_TAG "


SHIPPED = Path(__file__).parents[2] / "recipes" / "templates"
"""Templates of the published rerankers and embedders, under the names that vLLM's examples give them."""


def named(template: str, what: str) -> str:
    """The text of a template that is either Jinja itself or the path of a file. Where there is no such file,
    the last part of the path may name a template that comes with poolrt. Raises InputError that calls the
    parameter `what`."""
    if any(mark in template for mark in "{}\n"):
        return template
    for path in (Path(template), SHIPPED / Path(template).name):
        if path.is_file():
            return read(path)
    known = ", ".join(sorted(path.name for path in SHIPPED.glob("*.jinja"))) or "none"
    raise InputError(
        f"{what} {template!r}: no such file, and not a Jinja template; "
        f"templates that come with poolrt: {known}",
        field="chat_template",
    )


def read(path: Path) -> str:
    """The text of a template's file. Raises ArtifactError where it cannot be read.

    Jinja drops one newline at the end when it renders, which is why some files end with two.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path.name}: not a readable template ({error})") from None


def render(template: str, variables: Mapping[str, Any]) -> str:
    """The rendered text. Raises InputError with the template's own reason where it refuses its variables or
    is no valid Jinja."""
    try:
        return compiled(template).render(variables)
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error}", field="chat_template") from None
    except RecursionError:
        raise InputError("chat template: nested too deeply", field="chat_template") from None
    except (
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        ArithmeticError,
        LookupError,
        MemoryError,
    ) as error:
        # A template fails so on values that it does not expect: None + "text", a division by zero, ...
        raise InputError(f"chat template: {type(error).__name__}: {error}", field="chat_template") from None


def conversation(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str] | None = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
) -> str:
    """The text of one conversation. Variables that the template does not mention are dropped. Raises
    InputError."""
    if add_generation_prompt and continue_final_message:
        raise InputError(
            "Cannot set both `continue_final_message` and `add_generation_prompt` to True",
            field="continue_final_message",
        )
    plain: list[dict[str, Any]] = [dict(_plain(message)) for message in messages]
    plain = developer_as_system(template, plain)
    final = _mark_final(plain) if continue_final_message else None
    rendered = render(
        template,
        {
            **(special_tokens or {}),
            **_plain({key: value for key, value in (variables or {}).items() if key in mentioned(template)}),
            "messages": plain,
            "tools": _plain(list(tools)) if tools is not None else None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        },
    )
    return rendered if final is None else _cut_at_mark(rendered, final)


def check_variables(variables: Mapping[str, Any] | None, *, field: str = "chat_template_kwargs") -> None:
    """Raises InputError for names that a caller may not set."""
    if reserved := [name for name in RESERVED if name in (variables or {})]:
        raise InputError(f"{field} contains the reserved keys {', '.join(reserved)}", field=field)


def content_format(template: str) -> ContentFormat:
    """Whether the template wants a message's content as one text or as a list of parts."""
    return "openai" if _sees_parts(template) else "string"


def messages_for(messages: Sequence[Mapping[str, Any]], wanted: ContentFormat) -> list[dict[str, Any]]:
    """Messages with their content in the format `wanted`: parts joined by newlines, or a list of parts.

    Raises InputError for messages without a role and for parts that hold no text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
        raise InputError("messages must be a list of at least one message", field="messages")
    normalised = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InputError(f"message {index}: expected an object with a `role`", field="messages")
        texts = _texts(message.get("content"), index)
        content = (
            "\n".join(texts) if wanted == "string" else [{"type": "text", "text": text} for text in texts]
        )
        normalised.append({**message, "content": content})
    return normalised


def _texts(content: Any, index: int) -> list[str]:
    if content is None:
        return []
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence):
        raise InputError(f"message {index}: content must be text or a list of parts", field="messages")
    texts = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind not in ("text", "input_text", "refusal", "thinking"):
            raise InputError(
                f"message {index}: a part of type {kind!r} is not text, and this model reads text only",
                field="type",
            )
        key = kind if kind in ("refusal", "thinking") else "text"
        text = part.get(key)
        if not isinstance(text, str):
            raise InputError(
                f"message {index}: a part of type {kind!r} needs `{key}`, a string", field="messages"
            )
        texts.append(text)
    return texts


def developer_as_system(template: str, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages for a template. One that does not know the role `developer` gets a single `system` message
    at the start instead, as in vLLM."""
    if "developer" in template or all(message.get("role") != "developer" for message in messages):
        return messages
    system = [message["content"] for message in messages if message.get("role") in ("developer", "system")]
    others = [message for message in messages if message.get("role") not in ("developer", "system")]
    if all(isinstance(content, str) for content in system):
        return [{"role": "system", "content": "\n".join(system)}, *others]
    parts = [
        part
        for content in system
        for part in ([{"type": "text", "text": content}] if isinstance(content, str) else content or [])
    ]
    return [{"role": "system", "content": parts}, *others]


def _mark_final(messages: list[dict[str, Any]]) -> str:
    content = messages[-1].get("content") if messages else None
    if isinstance(content, str):
        messages[-1]["content"] = content + _TAG
        return content
    for part in reversed(content or ()):
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            part["text"] = text + _TAG
            return text
    raise InputError(
        "continue_final_message is set, but the final message has no text to continue",
        field="continue_final_message",
    )


def _cut_at_mark(rendered: str, final: str) -> str:
    mark = rendered.rfind(_TAG.strip())
    if mark < 0 or final.strip() not in rendered:
        raise InputError(
            "continue_final_message is set, but the template drops the final message",
            field="continue_final_message",
        )
    # Where the mark has lost its last space, the template trims the message, so the text before the mark is
    # trimmed too.
    return rendered[:mark] if rendered.startswith(_TAG, mark) else rendered[:mark].rstrip()


@functools.lru_cache(maxsize=64)
def compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.lru_cache(maxsize=64)
def mentioned(template: str) -> frozenset[str]:
    """The variables that a template reads."""
    try:
        return frozenset(jinja2.meta.find_undeclared_variables(_environment().parse(template)))
    except jinja2.TemplateError as error:
        raise InputError(f"chat template: {error}", field="chat_template") from None


@functools.lru_cache(maxsize=64)
def _sees_parts(template: str) -> bool:
    try:
        return sees_parts(_environment().parse(template))
    except jinja2.TemplateError:
        return False


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what an assistant said; rendering just passes it through."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Dict:
    """Stands for `dict` in templates without offering its attributes."""

    def __call__(self, *items: Any, **named: Any) -> dict[Any, Any]:
        return dict(*items, **named)

    def fromkeys(self, *items: Any) -> dict[Any, Any]:
        return dict.fromkeys(*items)


class _Namespace(jinja2.utils.Namespace):
    def __init__(*args: Any, **named: Any) -> None:
        self, *values = args
        attributes = dict(*values, **named)
        for name in attributes:
            _check_attribute(name)
        jinja2.utils.Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_attribute(name)
        super().__setitem__(name, value)


def _check_attribute(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(
            f"a namespace attribute may not begin with an underscore: {name!r}"
        )


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _strftime_now(layout: str) -> str:
    return datetime.datetime.now().strftime(layout)


@functools.cache
def _environment() -> jinja2.Environment:
    """The sandbox; the same each time."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals.update(
        raise_exception=_raise, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return environment


def _plain(value: Any) -> Any:
    """A value as plain JSON types, since others could bring methods into the sandbox."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return f"<{type(value).__name__}>"

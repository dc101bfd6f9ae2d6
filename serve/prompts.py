"""From the inputs of a request to what a model takes: renders conversations, finds roles and stored prompts,
refuses token ids of other tokenizers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from starlette.requests import Request

from ..runtime.artifact.manifest import TextPreparation
from ..runtime.inputs.foreign_tokens import looks_foreign
from ..runtime.inputs.prompts import prompts_from
from .errors import ApiError
from .media.attaching import Attached, Content
from .models.registry import Served
from .schema.body import BOTH_ENDS
from .schema.vllm import CHATS_OF_ONE, Message, conversations_of
from .settings import Settings

ROLES: dict[str, Literal["query", "document"]] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}
"""`input_type` of a request -> role of the text."""
UNTRUSTED = (
    "Chat template is passed with request, but --trust-request-chat-template is not set. Refused "
    "request with untrusted chat template."
)


def contents_of(record: Any) -> list[list[Content]]:
    """The contents of a request's conversations, each with its place in the body; none for texts and ids."""
    conversations = conversations_of(record) or []
    name = "messages" if hasattr(record, "messages") else "input"
    alone = isinstance(record, CHATS_OF_ONE)
    return [
        [
            (f"{name}[{index}].content" if alone else f"{name}[{number}][{index}].content", message.content)
            for index, message in enumerate(messages)
        ]
        for number, messages in enumerate(conversations)
    ]


def inputs_of(record: Any, served: Served, settings: Settings, pictures: Attached | None = None) -> list[Any]:
    """Texts, lists of token ids or prompts with pictures, one per output. Raises ApiError and InputError.

    Call it in a thread: it renders conversations and decodes pictures.
    """
    conversations = conversations_of(record)
    if conversations is None:
        return prompts_from(record.input)
    if pictures is None:
        return [render(messages, record, served, settings) for messages in conversations]
    return [
        render(messages, record, served, settings, contents=contents, pictures=pictures)
        for messages, contents in zip(conversations, contents_of(record), strict=True)
    ]


def render(
    messages: Sequence[Message],
    record: Any,
    served: Served,
    settings: Settings,
    *,
    contents: Sequence[Content] = (),
    pictures: Attached | None = None,
    **options: Any,
) -> Any:
    """One conversation as text, by the template of the request, the server or the model, in this order; with
    pictures as vLLM's prompt of text and media.

    `options` go to the runtime's `chat`. Raises ApiError and InputError.

    Args:
        contents: those of the messages with their places in the body, where there are pictures.
    """
    variables = dict(record.chat_template_kwargs or {})
    if not settings.trust_request_chat_template and (
        record.chat_template is not None or "chat_template" in variables
    ):
        raise ApiError(400, UNTRUSTED)
    if record.add_generation_prompt and record.continue_final_message:
        raise ApiError(400, BOTH_ENDS)
    if "messages" in variables:
        raise ApiError(
            400,
            "chat_template_kwargs cannot hold messages: they are a field of their own "
            "(parameter=chat_template_kwargs)",
        )
    # As in vLLM: a template among the variables is the last choice, and `tokenize` has no effect.
    variables.pop("tokenize", None)
    template_variable = variables.pop("chat_template", None)
    template = record.chat_template or settings.chat_template or template_variable
    plain_messages = [plain(message) for message in messages]
    if pictures is not None:
        for message, (place, content) in zip(plain_messages, contents, strict=True):
            message["content"] = pictures.parts(place, content)
        options["interleave_mm_strings"] = settings.media.interleave
    return served.model.preparation.chat(
        plain_messages,
        chat_template=template,
        add_generation_prompt=record.add_generation_prompt,
        continue_final_message=record.continue_final_message,
        template_kwargs=variables,
        content_format=settings.content_format,
        **options,
    )


def plain(message: Message) -> dict[str, Any]:
    """A message as templates read it: without the keys that the request left out."""
    return {key: value for key, value in asdict(message).items() if value is not None or key == "content"}


def side_of(record: Any, served: Served) -> dict[str, Any]:
    """`role` and `prompt_name` for the runtime.

    An input_type whose role the model does not know stands for the stored prompt of that name. Without such a
    prompt it changes nothing.
    """
    options: dict[str, Any] = {}
    if record.prompt_name is not None:
        options["prompt_name"] = record.prompt_name
    if record.input_type is None:
        return options
    role = ROLES[record.input_type]
    text = served.manifest.text
    if role in text.roles:
        options["role"] = role
    elif "prompt_name" not in options and (name := stored_prompt(text, record.input_type, role)) is not None:
        options["prompt_name"] = name
    return options


def stored_prompt(text: TextPreparation, *names: str) -> str | None:
    """The first of `names` that the model stores a prompt for; `passage` stands in for `document`."""
    candidates = (*names, "passage") if "document" in names else names
    return next((name for name in candidates if name in text.prompts), None)


def refuse_foreign(prompts: Sequence[Any], request: Request, served: Served, settings: Settings) -> None:
    """Raises ApiError for token ids that this model's tokenizer would not have made.

    LangChain's OpenAIEmbeddings sends tiktoken's ids by default, and the vectors of another vocabulary's ids
    would be meaningless without an error.
    """
    if not settings.check_foreign_tokens:
        return
    lists = [ids for ids in prompts if isinstance(ids, list) and ids]
    if not lists:
        return
    why = looks_foreign(lists, served.model.preparation.encoder, suspected=from_openai(request.headers))
    if why is not None:
        raise ApiError(
            400,
            f"input: these token ids were not made by this model's tokenizer: {why}. LangChain: "
            "OpenAIEmbeddings(check_embedding_ctx_length=False) sends text instead. Right ids are those "
            "that /tokenize answers (parameter=input)",
        )


def from_openai(headers: Mapping[str, str]) -> bool:
    """Whether a request comes from OpenAI's client library."""
    return "x-stainless-lang" in headers or headers.get("user-agent", "").startswith(
        ("OpenAI/", "AsyncOpenAI/")
    )

"""From a request's inputs to what a model takes: conversations are rendered, roles and prompts named,
foreign token ids refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from starlette.requests import Request

from ..runtime.artifact.manifest import TextPreparation
from ..runtime.inputs.foreign_tokens import looks_foreign
from ..runtime.inputs.prompts import prompts_from
from .errors import ApiError
from .models.registry import Served
from .schema.body import BOTH_ENDS
from .schema.vllm import Message, conversations_of
from .settings import Settings

ROLES: dict[str, Literal["query", "document"]] = {
    "query": "query", "search_query": "query", "document": "document", "passage": "document",
    "search_document": "document",
}  # fmt: skip
UNTRUSTED = (
    "Chat template is passed with request, but --trust-request-chat-template is not set. Refused "
    "request with untrusted chat template."
)


def inputs_of(record: Any, served: Served, settings: Settings) -> list[Any]:
    """Texts or lists of token ids, one per answer. Renders conversations, so call it in a thread."""
    conversations = conversations_of(record)
    if conversations is None:
        return prompts_from(record.input)
    return [render(messages, record, served, settings) for messages in conversations]


def render(messages: Sequence[Message], record: Any, served: Served, settings: Settings, **more: Any) -> str:
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
            (
                "chat_template_kwargs cannot hold messages: they are a field of their own "
                "(parameter=chat_template_kwargs)"
            ),
        )
    # As in vLLM: a template among the variables is the last choice, and asking for ids instead
    # of text changes nothing.
    variables.pop("tokenize", None)
    among = variables.pop("chat_template", None)
    template = record.chat_template or settings.chat_template or among
    return served.model.preparation.chat(
        [plain(message) for message in messages],
        chat_template=template,
        add_generation_prompt=record.add_generation_prompt,
        continue_final_message=record.continue_final_message,
        template_kwargs=variables,
        content_format=settings.content_format,
        **more,
    )


def plain(message: Message) -> dict[str, Any]:
    """A message as templates read it: without the keys that were not given."""
    return {key: value for key, value in asdict(message).items() if value is not None or key == "content"}


def side_of(record: Any, served: Served) -> dict[str, Any]:
    """`role` and `prompt_name` for the runtime. An input_type the model prepares no differently falls back to
    a stored prompt of that name; without one it changes nothing."""
    made: dict[str, Any] = {}
    if record.prompt_name is not None:
        made["prompt_name"] = record.prompt_name
    if record.input_type is None:
        return made
    role = ROLES[record.input_type]
    text = served.manifest.text
    if role in text.roles:
        made["role"] = role
    elif "prompt_name" not in made and (name := stored_prompt(text, record.input_type, role)) is not None:
        made["prompt_name"] = name
    return made


def stored_prompt(text: TextPreparation, *names: str) -> str | None:
    others = {"document": ("passage",), "query": ()}
    for name in (*names, *(other for known in names for other in others.get(known, ()))):
        if name in text.prompts:
            return name
    return None


def refuse_foreign(prompts: Sequence[Any], request: Request, served: Served, settings: Settings) -> None:
    """Raises ApiError for token ids that this model's tokenizer would not have made: LangChain's
    OpenAIEmbeddings posts tiktoken's ids unless told not to, and the vectors of another vocabulary's ids
    would silently mean nothing."""
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
            "OpenAIEmbeddings("
            "check_embedding_ctx_length=False) sends text instead. Right ids are those that /tokenize "
            "answers (parameter=input)",
        )


def from_openai(headers: Mapping[str, str]) -> bool:
    return "x-stainless-lang" in headers or headers.get("user-agent", "").startswith(
        ("OpenAI/", "AsyncOpenAI/")
    )

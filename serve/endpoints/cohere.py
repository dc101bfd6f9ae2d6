"""POST /v2/embed for Cohere's clients (docs/http.md 4), and /v1/embed for the clients of its first API.

vLLM has no /v1/embed. Cohere's v1 client and what is built on it (LangChain's CohereEmbeddings) always send
one of Cohere's own input types, so there a type for which the model stores no prompt adds nothing. The v2
client always sends a type too. On /v2/embed Cohere's own types add nothing for a model that stores no prompts
at all; a model that stores others refuses them, as in vLLM.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers.params import PoolingParams
from ...runtime.outputs import Outputs
from ..context import Context, context_of
from ..encodings import WidthError, convert, to_bytes
from ..errors import ApiError
from ..http.request_body import read
from ..media.parts import Source
from ..metrics.times import Times
from ..models.registry import Served
from ..prompts import ROLES, render, stored_prompt
from ..responses import Json, answer_id, base64_text
from ..schema import vllm

CohereRecord = vllm.CohereEmbed | vllm.CohereEmbedV1

INPUT_TYPES = frozenset({"search_document", "search_query", "classification", "clustering"})
"""Cohere's own input types of texts."""
OF_IMAGES = "image"
"""Cohere's input type of pictures, which its client sends with them."""
TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")
"""The order of the embedding types in the response, whatever the order of the request."""


async def embed(request: Request) -> Response:
    return await _embed(request, "2")


async def embed_v1(request: Request) -> Response:
    return await _embed(request, "1")


async def _embed(request: Request, version: Literal["1", "2"]) -> Response:
    context = context_of(request)
    context.require("embed")
    record: CohereRecord = await read(request, vllm.COHERE if version == "2" else vllm.COHERE_V1)
    served = context.registry.able(record.model, "embed", "Embed")
    if served.manifest.images is None:
        refuse_images(record, served)
    prompt_name = prompt_of(record, served, lenient=version == "1")
    prefix = "" if prompt_name is None else served.manifest.text.prompts[prompt_name]
    cut, side = truncation_of(record)
    if cut is not None and cut > served.model.max_tokens:
        raise ApiError(
            400,
            f"truncate_prompt_tokens={cut} cannot be greater than max_model_len = "
            f"{served.model.max_tokens}. Please request a smaller truncation size. "
            f"(parameter=truncate_prompt_tokens, value={cut})",
            param="truncate_prompt_tokens",
        )
    conversations = conversations_of(record, prefix, has_template(served, context))
    contents = [
        [(place, message.content) for message in messages]
        for place, messages in zip(places_of(record), conversations or (), strict=False)
    ]
    pictures = await context.workshop.attach(request, served, record, lambda: contents)

    def start(deadline_s: float | None) -> Any:
        params = PoolingParams(dimensions=record.output_dimension)
        options = {
            "truncate_prompt_tokens": cut,
            "truncation_side": side,
            "deadline_s": deadline_s,
            "priority": record.priority,
        }
        if conversations is None:
            texts = record.texts or []
            context.log_inputs("embd", request, record, served, texts)
            return served.model.start(texts, params, pooling_task="embed", prompt_name=prompt_name, **options)
        chats = vllm.EmbeddingChats(messages=conversations)
        rendered = [
            render(messages, chats, served, context.settings, contents=contents[index], pictures=pictures)
            for index, messages in enumerate(conversations)
        ]
        context.log_inputs("embd", request, record, served, rendered)
        return served.model.start(rendered, params, pooling_task="embed", add_special_tokens=False, **options)

    def shape(outputs: Outputs[Any], _: Times, headers: Mapping[str, str]) -> Response:
        check_lengths(record, outputs.requests)
        arrays = outputs.arrays
        plain = version == "1" and not record.embedding_types
        content: dict[str, Any] = {
            "id": answer_id("embd", request, record),
            "embeddings": arrays if plain else embeddings(arrays, record.embedding_types or ["float"]),
        }
        if record.texts is not None:
            content["texts"] = record.texts
        content["meta"] = {
            "api_version": {"version": version},
            "billed_units": billed(outputs.prompt_tokens, pictures=pictures is not None),
        }
        content["response_type"] = "embeddings_floats" if plain else "embeddings_by_type"
        return Json(content, headers=headers)

    return await context.workshop.answer(request, served, start, shape, pictures=pictures)


def billed(tokens: int, *, pictures: bool) -> dict[str, int]:
    """The tokens of a request as Cohere bills them. As in vLLM, all of them are a picture's where there is
    one."""
    return {"input_tokens": 0 if pictures else tokens, "image_tokens": tokens if pictures else 0}


def places_of(record: CohereRecord) -> list[str]:
    """Where the content of each conversation stands in the body."""
    if record.texts is not None:
        return [f"texts[{index}]" for index in range(len(record.texts))]
    if record.images is not None:
        return [f"images[{index}]" for index in range(len(record.images))]
    return [f"inputs[{index}].content" for index in range(len(record.inputs or ()))]


def refuse_images(record: CohereRecord, served: Served) -> None:
    if record.images is not None or any(
        part.type != "text" for content in record.inputs or () for part in content.content
    ):
        raise ApiError(
            400, f"the model `{served.name}` reads text only, images are not supported (parameter=images)"
        )


def has_template(served: Served, context: Context) -> bool:
    return (context.settings.chat_template or served.model.preparation.chat_template) is not None


def conversations_of(record: CohereRecord, prefix: str, templated: bool) -> list[list[vllm.Message]] | None:
    """The conversations that go through the chat template; None: the texts are taken as they are.

    `images` and `inputs` always do, texts when they have a prefix and the model has a template.
    """
    if record.images is not None:
        contents: list[Any] = [
            [Source("image", url, None, place)]
            for url, place in zip(record.images, places_of(record), strict=True)
        ]
    elif record.texts is None:
        contents = [
            [
                {"type": "text", "text": part.text}
                if part.type == "text"
                else {"type": "image_url", "image_url": asdict(part)["image_url"]}
                for part in content.content
            ]
            for content in record.inputs or ()
        ]
    elif prefix and templated:
        contents = list(record.texts)
    else:
        return None
    system = [vllm.Message(role="system", content=prefix)] if prefix else []
    return [[*system, vllm.Message(role="user", content=content)] for content in contents]


def prompt_of(record: CohereRecord, served: Served, *, lenient: bool) -> str | None:
    """The name of the stored prompt for `input_type`.

    None, which is not the model's default prompt either: the type is omitted or adds nothing.
    Raises ApiError.
    """
    if record.input_type is None:
        return None
    prompts = served.manifest.text.prompts
    if record.input_type == OF_IMAGES and record.texts is None and OF_IMAGES not in prompts:
        return None
    if lenient and record.input_type in INPUT_TYPES and record.input_type not in prompts:
        return (
            stored_prompt(served.manifest.text, ROLES[record.input_type])
            if record.input_type in ROLES
            else None
        )
    if not prompts and record.input_type in INPUT_TYPES:
        return None
    if not prompts:
        text = (
            f"Unsupported input_type {record.input_type[:100]!r}. This model does not define any "
            "input_type task instructions."
        )
        raise ApiError(400, text)
    if record.input_type not in prompts:
        known = ", ".join(sorted(prompts))
        raise ApiError(400, f"Unsupported input_type {record.input_type[:100]!r}. Supported values: {known}")
    return record.input_type


def truncation_of(record: CohereRecord) -> tuple[int | None, Any]:
    """`truncate_prompt_tokens` and `truncation_side` for the runtime; -1: the model's limit."""
    if record.truncate == "NONE":
        return None, None
    return (
        record.max_tokens if record.max_tokens is not None else -1,
        "left" if record.truncate == "START" else None,
    )


def check_lengths(record: CohereRecord, requests: Any) -> None:
    """Raises ApiError for an input longer than `max_tokens` that must not be cut."""
    if record.truncate != "NONE" or record.max_tokens is None:
        return
    for output in requests:
        if output.prompt_tokens > record.max_tokens:
            raise ApiError(
                400,
                f"Input of {output.prompt_tokens} tokens exceeds max_tokens={record.max_tokens} with "
                "truncate=NONE. Set truncate to END or START to allow truncation.",
            )


def embeddings(arrays: list[Any], types: Sequence[str]) -> dict[str, list[Any]]:
    """Embedding type -> one value per input. Raises ApiError for a width that a binary type cannot pack."""
    by_type: dict[str, list[Any]] = {}
    try:
        for kind in TYPES:
            if kind not in types:
                continue
            match kind:
                case "float":
                    by_type[kind] = arrays
                case "base64":
                    by_type[kind] = [base64_text(to_bytes(array, "float32", "little")) for array in arrays]
                case _:
                    by_type[kind] = [convert(array, kind) for array in arrays]
    except WidthError as error:
        raise ApiError(400, f"{error} (parameter=embedding_types)", param="embedding_types") from None
    return by_type

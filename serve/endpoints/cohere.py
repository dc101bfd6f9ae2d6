"""POST /v2/embed, the way Cohere's clients ask (docs/http.md 4), and /v1/embed for those of its first API.

vLLM has no /v1/embed. Cohere's v1 client and what is built on it (LangChain's CohereEmbeddings) always name one of Cohere's own input
types, so there a type for which the model stores no prompt adds nothing. Its v2 client cannot leave the type out either: on /v2/embed
Cohere's own types add nothing for a model that stores no prompts at all, and are refused as in vLLM by one that stores others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.params import PoolingParams
from .. import schemas
from ..answers import Json, answer_id, base64_text
from ..context import Context, context
from ..errors import ApiError
from ..numbers import WidthError, convert, to_bytes
from ..prompts import ROLES, render, stored_prompt
from ..reading import read
from ..registry import Served

Asked = schemas.CohereEmbed | schemas.CohereEmbedV1

INPUT_TYPES = frozenset({"search_document", "search_query", "classification", "clustering"})
"""Cohere's own."""
TYPES = ("float", "int8", "uint8", "binary", "ubinary", "base64")
"""In the order of the answer, however they were asked for."""


async def embed(request: Request) -> Response:
    return await _embed(request, "2")


async def embed_v1(request: Request) -> Response:
    return await _embed(request, "1")


async def _embed(request: Request, version: Literal["1", "2"]) -> Response:
    context(request).require("embed")
    asked: Asked = await read(request, schemas.COHERE if version == "2" else schemas.COHERE_V1)
    here = context(request)
    served = here.registry.able(asked.model, "embed", "Embed")
    refuse_images(asked, served)
    prompt_name = prompt_of(asked, served, lenient=version == "1")
    prefix = "" if prompt_name is None else served.manifest.text.prompts[prompt_name]
    cut, side = truncation_of(asked)
    if cut is not None and cut > served.model.max_tokens:
        text = f"truncate_prompt_tokens={cut} cannot be greater than max_model_len = {served.model.max_tokens}."
        more = f"Please request a smaller truncation size. (parameter=truncate_prompt_tokens, value={cut})"
        raise ApiError(400, f"{text} {more}", param="truncate_prompt_tokens")

    def start(deadline_s: float | None) -> Any:
        params = PoolingParams(dimensions=asked.output_dimension)
        options = {"truncate_prompt_tokens": cut, "truncation_side": side, "deadline_s": deadline_s, "priority": asked.priority}
        messages = conversations_of(asked, prefix, has_template(served, here))
        if messages is None:
            here.log_inputs("embd", request, asked, served, asked.texts or [])
            return served.model.start(asked.texts, params, pooling_task="embed", prompt_name=prompt_name, **options)
        chat = schemas.EmbeddingChats(messages=messages)
        rendered = [render(one, chat, served, here.settings) for one in messages]
        here.log_inputs("embd", request, asked, served, rendered)
        return served.model.start(rendered, params, pooling_task="embed", add_special_tokens=False, **options)

    made, times = await here.workshop.run(request, served, start)
    check_lengths(asked, made.requests)
    arrays = made.arrays

    def write() -> Response:
        plain = version == "1" and not asked.embedding_types
        content: dict[str, Any] = {
            "id": answer_id("embd", request, asked),
            "embeddings": arrays if plain else embeddings(arrays, asked.embedding_types or ["float"]),
        }
        if asked.texts is not None:
            content["texts"] = asked.texts
        content["meta"] = {
            "api_version": {"version": version},
            "billed_units": {"input_tokens": made.prompt_tokens, "image_tokens": 0},
        }
        content["response_type"] = "embeddings_floats" if plain else "embeddings_by_type"
        return Json(content, headers=here.headers(times, made))

    return await here.written(served, arrays, write)


def refuse_images(asked: Asked, served: Served) -> None:
    if asked.images is not None or any(part.type != "text" for one in asked.inputs or () for part in one.content):
        raise ApiError(400, f"the model `{served.name}` reads text only, images are not supported (parameter=images)")


def has_template(served: Served, here: Context) -> bool:
    return (here.settings.chat_template or served.model.preparation.chat_template) is not None


def conversations_of(asked: Asked, prefix: str, templated: bool) -> list[list[schemas.Message]] | None:
    """What goes through the chat template: `inputs` always, texts when they have a prefix and the model a template. None: plain texts."""
    if asked.texts is None:
        contents: list[Any] = [[{"type": "text", "text": part.text} for part in one.content] for one in asked.inputs or ()]
    elif prefix and templated:
        contents = list(asked.texts)
    else:
        return None
    system = [schemas.Message(role="system", content=prefix)] if prefix else []
    return [[*system, schemas.Message(role="user", content=content)] for content in contents]


def prompt_of(asked: Asked, served: Served, *, lenient: bool) -> str | None:
    """The stored prompt that `input_type` names; omitted: none, also not the model's default one."""
    if asked.input_type is None:
        return None
    prompts = served.manifest.text.prompts
    if lenient and asked.input_type in INPUT_TYPES and asked.input_type not in prompts:
        return stored_prompt(served.manifest.text, ROLES[asked.input_type]) if asked.input_type in ROLES else None
    if not prompts and asked.input_type in INPUT_TYPES:
        return None
    if not prompts:
        text = f"Unsupported input_type {asked.input_type[:100]!r}. This model does not define any input_type task instructions."
        raise ApiError(400, text)
    if asked.input_type not in prompts:
        known = ", ".join(sorted(prompts))
        raise ApiError(400, f"Unsupported input_type {asked.input_type[:100]!r}. Supported values: {known}")
    return asked.input_type


def truncation_of(asked: Asked) -> tuple[int | None, Any]:
    if asked.truncate == "NONE":
        return None, None
    return asked.max_tokens if asked.max_tokens is not None else -1, "left" if asked.truncate == "START" else None


def check_lengths(asked: Asked, requests: Any) -> None:
    if asked.truncate != "NONE" or asked.max_tokens is None:
        return
    for one in requests:
        if one.prompt_tokens > asked.max_tokens:
            raise ApiError(
                400,
                f"Input of {one.prompt_tokens} tokens exceeds max_tokens={asked.max_tokens} with truncate=NONE. "
                "Set truncate to END or START to allow truncation.",
            )


def embeddings(arrays: list[Any], types: Sequence[str]) -> dict[str, list[Any]]:
    made: dict[str, list[Any]] = {}
    try:
        for kind in (one for one in TYPES if one in types):
            match kind:
                case "float":
                    made[kind] = arrays
                case "base64":
                    made[kind] = [base64_text(to_bytes(array, "float32", "little")) for array in arrays]
                case _:
                    made[kind] = [convert(array, kind) for array in arrays]
    except WidthError as error:
        raise ApiError(400, f"{error} (parameter=embedding_types)", param="embedding_types") from None
    return made

"""POST /tokenize, POST /detokenize, GET /tokenizer_info and Cohere's two routes (docs/http.md 9); a body of
TEI's /tokenize is passed on to `tei_tokens`."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..context import context_of
from ..errors import ApiError
from ..http.request_body import form, read, read_json
from ..media.attaching import Attached
from ..models.registry import Served
from ..prompts import contents_of, render
from ..responses import Json
from ..schema import vllm
from . import tei_tokens

_COHERE = {"api_version": {"version": "1"}}


async def tokenize(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    value = await read_json(request)
    if (
        type(value) is dict
        and value.get("inputs") is not None
        and value.get("prompt") is None
        and value.get("messages") is None
    ):
        return await tei_tokens.tokenize(request, value)
    record = await form(request, vllm.TOKENIZE, value)
    served = context.registry.find(record.model, param="model")

    pictures = await context.workshop.attach(request, served, record, lambda: contents_of(record))

    def run() -> list[int]:
        if isinstance(record, vllm.TokenizeText):
            text = record.prompt
        else:
            if (
                record.continue_final_message
                and record.add_generation_prompt
                and "add_generation_prompt" in value
            ):
                raise ApiError(
                    400, "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
                )
            text = chat_text(record, served, request, pictures)
        return served.model.tokenize(text, add_special_tokens=record.add_special_tokens)

    ids = await context.workshop.prepare(request, pictures, run)
    strings = served.model.preparation.encoder.pieces(ids) if record.return_token_strs else None
    return Json(
        {"count": len(ids), "max_model_len": served.model.max_tokens, "tokens": ids, "token_strs": strings}
    )


def chat_text(record: vllm.TokenizeChat, served: Served, request: Request, pictures: Attached | None) -> Any:
    """The conversation as a prompt. Raises ApiError and InputError."""
    settings = context_of(request).settings
    variables = settings.default_template_kwargs | (record.chat_template_kwargs or {})
    with_defaults = vllm.replaced(record, chat_template_kwargs=variables)
    [contents] = contents_of(record)
    return render(
        record.messages,
        with_defaults,
        served,
        settings,
        contents=contents,
        pictures=pictures,
        tools=record.tools,
    )


async def detokenize(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: vllm.Detokenize = await read(request, vllm.DETOKENIZE)
    served = context.registry.find(record.model, param="model")
    if not record.tokens:
        return Json({"prompt": ""})
    text = await context.workshop.thread(lambda: served.model.detokenize(record.tokens))
    return Json({"prompt": text})


async def cohere_tokenize(request: Request) -> Response:
    """Cohere's /v1/tokenize: without special tokens, as its clients do with a tokenizer of their own."""
    context = context_of(request)
    context.opened()
    record: vllm.CohereTokenize = await read(request, vllm.COHERE_TOKENIZE)
    served = context.registry.find(record.model, param="model")
    ids = await context.workshop.prepare(
        request, None, lambda: served.model.tokenize(record.text, add_special_tokens=False)
    )
    strings = served.model.preparation.encoder.pieces(ids)
    return Json({"tokens": ids, "token_strings": strings, "meta": _COHERE})


async def cohere_detokenize(request: Request) -> Response:
    """Cohere's /v1/detokenize: without special tokens likewise."""
    context = context_of(request)
    context.opened()
    record: vllm.Detokenize = await read(request, vllm.DETOKENIZE)
    served = context.registry.find(record.model, param="model")
    encoder = served.model.preparation.encoder
    text = ""
    if record.tokens:
        text = await context.workshop.thread(
            lambda: encoder.detokenize(record.tokens, skip_special_tokens=True)
        )
    return Json({"text": text, "meta": _COHERE})


async def tokenizer_info(request: Request) -> Response:
    context = context_of(request)
    if not context.settings.tokenizer_info:
        raise HTTPException(404)
    context.opened()
    served = context.registry.find(request.query_params.get("model"), param="model")
    text = served.manifest.text
    info: dict[str, object] = {}
    if text.tokenizer_config is not None:
        config = orjson.loads((served.model.folder / text.tokenizer_config).read_bytes())
        info = {
            key: plain(value)
            for key, value in config.items()
            if not key.endswith(("_file", "_path", "name_or_path"))
        }
    info.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    template = context.settings.chat_template or served.model.preparation.chat_template
    if template is not None:
        info["chat_template"] = template
    return Json(info)


def plain(value: object) -> object:
    """The value with added-token objects reduced to their text."""
    if isinstance(value, dict):
        if "content" in value and "lstrip" in value:
            return value["content"]
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value

"""TEI's routes for tokens and the server itself: /tokenize with `inputs`, /decode, /info."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.inputs.truncation import check_whole, failures
from ...runtime.version import version
from ..context import context_of
from ..errors import ApiError
from ..http.request_body import form, read
from ..responses import Json
from ..schema import tei
from .tei_wire import wire


async def tokenize(request: Request, value: Any) -> Response:
    context = context_of(request)
    record: tei.TeiTokenize = await form(request, tei.TOKENIZE, value)
    served = context.registry.find(record.model, param="model")
    preparation = served.model.preparation
    prefix = preparation.prompt(record.prompt_name)
    texts = [prefix + text for text in ([record.inputs] if isinstance(record.inputs, str) else record.inputs)]
    check_whole(sum(map(len, texts)), "inputs", field="inputs")

    def run() -> list[list[dict[str, Any]]]:
        with failures("a text"):
            encodings = preparation.encoder.tokenizer.encode_batch(
                texts, add_special_tokens=record.add_special_tokens
            )
        return [
            [
                {"id": token, "text": text[start:stop] if stop else piece, "special": bool(special)}
                | ({} if special else {"start": start, "stop": stop})
                for token, piece, special, (start, stop) in zip(
                    encoding.ids, encoding.tokens, encoding.special_tokens_mask, encoding.offsets, strict=True
                )
            ]
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    return Json(await context.workshop.thread(run))


@wire
async def decode(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    record: tei.TeiDecode = await read(request, tei.DECODE)
    served = context.registry.find(record.model, param="model")
    batch: list[Any] = record.ids if record.ids and isinstance(record.ids[0], list) else [record.ids]
    if any(not 0 <= token < 2**32 for ids in batch for token in ids):
        raise ApiError(422, "ids: a token id is out of vocabulary (parameter=ids)", param="ids")
    tokenizer = served.model.preparation.encoder.tokenizer

    def run() -> list[str]:
        return tokenizer.decode_batch(
            [list(ids) for ids in batch], skip_special_tokens=record.skip_special_tokens
        )

    return Json(await context.workshop.thread(run))


async def info(request: Request) -> Response:
    context = context_of(request)
    context.opened()
    served = context.registry.find(request.query_params.get("model"), param="model")
    manifest, settings = served.manifest, context.settings
    head = manifest.heads[manifest.tasks[0]]
    if manifest.tasks[0] in ("embed", "token_embed"):
        model_type: dict[str, Any] = {"embedding": {"pooling": head.pool}}
    else:
        id2label = {str(index): label for index, label in enumerate(head.labels)}
        kind = "reranker" if served.can("score") else "classifier"
        model_type = {
            kind: {
                "id2label": id2label,
                "label2id": {label: index for index, label in enumerate(head.labels)},
            }
        }
    return Json(
        {
            "model_id": manifest.source.checkpoint,
            "model_sha": manifest.source.revision,
            "model_dtype": {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(
                manifest.graph("text").precision, "int8"
            ),
            "model_type": model_type,
            "served_model_name": served.name,
            "max_concurrent_requests": settings.max_connections,
            "max_input_length": served.model.max_tokens,
            "max_batch_tokens": served.model.worker.limits.max_tokens,
            "max_batch_requests": None,
            "max_client_batch_size": settings.max_items,
            "auto_truncate": True,
            "tokenization_workers": settings.threads,
            "version": version(),
            "sha": None,
            "docker_label": None,
            "tasks": list(manifest.tasks),
            "scoring": manifest.scoring,
            "engine": served.model.engine.name,
        }
    )

"""Response bodies from arrays: JSON by orjson straight from numpy, base64 and raw bytes straight from memory.
No float becomes a Python object on the way.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from ..runtime.outputs import Outputs, Ranking, ScoringOutput
from .encodings import INTEGERS, Floats, WidthError, convert, to_bytes
from .errors import ApiError
from .headers import identified
from .metrics.times import Times
from .models.registry import Served
from .schema import vllm

MANY = 64
"""A list of this many items is serialised item by item."""
PIECE = 1 << 15
"""Numbers of an array that are serialised in one step: a few milliseconds, during which no other thread
runs."""


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        if running():  # in the event loop only small content is serialised
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return _dumped(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """`headers`, then the content's length and type, which `headers` never holds."""
        self.raw_headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in (headers or {}).items()
        ]
        self.raw_headers += [
            (b"content-length", b"%d" % len(self.body)),
            (b"content-type", b"application/json"),
        ]


def running() -> bool:
    """Whether this is the thread of an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _dumped(value: Any) -> bytes:
    return orjson.dumps(in_pieces(value), option=orjson.OPT_SERIALIZE_NUMPY)


def in_pieces(value: Any) -> Any:
    """The same JSON value, whose large parts are serialised already, step by step."""
    if type(value) is dict:
        return {
            key: in_pieces(inner) if isinstance(inner, list | dict | np.ndarray) else inner
            for key, inner in value.items()
        }
    if isinstance(value, np.ndarray):
        if value.ndim != 2 or value.size <= PIECE:
            return value
        rows = max(1, PIECE // value.shape[1])
        return _joined(_dumped(value[first : first + rows])[1:-1] for first in range(0, len(value), rows))
    if isinstance(value, list) and len(value) >= MANY:
        return _joined(map(_dumped, value))
    return [in_pieces(item) for item in value] if value and isinstance(value[0], dict | np.ndarray) else value


def _joined(parts: Iterable[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")


def timing_headers(times: Times) -> dict[str, str]:
    """TEI's timing headers, in milliseconds."""
    return {
        "x-total-time": f"{(time.perf_counter() - times.started) * 1e3:.1f}",
        "x-tokenization-time": f"{times.tokenise_s * 1e3:.1f}",
        "x-queue-time": f"{times.queue_s * 1e3:.1f}",
        "x-inference-time": f"{times.engine_s * 1e3:.1f}",
        "x-compute-tokens": str(times.tokens),
    }


def response_headers(times: Times, result: Outputs[Any] | Ranking, *, timing: bool) -> dict[str, str]:
    """The headers of a model's response; with `timing` also TEI's timing headers."""
    headers = timing_headers(times) if timing else {}
    if result.truncated:
        headers["x-truncated"] = str(result.truncated)
    return headers


def heavy(result: Outputs[Any] | Ranking) -> bool:
    """Whether serialising the result takes longer than the event loop should be blocked."""
    if len(result) >= MANY:
        return True
    if isinstance(result, Ranking) or not len(result) or isinstance(result[0].outputs, ScoringOutput):
        return False
    return sum(array.size for array in result.arrays) > PIECE


def answer_id(prefix: str, request: Request, record: object) -> str:
    """The header X-Request-Id, else the body's request_id, else a random id, which stays the same for the
    request."""
    return f"{prefix}-{identified(request.scope, getattr(record, 'request_id', ''))}"


def usage(tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "completion_tokens": 0,
        "prompt_tokens_details": None,
        "completion_tokens_details": None,
    }


def listed(identifier: str, model: str, data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    return {
        "id": identifier,
        "object": "list",
        "created": int(time.time()),
        "model": model,
        "data": data,
        "usage": usage(tokens),
    }


def vectors(
    result: Outputs[Any],
    headers: Mapping[str, str],
    *,
    record: Any,
    model: str,
    identifier: str,
    kind: str,
    key: str,
) -> Response:
    """The response of /v1/embeddings and /pooling in any encoding.

    `kind` is the `object` of an item, `key` the field of its values: both `embedding` for /v1/embeddings,
    `pooling` and `data` for /pooling. Raises ApiError for a width that a binary dtype cannot pack.
    """
    arrays, tokens = result.arrays, result.prompt_tokens
    dtype, order = record.embed_dtype, record.endianness
    try:
        if record.encoding_format in ("bytes", "bytes_only"):
            return raw(arrays, headers, record=record, model=model, identifier=identifier, tokens=tokens)
        if record.encoding_format == "base64":
            values: list[Any] = [base64_text(to_bytes(array, dtype, order)) for array in arrays]
        else:
            values = [convert(array, dtype) for array in arrays] if dtype in INTEGERS else list(arrays)
    except WidthError as error:
        raise ApiError(400, f"{error} (parameter=embed_dtype)", param="embed_dtype") from None
    data = [{"index": index, "object": kind, key: value} for index, value in enumerate(values)]
    return Json(listed(identifier, model, data, tokens), headers=headers)


def scores(
    result: Outputs[ScoringOutput],
    times: Times,
    headers: Mapping[str, str],
    *,
    record: Any,
    request: Request,
    served: Served,
) -> Response:
    """The response of /score."""
    data = []
    for index, output in enumerate(result.requests):
        score: dict[str, Any] = {"index": index, "object": "score", "score": output.outputs.score}
        if record.truncate_documents:
            score["truncated"] = output.truncated
        data.append(score)
    tokens = score_tokens(result, times, served)
    return Json(listed(answer_id("score", request, record), served.told_name, data, tokens), headers=headers)


def ranking(
    result: Ranking,
    times: Times,
    headers: Mapping[str, str],
    *,
    record: vllm.Rerank,
    request: Request,
    served: Served,
) -> Response:
    """The response of /rerank. `document` shows each document as it was sent."""
    documents = record.documents if isinstance(record.documents, list) else [record.documents]
    results = []
    for ranked in result:
        item: dict[str, Any] = {"index": ranked.index}
        if record.return_documents:
            item["document"] = document_of(documents[ranked.index])
        item["relevance_score"] = ranked.score
        if record.truncate_documents:
            item["truncated"] = ranked.truncated
        results.append(item)
    tokens = score_tokens(result, times, served)
    content = {
        "id": answer_id("rerank", request, record),
        "model": served.told_name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
    }
    return Json(content, headers=headers)


def document_of(document: str | vllm.Content | vllm.TextItem) -> dict[str, Any]:
    """A document in the results of a ranking: its text, or its parts as they were sent."""
    parts = as_sent(document) if isinstance(document, vllm.Content) else None
    return {"text": None if parts is not None else getattr(document, "text", document), "multi_modal": parts}


def as_sent(content: vllm.Content) -> list[dict[str, Any]]:
    """The parts of an item, without the keys that it was sent without."""

    def present(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: present(inner) for key, inner in value.items() if inner is not None}
        return value

    return [present(asdict(part)) for part in content.content]


def score_tokens(result: Outputs[Any] | Ranking, times: Times, served: Served) -> int:
    """The tokens that usage reports: those of the joint prompts of a cross-encoder, else the computed ones,
    where one query for many documents counts once (vLLM 0.32)."""
    return result.prompt_tokens if served.manifest.scoring == "cross-encoder" else times.tokens


def base64_text(raw_bytes: bytes) -> str:
    return binascii.b2a_base64(raw_bytes, newline=False).decode("ascii")


def raw(
    arrays: Sequence[Floats],
    headers: Mapping[str, str],
    *,
    record: Any,
    model: str,
    identifier: str,
    tokens: int,
) -> Response:
    """The bytes of all vectors in order; for `bytes` with a header that says where each vector begins and
    ends. Raises WidthError."""
    dtype, order = record.embed_dtype, record.endianness
    pieces = [to_bytes(array, dtype, order) for array in arrays]
    all_headers = dict(headers)
    if record.encoding_format == "bytes":
        data, start = [], 0
        for index, (array, piece) in enumerate(zip(arrays, pieces, strict=True)):
            end = start + len(piece)
            where = {"start": start, "end": end, "shape": list(array.shape)}
            data.append({"index": index, "embed_dtype": dtype, "endianness": order, **where})
            start = end
        metadata = {
            "id": identifier,
            "created": int(time.time()),
            "model": model,
            "data": data,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        # Ids and names may hold other characters, a header holds ASCII only.
        all_headers["metadata"] = json.dumps(metadata, ensure_ascii=True)
    return Response(b"".join(pieces), media_type="application/octet-stream", headers=all_headers)

"""Arrays to response bodies: JSON by orjson straight from numpy, base64 and raw bytes straight from memory.
No float becomes a Python object on the way.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ..runtime.errors import PluginError
from ..runtime.outputs import Outputs, Ranking, ScoringOutput
from .encodings import INTEGERS, Floats, WidthError, convert, to_bytes
from .errors import ApiError
from .headers import header
from .models.registry import Served
from .schema import vllm

MAX_REQUEST_ID = 256
_ANSWER_ID = "poolrt.answer_id"


MANY = 64
"""Items of an answer from which on they are written one by one."""
PIECE = 1 << 15
"""Numbers of an array that are written in one step: a few milliseconds, in which no
other thread can do anything."""


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        if running():  # in the event loop only what is small is written
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return _dumped(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Size and type besides the given ones, which are never one of those."""
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
    """The same JSON, of which large parts are written already, step by step."""
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
    return [in_pieces(one) for one in value] if value and isinstance(value[0], dict | np.ndarray) else value


def _joined(parts: Iterable[bytes]) -> orjson.Fragment:
    return orjson.Fragment(b"[" + b",".join(parts) + b"]")


@dataclass(slots=True)
class Times:
    """Seconds one request spent, for its headers and the metrics."""

    started: float
    tokenise_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    tokens: int = 0
    """That were computed."""
    total_s: float = 0.0
    """Up to the result."""
    serialise_s: float | None = None
    """For the response; None: there was none."""

    def headers(self) -> dict[str, str]:
        """TEI's, in milliseconds."""
        return {
            "x-total-time": f"{(time.perf_counter() - self.started) * 1e3:.1f}",
            "x-tokenization-time": f"{self.tokenise_s * 1e3:.1f}",
            "x-queue-time": f"{self.queue_s * 1e3:.1f}",
            "x-inference-time": f"{self.engine_s * 1e3:.1f}",
            "x-compute-tokens": str(self.tokens),
        }


def headers(times: Times, result: Outputs[Any] | Ranking, *, timing: bool) -> dict[str, str]:
    """Those of a response of a model; with `timing` also TEI's times."""
    told = times.headers() if timing else {}
    if result.truncated:
        told["x-truncated"] = str(result.truncated)
    return told


def heavy(result: Outputs[Any] | Ranking) -> bool:
    """Whether writing it takes longer than the event loop should be held up."""
    if len(result) >= MANY:
        return True
    if isinstance(result, Ranking) or not len(result) or isinstance(result[0].outputs, ScoringOutput):
        return False
    return sum(array.size for array in result.arrays) > PIECE


class AnyJson(Json):
    """Of what an IO processor answers: also pydantic's models and keys that are no text."""

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(
                content, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
            )
        except orjson.JSONEncodeError as error:
            raise PluginError(
                "an IO processor answered what is not JSON; its package is to be mended"
            ) from error


def _plain(value: Any) -> Any:
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    raise TypeError(type(value).__name__)


def answer_id(prefix: str, request: Request, record: object) -> str:
    """The header X-Request-Id, else the body's request_id, else something new; the same
    whenever a request asks."""
    given = header(request.scope, b"x-request-id") or getattr(record, "request_id", "")
    if given:
        return f"{prefix}-{given[:MAX_REQUEST_ID]}"
    if (made := request.scope.get(_ANSWER_ID)) is None:
        made = request.scope[_ANSWER_ID] = f"{random.getrandbits(64):016x}"
    return f"{prefix}-{made}"


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
    arrays: Sequence[Floats],
    *,
    identifier: str,
    model: str,
    tokens: int,
    record: Any,
    kind: str,
    key: str,
    headers: Mapping[str, str],
) -> Response:
    """The answer of /v1/embeddings (`kind` embedding, `key` embedding) and /pooling (`pooling`,
    `data`) in any encoding."""
    dtype, order = record.embed_dtype, record.endianness
    try:
        if record.encoding_format in ("bytes", "bytes_only"):
            return raw(
                arrays, identifier=identifier, model=model, tokens=tokens, record=record, headers=headers
            )
        if record.encoding_format == "base64":
            values: list[Any] = [base64_text(to_bytes(array, dtype, order)) for array in arrays]
        else:
            values = [convert(array, dtype) for array in arrays] if dtype in INTEGERS else list(arrays)
    except WidthError as error:
        raise ApiError(400, f"{error} (parameter=embed_dtype)", param="embed_dtype") from None
    data = [{"index": index, "object": kind, key: value} for index, value in enumerate(values)]
    return Json(listed(identifier, model, data, tokens), headers=headers)


def scores(
    result: Outputs[ScoringOutput], times: Times, told: Mapping[str, str], *, record: Any, request: Request,
    served: Served
) -> Response:  # fmt: skip
    """The response of /score."""
    data = []
    for index, output in enumerate(result.requests):
        score: dict[str, Any] = {"index": index, "object": "score", "score": output.outputs.score}
        if record.truncate_documents:
            score["truncated"] = output.truncated
        data.append(score)
    tokens = score_tokens(result, times, served)
    return Json(listed(answer_id("score", request, record), served.told_name, data, tokens), headers=told)


def ranking(
    result: Ranking, times: Times, told: Mapping[str, str], *, record: vllm.Rerank, request: Request,
    served: Served
) -> Response:  # fmt: skip
    """The response of /rerank. `document` shows each document as it was sent."""
    sent = record.documents if isinstance(record.documents, list) else [record.documents]
    results = []
    for ranked in result:
        shown: dict[str, Any] = {"index": ranked.index}
        if record.return_documents:
            shown["document"] = document(sent[ranked.index])
        shown["relevance_score"] = ranked.score
        if record.truncate_documents:
            shown["truncated"] = ranked.truncated
        results.append(shown)
    tokens = score_tokens(result, times, served)
    content = {
        "id": answer_id("rerank", request, record),
        "model": served.told_name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "results": results,
    }
    return Json(content, headers=told)


def document(item: str | vllm.Content | vllm.TextItem) -> dict[str, Any]:
    """A document as results show it: its text, or its parts as they were sent."""
    parts = asdict(item)["content"] if isinstance(item, vllm.Content) else None
    return {"text": None if parts is not None else getattr(item, "text", item), "multi_modal": parts}


def score_tokens(result: Outputs[Any] | Ranking, times: Times, served: Served) -> int:
    """What usage counts: the joint prompts of a cross-encoder; else what was computed, one query for many
    documents once (vLLM 0.32)."""
    return result.prompt_tokens if served.manifest.scoring == "cross-encoder" else times.tokens


def base64_text(raw_bytes: bytes) -> str:
    return binascii.b2a_base64(raw_bytes, newline=False).decode("ascii")


def raw(
    arrays: Sequence[Floats],
    *,
    identifier: str,
    model: str,
    tokens: int,
    record: Any,
    headers: Mapping[str, str],
) -> Response:
    """All vectors' bytes in order; for `bytes` with a header that says where each one stands."""
    dtype, order = record.embed_dtype, record.endianness
    pieces = [to_bytes(array, dtype, order) for array in arrays]
    made = dict(headers)
    if record.encoding_format == "bytes":
        data, start = [], 0
        for index, (array, piece) in enumerate(zip(arrays, pieces, strict=True)):
            end = start + len(piece)
            place = {
                "index": index,
                "embed_dtype": dtype,
                "endianness": order,
                "start": start,
                "end": end,
                "shape": list(array.shape),
            }
            data.append(place)
            start = end
        told = {"id": identifier, "created": int(time.time()), "model": model, "data": data}
        # A header is ASCII: ids and names may hold more.
        made["metadata"] = json.dumps(
            told | {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, ensure_ascii=True
        )
    return Response(b"".join(pieces), media_type="application/octet-stream", headers=made)


def sparse_weights(array: Floats, ids: Sequence[int], special: frozenset[int]) -> dict[int, float]:
    """Token id -> weight of a sparse head: of [tokens] weights (bge-m3) the largest per token, special tokens
    left out; of a [vocabulary] vector (SPLADE) what is not zero."""
    if len(array) == len(ids):
        best: dict[int, float] = {}
        for token, weight in zip(ids, array.tolist(), strict=True):
            if weight > 0 and token not in special and weight > best.get(token, 0.0):
                best[token] = weight
        return best
    present: NDArray[np.int64] = np.flatnonzero(array > 0)
    return dict(zip(present.tolist(), array[present].tolist(), strict=True))

"""Arrays to response bodies: JSON by orjson straight from numpy, base64 and raw bytes straight from memory. No float becomes a Python
object on the way.
"""

from __future__ import annotations

import asyncio
import binascii
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from ..runtime.errors import PluginError
from .errors import ApiError
from .headers import header
from .numbers import INTEGERS, Floats, WidthError, convert, to_bytes

MAX_REQUEST_ID = 256
_ANSWER_ID = "poolrt.answer_id"


MANY = 64
"""Items of an answer from which on they are written one by one."""
PIECE = 1 << 15
"""Numbers of an array that are written in one step: a few milliseconds, in which no other thread can do anything."""


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        if running():  # in the event loop only what is small is written
            return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
        return _dumped(content)

    def init_headers(self, headers: Mapping[str, str] | None = None) -> None:
        """Size and type besides the given ones, which are never one of those."""
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in (headers or {}).items()]
        self.raw_headers += [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]


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
        return {key: in_pieces(inner) if isinstance(inner, list | dict | np.ndarray) else inner for key, inner in value.items()}
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


def heavy(results: Sequence[Any]) -> bool:
    """Whether writing these arrays, or whatever there is for each item, takes longer than the event loop should be held up."""
    return len(results) >= MANY or sum(one.size for one in results if isinstance(one, np.ndarray)) > PIECE


class AnyJson(Json):
    """Of what an IO processor answers: also pydantic's models and keys that are no text."""

    def render(self, content: Any) -> bytes:
        try:
            return orjson.dumps(content, default=_plain, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)
        except orjson.JSONEncodeError as error:
            raise PluginError("an IO processor answered what is not JSON; its package is to be mended") from error


def _plain(value: Any) -> Any:
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(mode="json")
    raise TypeError(type(value).__name__)


def answer_id(prefix: str, request: Request, asked: object) -> str:
    """The header X-Request-Id, else the body's request_id, else something new; the same whenever a request asks."""
    given = header(request.scope, b"x-request-id") or getattr(asked, "request_id", "")
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
    return {"id": identifier, "object": "list", "created": int(time.time()), "model": model, "data": data, "usage": usage(tokens)}


def vectors(
    arrays: Sequence[Floats], *, identifier: str, model: str, tokens: int, asked: Any, kind: str, key: str, headers: Mapping[str, str]
) -> Response:
    """The answer of /v1/embeddings (`kind` embedding, `key` embedding) and /pooling (`pooling`, `data`) in any encoding."""
    dtype, order = asked.embed_dtype, asked.endianness
    try:
        if asked.encoding_format in ("bytes", "bytes_only"):
            return raw(arrays, identifier=identifier, model=model, tokens=tokens, asked=asked, headers=headers)
        if asked.encoding_format == "base64":
            values: list[Any] = [base64_text(to_bytes(array, dtype, order)) for array in arrays]
        else:
            values = [convert(array, dtype) for array in arrays] if dtype in INTEGERS else list(arrays)
    except WidthError as error:
        raise ApiError(400, f"{error} (parameter=embed_dtype)", param="embed_dtype") from None
    data = [{"index": index, "object": kind, key: value} for index, value in enumerate(values)]
    return Json(listed(identifier, model, data, tokens), headers=headers)


def base64_text(raw_bytes: bytes) -> str:
    return binascii.b2a_base64(raw_bytes, newline=False).decode("ascii")


def raw(arrays: Sequence[Floats], *, identifier: str, model: str, tokens: int, asked: Any, headers: Mapping[str, str]) -> Response:
    """All vectors' bytes in order; for `bytes` with a header that says where each one stands."""
    dtype, order = asked.embed_dtype, asked.endianness
    pieces = [to_bytes(array, dtype, order) for array in arrays]
    made = dict(headers)
    if asked.encoding_format == "bytes":
        data, start = [], 0
        for index, (array, piece) in enumerate(zip(arrays, pieces, strict=True)):
            end = start + len(piece)
            place = {"index": index, "embed_dtype": dtype, "endianness": order, "start": start, "end": end, "shape": list(array.shape)}
            data.append(place)
            start = end
        told = {"id": identifier, "created": int(time.time()), "model": model, "data": data}
        # A header is ASCII: ids and names may hold more.
        made["metadata"] = json.dumps(told | {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}, ensure_ascii=True)
    return Response(b"".join(pieces), media_type="application/octet-stream", headers=made)


def sparse_weights(array: Floats, ids: Sequence[int], special: frozenset[int]) -> dict[int, float]:
    """Token id -> weight of a sparse head: of [tokens] weights (bge-m3) the largest per token, special tokens left out; of a [vocabulary]
    vector (SPLADE) what is not zero."""
    if len(array) == len(ids):
        best: dict[int, float] = {}
        for token, weight in zip(ids, array.tolist(), strict=True):
            if weight > 0 and token not in special and weight > best.get(token, 0.0):
                best[token] = weight
        return best
    present: NDArray[np.int64] = np.flatnonzero(array > 0)
    return dict(zip(present.tolist(), array[present].tolist(), strict=True))

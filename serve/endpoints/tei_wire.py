"""What the routes of TEI's API share: how they read a body, cut inputs, and shape errors."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Concatenate, Literal, ParamSpec

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import REASON, api_error, surprising, tei_response
from ..http.request_body import read_json
from ..schema import tei

Arguments = ParamSpec("Arguments")
Answer = Callable[[Request, Any], Awaitable[Response]]
Endpoint = Callable[[Request], Awaitable[Response]]


def wire(
    answer: Callable[Concatenate[Request, Arguments], Awaitable[Response]],
) -> Callable[Concatenate[Request, Arguments], Awaitable[Response]]:
    """The same function, whose errors are responses in TEI's form."""

    @functools.wraps(answer)
    async def with_tei_errors(
        request: Request, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Response:
        try:
            return await answer(request, *args, **kwargs)
        except HTTPException:
            raise
        except Exception as error:
            refusal = api_error(error)
            request.scope[REASON] = refusal.reason
            if surprising(refusal):
                request.app.state.log(error, request)
            return tei_response(refusal)

    return with_tei_errors


def endpoint(answer: Answer) -> Endpoint:
    """The endpoint that reads a JSON body and responds with `answer`."""

    @wire
    async def respond(request: Request) -> Response:
        return await answer(request, await read_json(request))

    return respond


def cut(record: tei.TeiCut) -> dict[str, Any]:
    """The runtime's truncation options: to the model's limit, or none where `truncate` is false."""
    if record.truncate is False:
        return {}
    side: Literal["left", "right"] | None = "left" if record.truncation_direction.lower() == "left" else None
    return {"truncate_prompt_tokens": -1, "truncation_side": side}

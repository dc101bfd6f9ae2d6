"""Spans of one request: one for the server, one for each of its steps, one for each picture fetched for it.

Attributes and names follow OpenTelemetry's semantic conventions for HTTP and for generative models; what they
do not know is `poolrt.`. The steps become spans when the request has ended, from the times that are measured
anyway (metrics/times.py), so tracing adds nothing to the way of a request through the model.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from opentelemetry import context, propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from ...runtime.version import version
from ..errors import REASON, REASONS
from ..headers import identified
from ..metrics.times import TIMES, Times

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider
    from starlette.types import Scope

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"})
"""Methods by their own name; the conventions call others _OTHER."""
SCHEMA = "https://opentelemetry.io/schemas/1.37.0"
_NS = 1_000_000_000


class Tracing:
    """Begins and ends the spans of an application's requests.

    Args:
        provider: where spans go.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.tracer = trace.get_tracer("poolrt.serve", version(), provider, schema_url=SCHEMA)

    def begin(self, scope: Scope) -> RequestSpan:
        """Begins the span of a request, below the caller's where its headers name one (W3C traceparent, or as
        OTEL_PROPAGATORS says)."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        method = scope["method"]
        known = method if method in METHODS else "_OTHER"
        attributes: dict[str, str | int] = {
            "http.request.method": known,
            "url.path": scope["path"],
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "gen_ai.request.id": identified(scope),
        }
        if known != method:
            attributes["http.request.method_original"] = method[:64]
        if client := scope.get("client"):
            attributes["client.address"] = client[0]
        if (server := scope.get("server")) and server[1] is not None:
            attributes |= {"server.address": server[0], "server.port": server[1]}
        if agent := headers.get("user-agent"):
            attributes["user_agent.original"] = agent[:256]
        span = self.tracer.start_span(
            known if known != "_OTHER" else "HTTP",
            context=propagate.extract(headers),
            kind=SpanKind.SERVER,
            attributes=attributes,
        )
        return RequestSpan(self, span, scope)

    @contextlib.contextmanager
    def fetching(self, host: str, port: int, url: str) -> Iterator[Fetch]:
        """A span around one request to another server, below the current one.

        Args:
            url: without its query, which may hold a key.
        """
        attributes: dict[str, str | int] = {
            "http.request.method": "GET", "server.address": host, "server.port": port, "url.full": url,
        }  # fmt: skip
        with self.tracer.start_as_current_span("GET", kind=SpanKind.CLIENT, attributes=attributes) as span:
            headers: dict[str, str] = {}
            propagate.inject(headers)
            yield Fetch(span, headers)

    def close(self) -> None:
        """Sends what is left. It takes as long as the exporter's timeout at most."""
        shutdown = getattr(self.provider, "shutdown", None)  # the API's own class has none
        if shutdown is not None:
            shutdown()


class Fetch:
    """A request to another server.

    Args:
        headers: those that pass the trace on.
    """

    def __init__(self, span: Span, headers: Mapping[str, str]) -> None:
        self.span = span
        self.headers = headers

    def responded(self, status: int) -> None:
        self.span.set_attribute("http.response.status_code", status)
        if status >= 400:
            self.span.set_attribute("error.type", str(status))
            self.span.set_status(Status(StatusCode.ERROR))


class RequestSpan:
    """The span of one request. It is current until it ends, so that an IO processor of the operator can add
    spans below it."""

    def __init__(self, tracing: Tracing, span: Span, scope: Scope) -> None:
        self.tracing = tracing
        self.span = span
        self.scope = scope
        self._begun = time.time_ns(), time.perf_counter()
        self._token = context.attach(trace.set_span_in_context(span))

    def identifiers(self) -> dict[str, str]:
        """The ids of the trace and of this span, for the log."""
        ids = self.span.get_span_context()
        return {
            "trace_id": trace.format_trace_id(ids.trace_id),
            "span_id": trace.format_span_id(ids.span_id),
        }

    def end(self, status: int) -> None:
        """Ends the span, and adds those of the request's steps."""
        context.detach(self._token)
        if self.span.is_recording():
            self._describe(status)
            if (times := self.scope.get(TIMES)) is not None:
                self._add_steps(times)
        self.span.end()

    def _describe(self, status: int) -> None:
        span, scope = self.span, self.scope
        span.set_attribute("http.response.status_code", status)
        if (route := scope.get("route")) is not None:
            span.update_name(f"{scope['method']} {route.path}")
            span.set_attribute("http.route", route.path)
        if (reason := scope.get(REASON, REASONS.get(status))) is not None:
            span.set_attribute("poolrt.refusal", reason)
        if status >= 500:
            span.set_attribute("error.type", str(status))
            span.set_status(Status(StatusCode.ERROR))
        times: Times | None = scope.get(TIMES)
        if times is not None:
            operation = route.path.rpartition("/")[2] if route is not None else ""
            span.set_attributes(
                {
                    "gen_ai.provider.name": "poolrt",
                    "gen_ai.operation.name": "embeddings" if "embed" in operation else operation,
                    "gen_ai.request.model": times.model,
                    "gen_ai.response.model": times.model,
                    "gen_ai.usage.input_tokens": times.tokens,
                    "poolrt.prompts": times.prompts,
                }
            )

    def _add_steps(self, times: Times) -> None:
        """One span for each step that the request reached, in the order in which they follow each other."""
        begun, prompts = times.started, {"poolrt.prompts": times.prompts}
        if not times.answered_s:
            # Refused, failed or cancelled: nobody measured how long it waited.
            if times.tokenise_s:
                self._step("tokenise", begun, begun + times.tokenise_s, prompts)
            return
        # From the answer backwards: a fast engine is done before the thread that prepared the texts goes on,
        # and batches of several lanes overlap, so that the sum of the steps may be more than their time.
        answered = begun + times.answered_s
        engine = max(begun, answered - times.engine_s)
        queue = max(begun, engine - times.queue_s)
        self._step("tokenise", begun, min(queue, begun + times.tokenise_s), prompts)
        self._step("queue", queue, engine)
        self._step("engine", engine, answered, {"gen_ai.usage.input_tokens": times.tokens} | prompts)
        if times.serialise_s is not None:
            end = begun + times.total_s
            self._step("serialise", end, end + times.serialise_s)

    def _step(self, name: str, begin: float, end: float, attributes: Mapping[str, int] | None = None) -> None:
        """Adds a span with these readings of `time.perf_counter`."""
        tracer = self.tracing.tracer
        parent = trace.set_span_in_context(self.span)
        span = tracer.start_span(name, context=parent, start_time=self._clock(begin), attributes=attributes)
        span.end(self._clock(end))

    def _clock(self, reading: float) -> int:
        """Nanoseconds since 1970 of a reading of `time.perf_counter`."""
        nanoseconds, counter = self._begun
        return nanoseconds + round((reading - counter) * _NS)

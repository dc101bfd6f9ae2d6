"""Traces of requests, as OpenTelemetry's own exporters and a collector get them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.model import Model
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.settings import Settings
from poolrt.serve.tracing import provider as trace_provider

from tests.serve.cases import TEXT
from tests.serve.conftest import Live, live

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="pip install 'poolrt[otel]'")
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from poolrt.serve.tracing.spans import Tracing  # noqa: E402

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SLACK_NS = 2_000_000
"""Between the clock of the day and the counter that steps are measured by."""


@pytest.fixture
def memory() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(memory: InMemorySpanExporter, models: Callable[[str], Model]) -> Iterator[Live]:
    with live(models("minilm_like"), tracing=tracing_into(memory)) as server:
        yield server


def tracing_into(memory: InMemorySpanExporter) -> Tracing:
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    return Tracing(provider)


def spans(memory: InMemorySpanExporter, count: int) -> list[Any]:
    """The spans so far, of which there are `count`: a client has its answer before the last one has ended."""
    for _ in range(1000):
        finished = memory.get_finished_spans()
        if len(finished) >= count:
            break
        threading.Event().wait(0.005)
    finished = sorted(
        memory.get_finished_spans(), key=lambda span: (span.start_time or 0, -(span.end_time or 0))
    )
    assert len(finished) == count, [span.name for span in finished]
    return finished


def test_a_request_is_a_span_of_the_callers_trace_with_its_steps_below(
    traced: Live, memory: InMemorySpanExporter
):
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine", "User-Agent": "curl/8"}
    answer = traced.ask("/v1/embeddings", {"input": [TEXT, "mars"]}, headers=headers)
    root, *steps = spans(memory, 5)
    assert (f"{root.context.trace_id:032x}", f"{root.parent.span_id:016x}") == (TRACE, PARENT)
    assert (root.name, root.kind.name) == ("POST /v1/embeddings", "SERVER")
    tokens = answer["usage"]["total_tokens"]
    expected = {
        "http.request.method": "POST", "http.route": "/v1/embeddings", "url.path": "/v1/embeddings",
        "url.scheme": "http", "network.protocol.version": "1.1", "http.response.status_code": 200,
        "client.address": "127.0.0.1", "server.address": "127.0.0.1", "server.port": traced.port,
        "user_agent.original": "curl/8", "gen_ai.operation.name": "embeddings",
        "gen_ai.provider.name": "poolrt", "gen_ai.request.model": "minilm_like",
        "gen_ai.response.model": "minilm_like", "gen_ai.usage.input_tokens": tokens,
        "gen_ai.request.id": "mine", "poolrt.prompts": 2,
    }  # fmt: skip
    assert dict(root.attributes) == expected
    assert root.status.is_unset
    assert [step.name for step in steps] == ["tokenise", "queue", "engine", "serialise"]
    assert {step.parent.span_id for step in steps} == {root.context.span_id}
    # Steps follow each other, within the request.
    moments = [moment for step in steps for moment in (step.start_time, step.end_time)]
    assert moments[:-2] == sorted(moments[:-2])
    assert root.start_time - SLACK_NS <= min(moments) <= max(moments) <= root.end_time + SLACK_NS
    assert steps[2].end_time > steps[2].start_time
    assert steps[2].attributes["gen_ai.usage.input_tokens"] == tokens


def test_names_and_attributes_are_those_of_the_conventions(traced: Live, memory: InMemorySpanExporter):
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv.attributes import (
        client_attributes,
        error_attributes,
        http_attributes,
        network_attributes,
        server_attributes,
        url_attributes,
        user_agent_attributes,
    )

    modules = (
        gen_ai_attributes, client_attributes, error_attributes, http_attributes, network_attributes,
        server_attributes, url_attributes, user_agent_attributes,
    )  # fmt: skip
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    traced.ask("/rerank", {"query": TEXT, "documents": ["mars"]})
    root, *_ = spans(memory, 5)
    own = {name for name in root.attributes if name not in known}
    # vLLM's name, which the conventions lack.
    assert own == {"gen_ai.request.id", "poolrt.prompts"}
    assert root.attributes["gen_ai.operation.name"] == "rerank"


def test_a_caller_that_does_not_sample_is_obeyed(traced: Live, memory: InMemorySpanExporter):
    traced.ask("/v1/embeddings", {"input": TEXT}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    traced.ask("/v1/embeddings", {"input": TEXT})
    assert {f"{span.context.trace_id:032x}" for span in spans(memory, 5)}.isdisjoint({TRACE})


@pytest.mark.parametrize(
    ("path", "body", "name", "status", "reason"),
    [
        ("/v1/embeddings", {"input": []}, "POST /v1/embeddings", 400, "invalid"),
        ("/embed", {"inputs": 3}, "POST /embed", 422, "invalid"),
        ("/nothing", {}, "POST", 404, "not_found"),
    ],
)
def test_refusals_are_spans_without_steps(
    traced: Live, memory: InMemorySpanExporter, path: str, body: Any, name: str, status: int, reason: str
):
    assert traced.post(path, body).status_code == status
    (root,) = spans(memory, 1)
    assert root.name == name
    assert root.attributes["http.response.status_code"] == status
    assert root.attributes["poolrt.refusal"] == reason
    # By the conventions a refusal is the client's fault, not an error of the server.
    assert root.status.is_unset


def test_a_fault_of_ours_is_an_error(
    traced: Live, memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Model, "start", fails)
    assert traced.post("/v1/embeddings", {"input": TEXT}).status_code == 500
    (root,) = spans(memory, 1)
    assert (root.status.status_code.name, root.attributes["error.type"]) == ("ERROR", "500")
    assert "poolrt.refusal" not in root.attributes


def test_health_checks_and_scrapes_are_not_traced(traced: Live, memory: InMemorySpanExporter):
    for path in ("/health", "/live", "/ready", "/metrics", "/version"):
        assert traced.client.get(path).status_code == 200
    traced.client.get("/v1/models")
    (root,) = spans(memory, 1)
    assert root.name == "GET /v1/models"


def test_code_below_finds_the_current_span(
    models: Callable[[str], Model], memory: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
):
    """Also in the threads that prepare texts, where a plugin's own code runs."""
    from opentelemetry import trace

    current: list[Any] = []
    start = Model.start

    def starting(self: Model, *args: Any, **kwargs: Any) -> Any:
        current.append((trace.get_current_span(), threading.current_thread().name))
        return start(self, *args, **kwargs)

    monkeypatch.setattr(Model, "start", starting)
    with live(models("minilm_like"), tracing=tracing_into(memory)) as server:
        server.ask("/v1/embeddings", {"input": TEXT})
        server.ask("/v1/embeddings", {"input": [TEXT] * 400})  # prepared in a thread
    roots = [span for span in spans(memory, 10) if span.parent is None]
    assert [span.get_span_context().span_id for span, _ in current] == [
        root.context.span_id for root in roots
    ]
    assert current[1][1].startswith("poolrt-serve")


def test_a_trace_is_passed_on_to_servers_of_pictures(memory: InMemorySpanExporter):
    import asyncio
    from ipaddress import ip_address

    from poolrt.serve.media.allowance import Allowance
    from poolrt.serve.media.fetching import Fetcher

    received: list[str] = []

    class Pictures(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            received.append(self.headers["traceparent"])
            self.send_response(200 if "good" in self.path else 404)
            self.end_headers()
            self.wfile.write(b"picture")

        def log_message(self, format: str, *args: Any) -> None: ...

    async def resolve(host: str, port: int) -> list[Any]:
        return [ip_address("127.0.0.1")]

    with serving_http(Pictures) as port:
        tracing = tracing_into(memory)
        fetcher = Fetcher((f"pictures.test:{port}",), resolve=resolve, refuse=lambda _: None, tracing=tracing)

        async def fetch() -> None:
            with tracing.tracer.start_as_current_span("around"):
                url = f"http://pictures.test:{port}/good.png?key=secret"
                await fetcher.fetch(url, limit_s=20, allowance=Allowance(1000, lambda size: None))

        asyncio.run(fetch())
    around, got = spans(memory, 2)
    ((known, trace, span, flags),) = (header.split("-") for header in received)
    assert (trace, span) == (f"{around.context.trace_id:032x}", f"{got.context.span_id:016x}")
    assert (known, int(flags, 16) & 1) == ("00", 1)
    assert (got.name, got.kind.name, got.parent.span_id) == ("GET", "CLIENT", around.context.span_id)
    assert dict(got.attributes) == {
        "http.request.method": "GET", "server.address": "pictures.test", "server.port": port,
        "url.full": f"http://pictures.test:{port}/good.png", "http.response.status_code": 200,
    }  # fmt: skip


@contextlib.contextmanager
def serving_http(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def unset_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenTelemetry lets a process set its provider once."""
    from opentelemetry import trace
    from opentelemetry.util._once import Once

    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER_SET_ONCE", Once())


@pytest.mark.usefixtures("unset_provider")
def test_a_collector_gets_the_spans_over_http(
    models: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
):
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    received: list[tuple[str, Any]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/x-protobuf"
            received.append((self.path, ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test,service.name=mine")
    with serving_http(Collector) as port:
        settings = Settings(traces=True, traces_endpoint=f"http://127.0.0.1:{port}")
        with live(models("minilm_like"), settings=settings) as server:
            server.ask("/v1/embeddings", {"input": TEXT})
        # The server has ended, and sent what was left.
    assert {path for path, _ in received} == {"/v1/traces"}
    (resource,) = received[0][1].resource_spans
    facts = {pair.key: pair.value.string_value for pair in resource.resource.attributes}
    assert (facts["service.name"], facts["deployment.environment.name"]) == ("mine", "test")
    assert facts["service.version"]
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["POST /v1/embeddings", "engine", "queue", "serialise", "tokenise"]


@pytest.mark.usefixtures("unset_provider")
def test_a_collector_gets_the_spans_over_grpc(models: Callable[[str], Model]):
    grpc = pytest.importorskip("grpc")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

    received: list[Any] = []

    class Collector(services.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802, the protocol's name
            received.append(request)
            return messages.ExportTraceServiceResponse()

    collector = grpc.server(futures.ThreadPoolExecutor(1))
    services.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    try:
        settings = Settings(traces=True, traces_endpoint=f"grpc://127.0.0.1:{port}")
        with live(models("minilm_like"), settings=settings) as server:
            server.ask("/v1/embeddings", {"input": TEXT})
    finally:
        collector.stop(None)
    names = [
        span.name
        for request in received
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert sorted(names) == ["POST /v1/embeddings", "engine", "queue", "serialise", "tokenise"]


@pytest.mark.parametrize(
    ("endpoint", "environment", "kind", "address"),
    [
        ("http://c:4318", {}, "http", "http://c:4318/v1/traces"),
        ("http://c:4318/own/path", {}, "http", "http://c:4318/own/path"),
        ("http://c:4317", {}, "grpc", "c:4317"),
        ("c:4317", {}, "grpc", "c:4317"),
        (
            "http://c:4317",
            {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            "http",
            "http://c:4317/v1/traces",
        ),
        ("http://c:4318", {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"}, "grpc", "c:4318"),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http", "http://c:4318/v1/traces"),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:9/x"}, "http", "http://c:9/x"),
    ],
)
def test_an_address_says_how_spans_are_sent(
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str | None,
    environment: dict[str, str],
    kind: str,
    address: str,
):
    if kind == "grpc":
        pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    exporter: Any = trace_provider.exporter(endpoint, environment)
    assert f".{kind}." in type(exporter).__module__
    assert exporter._endpoint == address
    exporter.shutdown()


def test_what_is_no_address_is_refused(capsys: pytest.CaptureFixture[str]):
    for text in ("ftp://c:1", "http://", "http://c:many"):
        with pytest.raises(InputError, match="is no address of a collector"):
            trace_provider.exporter(text, {})
    with pytest.raises(InputError, match="expected http/protobuf or grpc"):
        trace_provider.exporter("http://c:1", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})
    assert serve(["nothing", "--otlp-traces-endpoint"]) == EXIT_INPUT
    assert "--otlp-traces-endpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "environment", "on"),
    [
        ([], {}, False),
        (["--otlp-traces-endpoint", "http://c:4318"], {}, True),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
        (["--otlp-traces-endpoint", "http://c:4318"], {"OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_off_unless_a_collector_is_named(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], environment: dict[str, str], on: bool
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings_of(parse(["m", *flags])[0]).traces is on


def test_without_the_library_a_flag_ends_the_start_and_a_variable_does_not(monkeypatch: pytest.MonkeyPatch):
    from poolrt.runtime import extras
    from poolrt.runtime.errors import EngineError

    monkeypatch.setitem(extras.MODULES, "otel", ("opentelemetry.no_such_module",))
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
    assert trace_provider.traced(None, environment) is False
    assert trace_provider.overlooked(False, environment) == "OTEL_EXPORTER_OTLP_ENDPOINT"
    assert trace_provider.traced("http://c:4318", {}) is True
    with pytest.raises(EngineError, match=r"poolrt\[otel\]"):
        trace_provider.opened("http://c:4318", {})


def test_there_is_no_layer_where_nothing_is_observed(models: Callable[[str], Model]):
    with live(models("minilm_like")) as server:
        stack = []
        layer = server.app.middleware_stack
        while layer is not None:
            stack.append(type(layer).__name__)
            layer = getattr(layer, "app", None)
    assert "Gate" in stack
    assert "Observation" not in stack

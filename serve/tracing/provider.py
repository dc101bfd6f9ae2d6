"""Where traces are sent: the flag `--otlp-traces-endpoint`, and OpenTelemetry's own variables.

The variables are read by OpenTelemetry's libraries (OTEL_EXPORTER_OTLP_*, OTEL_BSP_*, OTEL_TRACES_SAMPLER,
OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME, OTEL_PROPAGATORS); here is what they leave open.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from ...runtime import extras
from ...runtime.errors import InputError
from ...runtime.version import version

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

    from .spans import Tracing

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
GRPC_PORT = 4317
"""The port of collectors for gRPC; 4318 is that for HTTP."""


def traced(endpoint: str | None, environment: Mapping[str, str]) -> bool:
    """Whether requests are traced: there is an address, and OTEL_SDK_DISABLED or OTEL_TRACES_EXPORTER=none do
    not switch it off."""
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    if endpoint is not None:
        return True
    if environment.get("OTEL_TRACES_EXPORTER", "otlp").strip().lower() == "none":
        return False
    return extras.has("otel") and any(environment.get(name) for name in ENDPOINTS)


def overlooked(settings_traces: bool, environment: Mapping[str, str]) -> str | None:
    """The variable that asks for traces which cannot be written, since a library is missing; None: there is
    none. A platform may set the variable for all its programs, so it ends no start."""
    if settings_traces or extras.has("otel"):
        return None
    return next((name for name in ENDPOINTS if environment.get(name)), None)


def opened(endpoint: str | None, environment: Mapping[str, str] = os.environ) -> Tracing:
    """Returns what traces requests, with a provider that is also the process's own, so that layers and IO
    processors of the operator write to the same place.

    Args:
        endpoint: --otlp-traces-endpoint; None: that of the environment.

    Raises EngineError where OpenTelemetry is not installed, InputError for an address that is none.
    """
    extras.require("otel")
    from opentelemetry import trace
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from .spans import Tracing

    resource = Resource(
        {
            "service.name": "poolrt",
            "service.version": version(),
            "service.instance.id": str(uuid.uuid4()),
            "host.name": socket.gethostname(),
        }
    )
    own = {
        key: value
        for key, value in Resource.create().attributes.items()
        if not str(value).startswith("unknown_service")
    }
    provider = TracerProvider(resource=resource.merge(Resource(own)))
    provider.add_span_processor(BatchSpanProcessor(exporter(endpoint, environment)))
    trace.set_tracer_provider(provider)
    return Tracing(provider)


def exporter(endpoint: str | None, environment: Mapping[str, str]) -> SpanExporter:
    """Sends spans to a collector. Raises InputError."""
    address = endpoint or next(filter(None, map(environment.get, ENDPOINTS)), "")
    parts = split(address)
    named = next(filter(None, map(environment.get, PROTOCOLS)), None)
    if named not in (None, "grpc", "http/protobuf"):
        raise InputError(f"{PROTOCOLS[1]} is {named!r}, expected http/protobuf or grpc")
    if (named or _usual(parts.scheme, parts.port)) == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        secure = parts.scheme in ("https", "grpcs")
        return OTLPSpanExporter(endpoint=parts.netloc, insecure=not secure)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if endpoint is None:
        return OTLPSpanExporter()  # its own rules for the path and for both variables
    path = parts.path if parts.path.strip("/") else "/v1/traces"
    return OTLPSpanExporter(endpoint=parts._replace(path=path).geturl())


def split(address: str) -> SplitResult:
    """Returns the parts of a collector's address. Raises InputError."""
    try:
        parts = urlsplit(address if "://" in address else f"grpc://{address}")
        usable = parts.hostname is not None and (parts.port is None or parts.port > 0)
    except ValueError:
        parts, usable = urlsplit(""), False
    if not usable or parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise InputError(
            f"--otlp-traces-endpoint {address!r} is no address of a collector, expected http://HOST:4318 or "
            "grpc://HOST:4317"
        )
    return parts


def _usual(scheme: str, port: int | None) -> str:
    """The protocol of an address, where no variable names one."""
    return "grpc" if scheme in ("grpc", "grpcs") or port == GRPC_PORT else "http/protobuf"

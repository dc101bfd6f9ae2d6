"""What /metrics says of the process, of what runs in it, and of the requests that it refused."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import onnxruntime
import pytest
from poolrt.runtime.errors import DeadlineExceeded, Overload
from poolrt.runtime.model import Model
from poolrt.runtime.version import version
from poolrt.serve.errors import api_error
from poolrt.serve.http import memory_budget
from poolrt.serve.metrics.prometheus import REFUSALS
from poolrt.serve.models.registry import Registry
from poolrt.serve.settings import Settings
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.cases import TEXT
from tests.serve.conftest import Live, live, serving

SOON_S = 10.0


def series(server: Live, name: str) -> list[tuple[dict[str, str], float]]:
    """The samples of that name: labels, value."""
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics", headers={"Authorization": "Bearer key"}).text
    return [
        (sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


def refusals(server: Live) -> dict[str, float]:
    """Reason -> refused requests, where there are any."""
    counts = series(server, "poolrt_http_refused_total")
    assert {labels["reason"] for labels, _ in counts} == set(REFUSALS)
    return {labels["reason"]: count for labels, count in counts if count}


def test_versions_and_engines_are_labels(embedder: Live):
    ((build, one),) = series(embedder, "poolrt_build_info")
    assert one == 1
    assert (build["version"], build["python"]) == (version(), platform.python_version())
    assert f"onnxruntime {onnxruntime.__version__}" in build["engine"].split(", ")
    assert (build["system"], build["machine"]) == (platform.system().lower(), platform.machine().lower())
    assert series(embedder, "poolrt_model_info") == [
        (
            {
                "model_name": "minilm_like", "engine": "0", "backend": "onnxruntime", "device": "cpu",
                "precision": "fp32", "file": "model.onnx",
            },
            1.0,
        )
    ]  # fmt: skip


def test_the_process_is_measured(embedder: Live):
    ((_, resident),) = series(embedder, "process_resident_memory_bytes")
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    assert resident == pytest.approx(pages * os.sysconf("SC_PAGE_SIZE"), rel=0.2)
    ((_, seconds),) = series(embedder, "process_cpu_seconds_total")
    assert 0 < seconds <= time.process_time() + SOON_S
    ((_, files),) = series(embedder, "process_open_fds")
    assert files >= 3


@pytest.mark.parametrize(
    ("settings", "send", "reason"),
    [
        ({}, lambda client: client.post("/v1/embeddings", json={"input": []}), "invalid"),
        ({}, lambda client: client.post("/embed", json={"inputs": 3}), "invalid"),
        ({}, lambda client: client.post("/nothing", json={}), "not_found"),
        ({}, lambda client: client.post("/v1/embeddings", json={"model": "no", "input": "a"}), "not_found"),
        ({"api_keys": ("key",)}, lambda client: client.get("/v1/models"), "unauthorized"),
        (
            {"max_body_bytes": 9},
            lambda client: client.post("/v1/embeddings", json={"input": TEXT}),
            "too_large",
        ),
        (
            {"max_header_count": 9},
            lambda client: client.get("/v1/models", headers={f"x-{index}": "1" for index in range(9)}),
            "too_large",
        ),
    ],
    ids=["empty", "tei", "path", "model", "key", "body", "headers"],
)
def test_refused_requests_are_counted_by_reason(
    models: Callable[[str], Model], settings: dict[str, Any], send: Any, reason: str
):
    with live(models("minilm_like"), settings=Settings(**settings)) as server:
        server.client.get("/v1/models", headers={"Authorization": "Bearer key"})
        assert refusals(server) == {}
        assert send(server.client).status_code >= 400
        assert refusals(server) == {reason: 1}


def test_what_is_no_http_and_beyond_the_connections_counts_too(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings()) as server:
        with socket.create_connection(("127.0.0.1", server.port), SOON_S) as client:
            client.sendall(b"nonsense\r\n\r\n")
            assert b" 400 " in client.recv(100)
        assert refusals(server) == {"invalid": 1}


def test_loading_and_stopping_are_reasons_and_probes_are_no_refusals():
    with serving(Registry([], check_names=True), Settings()) as server:
        server.app.state.context.registry.ready.clear()
        assert server.client.get("/ready").status_code == 503
        assert server.client.get("/v1/models").status_code == 503
        assert refusals(server) == {"loading": 1}
        server.app.state.context.registry.ready.set()
        server.app.state.context.state.draining = True
        assert server.client.get("/v1/models").status_code == 503
        server.app.state.context.state.draining = False
        assert refusals(server) == {"loading": 1, "stopping": 1}


def test_reasons_that_share_a_status_are_told_apart():
    assert memory_budget.refused(9).reason == "memory"
    assert api_error(Overload("full", retry_after_s=1)).reason == "queue_full"
    assert api_error(DeadlineExceeded("late")).reason == "deadline"
    assert api_error(ZeroDivisionError()).reason is None

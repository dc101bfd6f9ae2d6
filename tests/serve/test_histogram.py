"""Our counters and histograms tell a scraper what Prometheus' own classes tell it."""

from __future__ import annotations

import numpy as np
import prometheus_client
import pytest
from poolrt.serve.endpoints.routes import UNCOUNTED
from poolrt.serve.metrics.histogram import BYTES, SECONDS, TOKENS, Counters, Histograms
from poolrt.serve.metrics.prometheus import Metrics
from poolrt.serve.metrics.state import State
from poolrt.serve.models.registry import Registry
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(registry: CollectorRegistry) -> Samples:
    text = generate_latest(registry).decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.mark.parametrize("bounds", [SECONDS, TOKENS, BYTES], ids=["seconds", "tokens", "bytes"])
def test_a_histogram_counts_as_prometheus_own(bounds: tuple[float, ...]):
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    made = Histograms("h", "about", ("model", "engine"), bounds)
    ours.register(made)  # pyright: ignore[reportArgumentType]
    reference = prometheus_client.Histogram(
        "h", "about", ("model", "engine"), buckets=bounds, registry=theirs
    )
    drawn = np.random.default_rng(0).lognormal(np.log(bounds[len(bounds) // 2]), 2, 50).tolist()
    for value in (0.0, *bounds, bounds[0] / 2, bounds[-1] * 2, *drawn):
        made.of("m", "0").observe(value)
        reference.labels("m", "0").observe(value)
    made.of("other", "0").observe(bounds[1])
    reference.labels("other", "0").observe(bounds[1])
    assert samples(ours) == pytest.approx(samples(theirs))


def test_two_names_may_share_what_is_observed():
    first, second = (
        Histograms("a", "about", ("model",), SECONDS),
        Histograms("b", "about", ("model",), SECONDS),
    )
    second.same(first.of("m"), "m")
    first.of("m").observe(0.2)
    registry = CollectorRegistry()
    registry.register(second)  # pyright: ignore[reportArgumentType]
    assert samples(registry)["b_count", frozenset({("model", "m")})] == 1.0


def test_a_counter_counts_as_prometheus_own():
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    made = Counters("c", "about", ("model",))
    ours.register(made)  # pyright: ignore[reportArgumentType]
    reference = prometheus_client.Counter("c", "about", ("model",), registry=theirs)
    for model, amount in (("a", 1), ("b", 0), ("a", 2.5)):
        made.add(amount, model)
        reference.labels(model).inc(amount)
    assert samples(ours) == samples(theirs)


def test_bounds_are_those_of_vllms_dashboards():
    assert (SECONDS[0], SECONDS[-1], TOKENS[0], TOKENS[-1]) == (0.001, 30.0, 1, 100_000)
    for bounds in (SECONDS, TOKENS, BYTES):
        assert list(bounds) == sorted(set(bounds))
    assert BYTES == (1e3, 1e4, 1e5, 1e6, 1e7)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(Registry([]), State(), uncounted=UNCOUNTED)


@pytest.mark.parametrize(
    ("status", "group"), [(101, "1xx"), (200, "2xx"), (307, "3xx"), (404, "4xx"), (499, "4xx"), (503, "5xx")]
)
def test_requests_are_counted_by_the_hundred_of_their_status(metrics: Metrics, status: int, group: str):
    metrics.http("POST", "/score", status, 0.02, 10, 2000)
    found = samples(metrics.collectors)
    labels = frozenset({("method", "POST"), ("handler", "/score"), ("status", group)})
    assert {key: value for key, value in found.items() if key[0] == "http_requests_total"} == {
        ("http_requests_total", labels): 1.0
    }


def test_sizes_and_times_go_to_their_own_series(metrics: Metrics):
    metrics.http("POST", "/score", 200, 0.5, 10, 2000)
    metrics.http("BREW", "/score", 200, 0.25, 5, 1)
    metrics.http("GET", "/docs", 200, 1.0, 0, 7)
    found = samples(metrics.collectors)

    def of(name: str, **labels: str) -> float:
        return found[name, frozenset(labels.items())]

    assert of("http_request_size_bytes_sum", handler="/score") == 15
    assert of("http_response_size_bytes_sum", handler="/score") == 2001
    assert of("http_request_duration_seconds_sum", method="POST", handler="/score") == 0.5
    assert of("http_request_duration_seconds_sum", method="OTHER", handler="/score") == 0.25
    assert of("http_request_duration_highr_seconds_sum") == 1.75
    assert of("http_request_duration_highr_seconds_count") == 3


@pytest.mark.parametrize("path", ["/metrics", "/health", "/load", "/ping", "/version", "/live", "/ready"])
def test_what_machines_ask_all_day_is_not_counted(metrics: Metrics, path: str):
    metrics.http("GET", path, 200, 0.5, 10, 2000)
    assert path in UNCOUNTED
    assert not [name for name, _ in samples(metrics.collectors) if name.startswith("http_")]


def test_what_a_model_did_is_told_under_vllms_names(metrics: Metrics):
    observed = metrics.of("m")
    assert observed is not None
    assert metrics.of("m") is observed
    observed.finished(prompts=3, tokens=70, tokenise_s=0.25, queue_s=0.5, engine_s=1.0, total_s=2.0)
    observed.serialise.observe(0.125)
    observed.aborted(2)
    found = samples(metrics.collectors)
    labels = {("model_name", "m"), ("engine", "0")}

    def of(name: str, *more: tuple[str, str]) -> float:
        return found[name, frozenset({*labels, *more})]

    assert (
        of("vllm:prompt_tokens_total")
        == of("vllm:request_prompt_tokens_sum")
        == of("vllm:iteration_tokens_total_sum")
        == 70
    )
    assert of("vllm:request_success_total", ("finished_reason", "stop")) == 3
    assert of("vllm:request_success_total", ("finished_reason", "abort")) == 2
    assert of("poolrt_tokenise_seconds_sum") == 0.25
    assert of("vllm:request_queue_time_seconds_sum") == 0.5
    assert of("vllm:request_inference_time_seconds_sum") == of("vllm:request_prefill_time_seconds_sum") == 1.0
    assert of("vllm:e2e_request_latency_seconds_sum") == of("vllm:time_to_first_token_seconds_sum") == 2.0
    assert of("poolrt_serialise_seconds_sum") == 0.125
    assert Metrics(Registry([]), State(), engine=False).of("m") is None


def test_bounds_are_those_that_vllms_dashboards_know():
    """vLLM's counts of tokens are 1, 2 and 5 times the powers of ten."""
    assert [digit * 10**power for power in range(6) for digit in (1, 2, 5)][: len(TOKENS)] == list(TOKENS)
    assert TOKENS[-1] == 100_000
    assert [*SECONDS] == sorted(set(SECONDS))
    assert (SECONDS[0], SECONDS[-1], len(BYTES), BYTES[0], BYTES[-1]) == (0.001, 30.0, 5, 1e3, 1e7)

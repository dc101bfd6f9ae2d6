"""Prometheus metrics: vLLM's names for what vLLM counts, `poolrt_` for what it does not (queue, tokenise, engine and serialise seconds,
padding). Gauges and the workers' own counters are read when scraped, so watching them costs a request nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from .registry import Registry
from .state import State

EXCLUDED = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/live", "/ready"})
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)


class Metrics:
    def __init__(self, registry: Registry, state: State, *, engine: bool = True) -> None:
        self.collectors = CollectorRegistry()
        labels = ("method", "handler", "status")
        self._requests = Counter("http_requests", "Requests by method, status and handler.", labels, registry=self.collectors)
        self._request_bytes = Histogram(
            "http_request_size_bytes", "Declared size of request bodies.", ("handler",), buckets=(1e3, 1e4, 1e5, 1e6, 1e7), registry=self.collectors
        )
        self._response_bytes = Histogram(
            "http_response_size_bytes", "Size of answers.", ("handler",), buckets=(1e3, 1e4, 1e5, 1e6, 1e7), registry=self.collectors
        )
        self._seconds = Histogram(
            "http_request_duration_seconds", "Latency by handler.", ("method", "handler"), buckets=SECONDS, registry=self.collectors
        )
        self._all_seconds = Histogram(
            "http_request_duration_highr_seconds", "Latency of all requests.", buckets=SECONDS, registry=self.collectors
        )
        self.engine = engine
        if engine:
            self._engine_metrics()
            self.collectors.register(Engines(registry, state))  # pyright: ignore[reportArgumentType]
        self._handlers: dict[tuple[str, str, str], tuple[Counter, Histogram, Histogram, Histogram]] = {}
        self._models: dict[str, Observed] = {}

    def _engine_metrics(self) -> None:
        names = ("model_name", "engine")
        made = self.collectors

        def seconds(name: str, about: str) -> Histogram:
            return Histogram(name, about, names, buckets=SECONDS, registry=made)

        self.prompt_tokens = Counter("vllm:prompt_tokens", "Prompt tokens processed.", names, registry=made)
        self.success = Counter("vllm:request_success", "Finished prompts.", (*names, "finished_reason"), registry=made)
        self.request_tokens = Histogram("vllm:request_prompt_tokens", "Prompt tokens of a request.", names, buckets=TOKENS, registry=made)
        self.first_token = seconds("vllm:time_to_first_token_seconds", "Time to the answer.")
        self.latency = seconds("vllm:e2e_request_latency_seconds", "Time from arrival to the answer.")
        self.queue = seconds("vllm:request_queue_time_seconds", "Time in the queue.")
        self.inference = seconds("vllm:request_inference_time_seconds", "Time in the engine.")
        self.prefill = seconds("vllm:request_prefill_time_seconds", "Time in the engine.")
        self.tokenise = seconds("poolrt_tokenise_seconds", "Time to prepare a request's texts, waiting for a thread included.")
        self.serialise = seconds("poolrt_serialise_seconds", "Time to shape and write an answer.")

    def http(self, method: str, handler: str, status: int, seconds: float, received: int, sent: int) -> None:
        if handler in EXCLUDED:
            return
        key = (method, handler, f"{status // 100}xx")
        found = self._handlers.get(key)
        if found is None:
            # Methods are the client's own words; a thousand invented ones must not become a thousand series.
            known = method if method in {"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"} else "OTHER"
            found = self._handlers[key] = (
                self._requests.labels(known, handler, key[2]),
                self._request_bytes.labels(handler),
                self._response_bytes.labels(handler),
                self._seconds.labels(known, handler),
            )
            if len(self._handlers) > 1000:
                self._handlers.clear()
        count, received_bytes, sent_bytes, latency = found
        count.inc()
        received_bytes.observe(received)
        sent_bytes.observe(sent)
        latency.observe(seconds)
        self._all_seconds.observe(seconds)

    def of(self, model: str) -> Observed | None:
        """What to tell about requests to one model; None when engine metrics are off."""
        if not self.engine:
            return None
        found = self._models.get(model)
        if found is None:
            found = self._models[model] = Observed(self, model)
        return found

    def text(self) -> bytes:
        return generate_latest(self.collectors)


class Observed:
    """The children of one model's metrics, looked up once: `labels()` costs more than `observe()`."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.prompt_tokens = metrics.prompt_tokens.labels(model, "0")
        self.stop = metrics.success.labels(model, "0", "stop")
        self.abort = metrics.success.labels(model, "0", "abort")
        self.request_tokens = metrics.request_tokens.labels(model, "0")
        self.first_token = metrics.first_token.labels(model, "0")
        self.latency = metrics.latency.labels(model, "0")
        self.queue = metrics.queue.labels(model, "0")
        self.inference = metrics.inference.labels(model, "0")
        self.prefill = metrics.prefill.labels(model, "0")
        self.tokenise = metrics.tokenise.labels(model, "0")
        self.serialise = metrics.serialise.labels(model, "0")

    def finished(self, *, prompts: int, tokens: int, tokenise_s: float, queue_s: float, engine_s: float, total_s: float) -> None:
        self.prompt_tokens.inc(tokens)
        self.stop.inc(prompts)
        self.request_tokens.observe(tokens)
        self.first_token.observe(total_s)
        self.latency.observe(total_s)
        self.queue.observe(queue_s)
        self.inference.observe(engine_s)
        self.prefill.observe(engine_s)
        self.tokenise.observe(tokenise_s)


class Engines:
    """Reads the workers' counters at scrape time."""

    def __init__(self, registry: Registry, state: State) -> None:
        self.registry = registry
        self.state = state

    def collect(self) -> Iterator[Metric]:
        names = ("model_name", "engine")
        if not self.registry.ready.is_set():
            return
        counted = [(served.name, served.model.statistics()) for served in self.registry]

        def gauge(name: str, about: str, attribute: str) -> GaugeMetricFamily:
            family = GaugeMetricFamily(name, about, labels=names)
            for model, statistics in counted:
                family.add_metric((model, "0"), float(getattr(statistics, attribute)))
            return family

        def counter(name: str, about: str, attribute: str) -> CounterMetricFamily:
            family = CounterMetricFamily(name, about, labels=names)
            for model, statistics in counted:
                family.add_metric((model, "0"), float(getattr(statistics, attribute)))
            return family

        def zero(name: str, about: str) -> CounterMetricFamily:
            """What vLLM's dashboards draw and a pooling server never has."""
            family = CounterMetricFamily(name, about, labels=names)
            for model, _ in counted:
                family.add_metric((model, "0"), 0.0)
            return family

        yield gauge("vllm:num_requests_running", "Prompts in the engine.", "running_items")
        yield gauge("vllm:num_requests_waiting", "Prompts in the queue.", "queued_items")
        reasons = GaugeMetricFamily("vllm:num_requests_waiting_by_reason", "Prompts in the queue by reason.", labels=(*names, "reason"))
        cache = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Pooling keeps no cache.", labels=names)
        sources = CounterMetricFamily("vllm:prompt_tokens_by_source", "Prompt tokens by source.", labels=(*names, "source"))
        for model, statistics in counted:
            reasons.add_metric((model, "0", "capacity"), float(statistics.queued_items))
            cache.add_metric((model, "0"), 0.0)
            sources.add_metric((model, "0", "local_compute"), float(statistics.tokens))
        yield reasons
        yield cache
        yield sources
        for name in ("prompt_tokens_cached", "generation_tokens", "num_preemptions", "prefix_cache_queries", "prefix_cache_hits"):
            yield zero(f"vllm:{name}", "Always 0 for pooling.")
        for name in ("mm_cache_queries", "mm_cache_hits"):
            yield zero(f"vllm:{name}", "Always 0 for text.")
        info = InfoMetricFamily("vllm:cache_config", "Pooling keeps no cache.", labels=("engine",))
        info.add_metric(("0",), {"enable_prefix_caching": "False"})
        yield info
        yield gauge("poolrt_queued_tokens", "Tokens in the queue.", "queued_tokens")
        yield counter("poolrt_batches", "Batches computed.", "batches")
        yield counter("poolrt_batch_tokens", "Tokens in them.", "tokens")
        yield counter("poolrt_batch_slots", "Token slots computed, padding included.", "slots")
        yield counter("poolrt_engine_seconds", "Time in the engine.", "engine_s")
        yield counter("poolrt_queue_seconds", "Time in the queue, summed over prompts.", "queue_s")
        yield counter("poolrt_refused_requests", "Requests refused because the queue was full.", "refused")
        yield counter("poolrt_expired_requests", "Requests whose deadline passed.", "expired")
        yield counter("poolrt_cancelled_requests", "Requests whose client went away.", "cancelled")
        yield counter("poolrt_failed_requests", "Requests that the engine failed.", "failed")
        padding = GaugeMetricFamily("poolrt_padding_ratio", "Padding over work since the start: 0.14 means 14 % more was computed.", labels=names)
        for model, statistics in counted:
            padding.add_metric((model, "0"), float(statistics.padding))
        yield padding
        yield GaugeMetricFamily("poolrt_http_in_flight", "HTTP requests being answered.", value=float(self.state.in_flight))

"""Prometheus metrics: vLLM's names for what vLLM counts, `poolrt_` for what it does not (queue, tokenise,
engine and serialise seconds, padding).

Gauges and the workers' own counters are read by scrapes, so that they take no time of a request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from ..errors import REASONS
from ..models.registry import Registry
from .build import Build
from .histogram import BYTES, SECONDS, TOKENS, Counters, Histograms, Series
from .media import MediaMetrics
from .state import State

OBSERVE = "poolrt.observe"
"""Scope key of a function that adds a request's work to the metrics. The gate calls it when the response has
been sent."""
REFUSALS = sorted({*REASONS.values(), "connections", "memory", "stopping"})
"""Values of `reason`: those of statuses, and those that share a status with another."""
METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"})
GROUPS = ("1xx", "1xx", "2xx", "3xx", "4xx", "5xx")
"""Label of a status by its hundreds."""
TIMES = {
    "vllm:time_to_first_token": "Time to the answer.",
    "vllm:e2e_request_latency": "Time from arrival to the answer.",
    "vllm:request_queue_time": "Time in the queue.",
    "vllm:request_inference_time": "Time in the engine.",
    "vllm:request_prefill_time": "Time in the engine.",
    "poolrt_tokenise": "Time to prepare a request's texts, waiting for a thread included.",
    "poolrt_serialise": "Time to shape and write an answer.",
}

SAME = {
    "vllm:time_to_first_token": "vllm:e2e_request_latency",
    "vllm:request_prefill_time": "vllm:request_inference_time",
}
"""Metrics of pooling that always equal another one."""


class Metrics:
    """Everything that is counted for one application.

    Args:
        engine: whether requests are counted by model too.
        uncounted: paths whose requests are no part of the HTTP metrics.
    """

    def __init__(
        self, registry: Registry, state: State, *, engine: bool = True, uncounted: Container[str] = ()
    ) -> None:
        self.collectors = CollectorRegistry()
        self.engine = engine
        self.uncounted = uncounted
        self._state = state
        self._requests = Counters(
            "http_requests", "Requests by method, status and handler.", ("method", "handler", "status")
        )
        self._received = Histograms(
            "http_request_size_bytes", "Declared size of request bodies.", ("handler",), BYTES
        )
        self._sent = Histograms("http_response_size_bytes", "Size of answers.", ("handler",), BYTES)
        self._seconds = Histograms(
            "http_request_duration_seconds", "Latency by handler.", ("method", "handler"), SECONDS
        )
        self._all_seconds = Histograms(
            "http_request_duration_highr_seconds", "Latency of all requests.", (), SECONDS
        )
        self._refused = Counters("poolrt_http_refused", "Requests that were refused, by reason.", ("reason",))
        for reason in REFUSALS:
            self._refused.add(0, reason)  # a rate needs a first value
        self.media = MediaMetrics()
        collectors: list[Any] = [self._requests, self._received, self._sent, self._seconds, self._all_seconds]
        collectors += [self._refused, self.media, Build(registry)]
        ProcessCollector(registry=self.collectors)
        self._handlers: dict[tuple[str, str], tuple[Series, ...]] = {}
        self._models: dict[str, Observed] = {}
        self._writing = asyncio.Lock()
        self._next: asyncio.Future[bytes] | None = None
        if engine:
            names = ("model_name", "engine")
            self.prompt_tokens = Counters("vllm:prompt_tokens", "Prompt tokens processed.", names)
            self.success = Counters("vllm:request_success", "Finished prompts.", (*names, "finished_reason"))
            self.request_tokens = Histograms(
                "vllm:request_prompt_tokens", "Prompt tokens of a request.", names, TOKENS
            )
            self.iteration_tokens = Histograms(
                "vllm:iteration_tokens_total", "Tokens of a request's batches.", names, TOKENS
            )
            self.seconds = {
                name: Histograms(f"{name}_seconds", about, names, SECONDS) for name, about in TIMES.items()
            }
            collectors += [
                self.prompt_tokens,
                self.success,
                self.request_tokens,
                self.iteration_tokens,
                *self.seconds.values(),
            ]
            collectors.append(Engines(registry, state))
        for collector in collectors:
            self.collectors.register(collector)

    def http(self, method: str, handler: str, status: int, seconds: float, received: int, sent: int) -> None:
        """Counts one HTTP request.

        Args:
            handler: path of the route, "none" for a path without one.
            received: bytes of the request's body.
            sent: bytes of the response's body.
        """
        if handler in self.uncounted:
            return
        if method not in METHODS:
            method = "OTHER"  # else a client could create thousands of series
        self._requests.add(1, method, handler, GROUPS[status // 100])
        series = self._handlers.get((method, handler))
        if series is None:
            series = self._handlers[method, handler] = (
                self._received.of(handler),
                self._sent.of(handler),
                self._seconds.of(method, handler),
                self._all_seconds.of(),
            )
        for histogram, value in zip(series, (received, sent, seconds, seconds), strict=True):
            histogram.observe(value)

    def refused(self, reason: str) -> None:
        """Counts a request that was refused (errors.REASONS)."""
        self._refused.add(1, reason)

    def of(self, model: str) -> Observed | None:
        """Returns the series of requests to one model; None when engine metrics are off."""
        if not self.engine:
            return None
        observed = self._models.get(model)
        if observed is None:
            observed = self._models[model] = Observed(self, model)
        return observed

    def text(self) -> bytes:
        return generate_latest(self.collectors)

    async def scraped(self, thread: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> bytes:
        """Returns the text of all metrics, written in a thread: with many series that takes 0.1 s.

        Scrapes that come while a text is being written share the next one.

        Args:
            thread: runs a function in a thread.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(self._written(thread))
        return await asyncio.shield(self._next)

    async def _written(self, thread: Callable[[Callable[[], bytes]], Awaitable[bytes]]) -> bytes:
        async with self._writing:
            self._next = None
            return await thread(self._all)

    def _all(self) -> bytes:
        """The metrics of every process of this server; of this one alone where the others cannot be asked."""
        peers = self._state.peers
        return (None if peers is None else peers.metrics()) or self.text()


class Observed:
    """One model's series, looked up once."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self.metrics = metrics
        self.labels = (model, "0")
        self.tokens = metrics.request_tokens.of(*self.labels)
        metrics.iteration_tokens.same(self.tokens, *self.labels)
        seconds = metrics.seconds
        # Pooling has one pass of the engine: the first token is the last, and all inference is prefill.
        for name, same in SAME.items():
            seconds[name].same(seconds[same].of(*self.labels), *self.labels)
        self.latency, self.queue, self.inference, self.tokenise, self.serialise = (
            seconds[name].of(*self.labels) for name in TIMES if name not in SAME
        )
        metrics.success.add(0, *self.labels, "stop")
        metrics.success.add(0, *self.labels, "abort")

    def finished(
        self, *, prompts: int, tokens: int, tokenise_s: float, queue_s: float, engine_s: float, total_s: float
    ) -> None:
        self.metrics.prompt_tokens.add(tokens, *self.labels)
        self.metrics.success.add(prompts, *self.labels, "stop")
        self.tokens.observe(tokens)
        self.latency.observe(total_s)
        self.queue.observe(queue_s)
        self.inference.observe(engine_s)
        self.tokenise.observe(tokenise_s)

    def aborted(self, prompts: int) -> None:
        self.metrics.success.add(prompts, *self.labels, "abort")


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
            """Returns a counter that is always 0 here, and that vLLM's dashboards draw."""
            family = CounterMetricFamily(name, about, labels=names)
            for model, _ in counted:
                family.add_metric((model, "0"), 0.0)
            return family

        yield gauge("vllm:num_requests_running", "Prompts in the engine.", "running_items")
        yield gauge("vllm:num_requests_waiting", "Prompts in the queue.", "queued_items")
        reasons = GaugeMetricFamily(
            "vllm:num_requests_waiting_by_reason",
            "Prompts in the queue by reason.",
            labels=(*names, "reason"),
        )
        cache = GaugeMetricFamily("vllm:kv_cache_usage_perc", "Pooling keeps no cache.", labels=names)
        sources = CounterMetricFamily(
            "vllm:prompt_tokens_by_source", "Prompt tokens by source.", labels=(*names, "source")
        )
        for model, statistics in counted:
            reasons.add_metric((model, "0", "capacity"), float(statistics.queued_items))
            cache.add_metric((model, "0"), 0.0)
            sources.add_metric((model, "0", "local_compute"), float(statistics.tokens))
            sources.add_metric((model, "0", "local_cache_hit"), float(statistics.prefix_hits))
        yield reasons
        yield cache
        yield sources
        for name in ("generation_tokens", "num_preemptions"):
            yield zero(f"vllm:{name}", "Always 0 for pooling.")
        yield counter(
            "vllm:prompt_tokens_cached", "Prompt tokens that were not computed again.", "prefix_hits"
        )
        yield counter("vllm:prefix_cache_queries", "Tokens looked for in prefixes.", "prefix_queries")
        yield counter("vllm:prefix_cache_hits", "Tokens found in prefixes.", "prefix_hits")
        queries = CounterMetricFamily(
            "vllm:mm_cache_queries", "Pictures whose features were looked for.", labels=names
        )
        for model, statistics in counted:
            looked_for = statistics.vision_hits + statistics.vision_shared + statistics.vision_items
            queries.add_metric((model, "0"), float(looked_for))
        yield queries
        yield counter("vllm:mm_cache_hits", "Pictures whose features were kept.", "vision_hits")
        yield counter("poolrt_vision_items", "Pictures, tiles and frames computed.", "vision_items")
        yield counter("poolrt_vision_batches", "Batches of them.", "vision_batches")
        yield counter("poolrt_vision_slots", "Patches computed, padding included.", "vision_slots")
        yield counter("poolrt_vision_seconds", "Time in the engine of pictures.", "vision_s")
        yield counter(
            "poolrt_vision_shared", "Pictures computed for another prompt already.", "vision_shared"
        )
        yield gauge("poolrt_vision_queued_items", "Pictures in the queue.", "vision_queued_items")
        yield gauge("poolrt_vision_cache_bytes", "Features of pictures that are kept.", "vision_cache_bytes")
        info = InfoMetricFamily("vllm:cache_config", "What is kept of prompts.", labels=("engine",))
        caching = any(statistics.prefix_caching for _, statistics in counted)
        info.add_metric(("0",), {"enable_prefix_caching": str(caching)})
        yield info
        yield gauge("poolrt_queued_tokens", "Tokens in the queue.", "queued_tokens")
        yield counter("poolrt_batches", "Batches computed.", "batches")
        yield counter("poolrt_batch_tokens", "Tokens in them.", "tokens")
        yield counter(
            "poolrt_shared_items", "Texts computed with an equal one of their batch.", "shared_items"
        )
        yield counter(
            "poolrt_cached_items", "Texts whose answer was kept (--response-cache-mb).", "cached_items"
        )
        yield gauge("poolrt_prefix_cache_bytes", "Keys and values of prefixes that are kept.", "prefix_bytes")
        yield gauge("poolrt_response_cache_bytes", "Answers that are kept.", "cache_bytes")
        yield counter("poolrt_batch_slots", "Token slots computed, padding included.", "slots")
        yield counter("poolrt_engine_seconds", "Time in the engine.", "engine_s")
        yield counter("poolrt_queue_seconds", "Time in the queue, summed over prompts.", "queue_s")
        yield counter("poolrt_refused_requests", "Requests refused because the queue was full.", "refused")
        yield counter("poolrt_expired_requests", "Requests whose deadline passed.", "expired")
        yield counter("poolrt_cancelled_requests", "Requests whose client went away.", "cancelled")
        yield counter("poolrt_failed_requests", "Requests that the engine failed.", "failed")
        padding = GaugeMetricFamily(
            "poolrt_padding_ratio",
            "Padding over work since the start: 0.14 means 14 % more was computed.",
            labels=names,
        )
        for model, statistics in counted:
            padding.add_metric((model, "0"), float(statistics.padding))
        yield padding
        yield GaugeMetricFamily(
            "poolrt_http_in_flight", "HTTP requests being answered.", value=float(self.state.in_flight)
        )

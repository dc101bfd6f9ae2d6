"""The server's own routes, its metrics, and what it does when there is too much work,
or none wanted any more."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import Overload
from poolrt.runtime.loader import load
from poolrt.runtime.model import Model
from poolrt.serve.app import create_app
from poolrt.serve.http.request_body import check_queues
from poolrt.serve.metrics.times import Times
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.responses import timing_headers
from poolrt.serve.settings import Settings
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.cases import TEXT, TEXTS, distinct
from tests.serve.conftest import Live, live

SOON_S = 10.0
FAMILIES = {
    "http_requests", "http_request_size_bytes", "http_response_size_bytes", "http_request_duration_seconds",
    "http_request_duration_highr_seconds", "vllm:num_requests_running", "vllm:num_requests_waiting",
    "vllm:num_requests_waiting_by_reason", "vllm:kv_cache_usage_perc", "vllm:prompt_tokens",
    "vllm:prompt_tokens_by_source",
    "vllm:prompt_tokens_cached", "vllm:generation_tokens", "vllm:request_success", "vllm:num_preemptions",
    "vllm:prefix_cache_queries",
    "vllm:prefix_cache_hits", "vllm:mm_cache_queries", "vllm:mm_cache_hits", "vllm:request_prompt_tokens",
    "vllm:iteration_tokens_total",
    "vllm:time_to_first_token_seconds", "vllm:e2e_request_latency_seconds", "vllm:request_queue_time_seconds",
    "vllm:request_inference_time_seconds", "vllm:request_prefill_time_seconds", "vllm:cache_config_info",
    "poolrt_queued_tokens",
    "poolrt_batches", "poolrt_padding_ratio", "poolrt_tokenise_seconds", "poolrt_serialise_seconds",
    "poolrt_engine_seconds",
    "poolrt_queue_seconds", "poolrt_refused_requests", "poolrt_http_refused", "poolrt_build_info",
    "poolrt_model_info", "process_resident_memory_bytes",
}  # fmt: skip


class Held:
    """A real session that computes nothing until it is let go."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.backend, self.profiles = session.backend, session.profiles
        self.go = threading.Event()
        self.entered = threading.Event()
        self.runs = 0
        self.widths: list[int] = []

    def run(self, inputs: Any, outputs: Any, *, alone: bool = False) -> Any:
        self.entered.set()
        assert self.go.wait(60)
        self.runs += 1
        self.widths.append(inputs["input_ids"].shape[1])
        return self.session.run(inputs, outputs, alone=alone)

    def close(self) -> None:
        self.session.close()


@contextmanager
def held(artifact: Path, settings: Settings) -> Iterator[tuple[Live, Held]]:
    opened = load(
        artifact,
        threads=1,
        max_queued_tokens=settings.max_queued_tokens,
        scheduling_policy=settings.scheduling_policy,
        check="quick",
    )
    with opened as model, live(model, settings=settings) as server:
        gate = model.worker.session = Held(model.worker.session)  # pyright: ignore[reportAttributeAccessIssue]
        try:
            yield server, gate
        finally:
            gate.go.set()


def until(claim: Callable[[], bool]) -> None:
    end = time.monotonic() + SOON_S
    while not claim():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.005)


def counted(server: Live) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = server.client.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: dict[Any, float], name: str, **labels: str) -> float:
    return sum(
        number for (found, given), number in samples.items() if found == name and set(labels.items()) <= given
    )


def test_metrics_hold_every_family(embedder: Live):
    embedder.ask("/v1/embeddings", {"input": TEXT})
    families = {
        family.name for family in text_string_to_metric_families(embedder.client.get("/metrics").text)
    }
    assert families >= FAMILIES, FAMILIES - families


def test_metrics_count_what_was_done(embedder: Live):
    before = counted(embedder)
    tokens = embedder.ask("/v1/embeddings", {"input": TEXTS})["usage"]["total_tokens"]
    embedder.refused("/v1/embeddings", {"input": []})
    embedder.client.get("/nothing")
    after = counted(embedder)

    def grown(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert grown("http_requests_total", handler="/v1/embeddings", status="2xx", method="POST") == 1
    assert grown("http_requests_total", handler="/v1/embeddings", status="4xx", method="POST") == 1
    assert grown("http_requests_total", handler="none", status="4xx") == 1
    assert grown("vllm:prompt_tokens_total") == tokens
    assert grown("vllm:request_success_total", finished_reason="stop") == len(TEXTS)
    assert grown("vllm:e2e_request_latency_seconds_count") == 1
    assert grown("poolrt_batch_tokens_total") == tokens
    assert value(after, "vllm:num_requests_waiting") == 0


def test_sizes_of_bodies_and_answers_are_counted(embedder: Live):
    body = b'{"input": "paris"}'
    before = counted(embedder)
    answer = embedder.client.post(
        "/v1/embeddings", content=body, headers={"content-type": "application/json"}
    )
    after = counted(embedder)

    def grown(name: str) -> float:
        return value(after, name, handler="/v1/embeddings") - value(before, name, handler="/v1/embeddings")

    assert grown("http_request_size_bytes_sum") == len(body)
    assert grown("http_response_size_bytes_sum") == len(answer.content)


def test_engine_metrics_can_be_off(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(engine_metrics=False)) as server:
        server.ask("/v1/embeddings", {"input": TEXT})
        text = server.client.get("/metrics").text
        assert "vllm:" not in text
        assert "http_requests_total" in text


def test_models_are_listed_by_their_names(everything: Live):
    data = everything.client.get("/v1/models").json()["data"]
    assert [one["id"] for one in data] == [served.name for served in everything.here.registry]
    assert {one["object"] for one in data} == {"model"}
    assert not any("/" in one["root"] for one in data)


def test_a_models_card_is_vllms(embedder: Live):
    (card,) = embedder.client.get("/v1/models").json()["data"]
    (permission,) = card["permission"]
    served = embedder.here.registry.models[0]
    assert {key: value for key, value in card.items() if key not in ("created", "permission")} == {
        "id": served.name, "object": "model", "owned_by": "poolrt", "root": served.manifest.source.checkpoint,
        "parent": None,
        "max_model_len": served.model.max_tokens,
    }  # fmt: skip
    assert {key: value for key, value in permission.items() if key not in ("id", "created")} == {
        "object": "model_permission", "allow_create_engine": False, "allow_sampling": True,
        "allow_logprobs": True,
        "allow_search_indices": False, "allow_view": True, "allow_fine_tuning": False, "organization": "*",
        "group": None,
        "is_blocking": False,
    }  # fmt: skip
    assert permission["id"].startswith("modelperm-")
    assert len(permission["id"]) == len("modelperm-") + 16
    assert type(card["created"]) is type(permission["created"]) is int
    assert abs(card["created"] - time.time()) < 60


def test_a_server_that_could_not_open_its_models_is_not_live(embedder: Live, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(embedder.here.state, "failure", RuntimeError("no"))
    assert embedder.client.get("/live").status_code == embedder.client.get("/health").status_code == 503


def test_limits_of_headers_are_exact(narrow: Live):
    def status(count: int, size: int) -> int:
        """Of a request with exactly so many headers of so many bytes in all."""
        lines = [b"x-%02d: a" % number for number in range(count - 2)]
        filler = size - sum(len(line) - 2 for line in lines) - len(b"hostx") - len(b"x-f")
        head = b"\r\n".join([b"GET /health HTTP/1.1", b"Host: x", b"X-F: " + b"a" * filler, *lines, b"", b""])
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=SOON_S) as connection:
            connection.sendall(head)
            return int(connection.recv(100).split()[1])

    limit = narrow.here.settings.max_header_bytes
    assert (status(20, 500), status(21, 500)) == (200, 431)
    # The lines' own colons and ends count while a head is not whole, so the bound is
    # tried where they are few.
    assert status(3, limit - 40) == 200
    assert status(3, limit + 1) == 431


def test_names_can_be_left_unchecked(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(check_model_name=False)) as server:
        assert server.ask("/v1/embeddings", {"model": "whatever", "input": "a"})["model"] == "minilm_like"


def test_tokenizer_info_is_opt_in(models: Callable[[str], Model], embedder: Live):
    absent = embedder.client.get("/tokenizer_info")
    assert (absent.status_code, absent.json()["detail"]) == (404, "Not Found")
    assert "did you mean" not in json.dumps(absent.json())
    with live(models("minilm_like"), settings=Settings(tokenizer_info=True)) as server:
        told = server.client.get("/tokenizer_info").json()
        assert told["tokenizer_class"] == "BertTokenizer"
        assert told["cls_token"] == "[CLS]"
        assert "chat_template" not in told
        assert server.client.get("/tokenizer_info", params={"model": "nobody"}).status_code == 404
        assert "/tmp" not in json.dumps(told)


def test_tokenizer_info_tells_the_template_that_is_used(models: Callable[[str], Model]):
    with live(
        models("minilm_like"), settings=Settings(tokenizer_info=True, chat_template="{{ messages }}")
    ) as server:
        assert server.client.get("/tokenizer_info").json()["chat_template"] == "{{ messages }}"


def test_loading_is_live_but_not_ready(artifacts: Callable[[str], Path]):
    opened, go = threading.Event(), threading.Event()

    def slow() -> Model:
        opened.set()
        assert go.wait(60)
        return load(artifacts("minilm_like"), threads=1, check="quick")

    import uvicorn
    from poolrt.serve.process.server import Server, uvicorn_options

    settings = Settings()
    app = create_app(Registry([Served(names=("m",), open=slow)]), settings)
    import httpx

    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = Server(uvicorn.Config(app, **uvicorn_options(settings)), app.state.context)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]}, daemon=True)
        thread.start()
        with httpx.Client(base_url=f"http://127.0.0.1:{bound.getsockname()[1]}", timeout=30) as client:
            assert opened.wait(SOON_S)
            until(lambda: server.started)
            assert client.get("/live").status_code == 200
            assert client.get("/ready").status_code == client.get("/health").status_code == 503
            refused = client.post("/v1/embeddings", json={"input": "a"})
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            for path in ("/v1/models", "/models", "/info", "/playground.json"):
                early = client.get(path)
                assert (early.status_code, early.headers.get("retry-after")) == (503, "1"), path
            for path, body in (
                *BOUNDED,
                ("/tokenize", {"prompt": "a"}),
                ("/detokenize", {"tokens": [1]}),
                ("/decode", {"ids": [1]}),
            ):
                early = client.post(path, json=body)
                assert (early.status_code, early.headers.get("retry-after")) == (503, "1"), path
            assert client.get("/version").status_code == 200
            scraped = client.get("/metrics")
            assert scraped.status_code == 200
            assert "vllm:num_requests_waiting{" not in scraped.text
            go.set()
            until(lambda: client.get("/ready").status_code == 200)
            assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
        server.should_exit = True
        thread.join(SOON_S)


@pytest.mark.parametrize(("stalled_s", "status"), [(0.0, 200), (119.0, 200), (121.0, 503)])
def test_a_server_whose_engine_hangs_is_not_live(
    embedder: Live, monkeypatch: pytest.MonkeyPatch, stalled_s: float, status: int
):
    model = embedder.here.registry.models[0].model
    monkeypatch.setattr(model.worker, "stalled_s", lambda: stalled_s)
    assert embedder.client.get("/live").status_code == embedder.client.get("/health").status_code == status
    assert embedder.client.get("/ready").status_code == 200


def test_one_engine_that_hangs_is_enough(everything: Live, monkeypatch: pytest.MonkeyPatch):
    for served, stalled_s in zip(everything.here.registry, (0.0, 500.0, 1.0, 0.0, 0.0, 0.0), strict=True):
        monkeypatch.setattr(served.model.worker, "stalled_s", lambda stalled_s=stalled_s: stalled_s)
    assert everything.client.get("/live").status_code == 503


def test_pages_can_be_left_out(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(docs=False)) as server:
        for path in ("/docs", "/openapi.json"):
            assert server.client.get(path).status_code == 404
        assert server.client.get("/v1/models").status_code == 200


def test_an_engine_that_hangs_shows_while_it_does(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    from poolrt.serve.endpoints import operations

    monkeypatch.setattr(operations, "STALLED_S", 0.05)
    with held(artifacts("minilm_like"), Settings()) as (server, gate), ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        until(lambda: server.client.get("/live").status_code == 503)
        gate.go.set()
        assert running.result(SOON_S).status_code == 200
        until(lambda: server.client.get("/live").status_code == 200)


def test_too_much_queued_is_refused_alike_for_one_and_many(artifacts: Callable[[str], Path]):
    settings = Settings(max_queued_tokens=60)
    with held(artifacts("minilm_like"), settings) as (server, gate), ThreadPoolExecutor(4) as threads:
        model = server.here.registry.models[0].model
        first = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        waiting = [threads.submit(server.post, "/v1/embeddings", {"input": TEXTS + TEXTS}) for _ in range(1)]
        until(lambda: model.statistics().queued_tokens == 20)
        for body in ({"input": distinct(6)}, {"input": "planet " * 45}):
            refused = server.post("/v1/embeddings", body)
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.headers["retry-after"].isdigit()
            assert refused.json()["error"]["type"] == "RateLimitError"
        gate.go.set()
        assert [one.result(SOON_S).status_code for one in (first, *waiting)] == [200, 200]
        assert server.post("/v1/embeddings", {"input": TEXT}).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(artifacts: Callable[[str], Path]):
    with held(artifacts("minilm_like"), Settings(request_timeout_s=0.2)) as (server, gate):
        late = server.post("/v1/embeddings", {"input": TEXT})
        assert late.status_code == 504
        assert (
            "--request-timeout" in late.json()["error"]["message"]
            or "time" in late.json()["error"]["message"]
        )
        gate.go.set()


def test_work_of_a_client_that_left_is_not_done(artifacts: Callable[[str], Path]):
    with held(artifacts("minilm_like"), Settings()) as (server, gate), ThreadPoolExecutor(2) as threads:
        model = server.here.registry.models[0].model
        first = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        body = json.dumps({"input": TEXTS}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as leaver:
            head = (
                "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
                f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            leaver.sendall(head.encode() + body)
            until(lambda: model.statistics().queued_items == len(TEXTS))
        until(lambda: model.statistics().queued_items == 0)
        assert model.statistics().cancelled == 1
        gate.go.set()
        assert first.result(SOON_S).status_code == 200
        assert gate.runs == 1
        samples = counted(server)
        assert value(samples, "vllm:request_success_total", finished_reason="abort") == len(TEXTS)
        assert value(samples, "http_requests_total", status="4xx") == 1
        assert value(samples, "http_requests_total", status="5xx") == 0


@pytest.fixture(scope="module")
def narrow(models: Callable[[str], Model]) -> Iterator[Live]:
    with live(models("minilm_like"), settings=Settings(max_header_bytes=2000, max_header_count=20)) as server:
        yield server


def test_headers_beyond_the_limits_are_refused(narrow: Live):
    assert narrow.client.get("/health", headers={"x-long": "a" * 1500}).status_code == 200
    assert (
        narrow.client.get("/health", headers=[(f"x-{index}", "a") for index in range(10)]).status_code == 200
    )
    for headers, flag in (
        ({"x-long": "a" * 2000}, "size"),
        ([(f"x-{index}", "a") for index in range(20)], "count"),
    ):
        refused = narrow.client.get("/health", headers=headers)
        assert refused.status_code == 431
        assert refused.json()["error"]["type"] == "RequestTooLargeError"
        assert flag in refused.json()["error"]["message"]
    assert Settings().max_header_count == 256


@pytest.mark.parametrize(
    "start",
    [b"GET /health HTTP/1.1\r\nx-long: ", b"GET /", b"GET /health HTTP/1.1\r\n"],
    ids=["value", "path", "many"],
)
def test_headers_without_end_are_cut_off(narrow: Live, start: bytes):
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=SOON_S) as endless:
        endless.sendall(start)
        sent, answer = 0, b""
        try:
            while sent < 10_000_000:
                endless.sendall(b"x-a: b\r\n" * 500 if start.endswith(b"\n") else b"a" * 4000)
                sent += 4000
        except OSError:
            pass
        try:
            while more := endless.recv(4096):
                answer += more
        except OSError:  # what is still on its way when the other side closes resets the connection
            pass
    assert sent < 10_000_000
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("start", [b"", b"GET /health HTTP/1.1\r\nx-a: b\r\n"], ids=["nothing", "a-part"])
@pytest.mark.parametrize("before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_headers_that_do_not_come_are_not_waited_for(
    models: Callable[[str], Model], before: bytes, start: bytes
):
    settings = Settings(body_timeout_s=0.3, keep_alive_s=1)
    with (
        live(models("minilm_like"), settings=settings) as server,
        socket.create_connection(("127.0.0.1", server.port), SOON_S) as slow,
    ):
        answer = b""
        if before:
            slow.sendall(before)
            while b"\r\n\r\n" not in answer:
                answer += slow.recv(4096)
        slow.sendall(start)
        while more := slow.recv(4096):  # until the server closes
            answer += more
    assert answer.startswith(b"HTTP/1.1 200 ") == bool(before)
    # A connection that was of use and is idle ends without a word.
    told = not before or bool(start)
    assert (b"HTTP/1.1 408 Request Timeout" in answer) == told
    assert (b"headers did not arrive within 0.3 s" in answer) == told


def test_large_bodies_on_one_connection_are_no_large_headers(narrow: Live):
    body = json.dumps({"input": "paris " * 200_000, "truncate_prompt_tokens": 5}).encode()
    head = (
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=SOON_S) as kept:
        kept.sendall((head + body) * 3)
        answers = b""
        while answers.count(b"HTTP/1.1 200") < 3:
            answers += (more := kept.recv(65536))
            assert more, answers[-500:]


ROUTES: dict[str, Callable[[str], dict[str, Any]]] = {
    "/v1/embeddings": lambda text: {"input": text},
    "/v2/embed": lambda text: {"texts": [text]},
    "/pooling": lambda text: {"input": text, "task": "token_embed"},
    "/score": lambda text: {"text_1": text, "text_2": text},
    "/rerank": lambda text: {"query": text, "documents": [text]},
}


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("route", ROUTES)
def test_priority_decides_where_the_policy_says_so(artifacts: Callable[[str], Path], route: str, policy: Any):
    with (
        held(artifacts("minilm_like"), Settings(scheduling_policy=policy)) as (server, gate),
        ThreadPoolExecutor(3) as threads,
    ):
        model = server.here.registry.models[0].model
        # As if padding cost what tokens do: the two below are then no batch.
        model.worker.limits = replace(model.worker.limits, packed_width=None)
        asked = [threads.submit(server.post, "/v1/embeddings", {"input": TEXT})]
        assert gate.entered.wait(SOON_S)
        # The later, longer one would wait for the short one by fair turns; as the more
        # urgent one it does not.
        for text, priority in (("mars", 7), (" ".join(TEXTS * 2), -7)):
            before = model.statistics().queued_items
            more = {"priority": priority} if policy == "priority" else {}
            asked.append(threads.submit(server.post, route, ROUTES[route](text) | more))
            until(lambda before=before: model.statistics().queued_items > before)
        gate.go.set()
        assert [one.result(SOON_S).status_code for one in asked] == [200, 200, 200]
        served = gate.widths[1:]
        assert len(set(served)) == 2
        assert served == sorted(served, reverse=policy == "priority")


def test_running_requests_are_counted_when_asked(artifacts: Callable[[str], Path]):
    with (
        held(artifacts("minilm_like"), Settings(track_load=True)) as (server, gate),
        ThreadPoolExecutor(1) as threads,
    ):
        assert server.client.get("/load").json() == {"server_load": 0}
        running = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        assert server.client.get("/load").json() == {"server_load": 1}
        gate.go.set()
        running.result(SOON_S)
        until(lambda: server.client.get("/load").json() == {"server_load": 0})


def test_draining_finishes_what_runs_and_takes_nothing_new(artifacts: Callable[[str], Path]):
    import signal

    with held(artifacts("minilm_like"), Settings()) as (server, gate), ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        server.here.state.draining = True
        assert server.client.get("/ready").status_code == 503
        assert server.client.get("/live").status_code == 200
        refused = server.post("/v1/embeddings", {"input": TEXT})
        assert refused.status_code == 503
        assert (refused.headers["retry-after"], refused.headers["connection"]) == ("5", "close")
        assert server.client.get("/health").status_code == 503
        assert server.client.get("/v1/models").status_code == 503
        server.server.handle_exit(signal.SIGTERM, None)
        gate.go.set()
        assert running.result(SOON_S).status_code == 200


def test_open_connections_send_one_more_request_when_it_stops(
    models: Callable[[str], Model], monkeypatch: pytest.MonkeyPatch
):
    import http.client
    import signal

    from poolrt.serve.http import parting

    headers = {"Content-Type": "application/json"}

    monkeypatch.setattr(parting, "IDLE_S", SOON_S)
    monkeypatch.setattr(parting, "FRESH_S", SOON_S)
    with live(models("minilm_like")) as server:
        clients = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=SOON_S) for _ in range(3)]

        def ask(client: http.client.HTTPConnection) -> tuple[int, str | None]:
            client.request("POST", "/v1/embeddings", json.dumps({"input": TEXT}), headers)
            response = client.getresponse()
            response.read()
            return response.status, response.getheader("Connection")

        for client in clients:
            client.connect()
        kept, fresh, silent = clients
        assert ask(kept) == (200, None)
        server.server.handle_exit(signal.SIGTERM, None)
        until(lambda: is_refused(server.port))
        assert ask(kept) == (200, "close")
        assert ask(fresh) == (200, "close")
        server.server.handle_exit(signal.SIGTERM, None)  # ends the wait for the last one
        assert silent.sock.recv(1) == b""
        for client in clients:
            client.close()


def is_refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=SOON_S).close()
    except ConnectionRefusedError:
        return True
    return False


def test_the_second_signal_ends_at_once(embedder: Live):
    import signal

    import uvicorn
    from poolrt.serve.process.server import Server

    server = Server(uvicorn.Config(embedder.app, timeout_graceful_shutdown=30), embedder.here)
    server.handle_exit(signal.SIGTERM, None)
    try:
        assert (server.should_exit, server.force_exit) == (True, False)
        server.handle_exit(signal.SIGTERM, None)
        assert server.force_exit
    finally:
        embedder.here.state.draining = False


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
def test_a_body_beyond_the_limit_names_the_flag(models: Callable[[str], Model], declared):
    with live(models("minilm_like"), settings=Settings(max_body_bytes=1000)) as server:
        body = json.dumps({"input": "x" * 2000}).encode()
        content = body if declared else iter([body[:900], body[900:]])
        got = server.client.post(
            "/v1/embeddings", content=content, headers={"content-type": "application/json"}
        )
        assert got.status_code == 413
        assert "--max-body-bytes" in got.json()["error"]["message"]
        assert "1000 bytes" in got.json()["error"]["message"]
        assert server.post("/v1/embeddings", {"input": "x"}).status_code == 200


BOUNDED: list[tuple[str, dict[str, Any]]] = [
    ("/v1/embeddings", {"input": TEXT}), ("/v2/embed", {"texts": [TEXT]}),
    ("/pooling", {"input": TEXT, "task": "token_embed"}),
    ("/invocations", {"input": TEXT}), ("/classify", {"input": TEXT, "model": "bert_classifier"}),
    ("/score", {"text_1": TEXT, "text_2": TEXT}), ("/rerank", {"query": TEXT, "documents": [TEXT]}),
    ("/rerank", {"query": TEXT, "texts": [TEXT]}), ("/embed", {"inputs": TEXT}),
    ("/embed_all", {"inputs": TEXT}),
    ("/embed_sparse", {"inputs": TEXT, "model": "bge_m3"}),
    ("/predict", {"inputs": TEXT, "model": "bert_classifier"}),
    ("/predict", {"inputs": [TEXT, TEXT], "model": "bert_cross_encoder"}),
    ("/similarity", {"inputs": {"source_sentence": TEXT, "sentences": [TEXT]}}), ("/", {"inputs": TEXT}),
]  # fmt: skip


def test_every_route_tells_the_model_its_time_and_the_client_what_it_took(
    everything: Live, monkeypatch: pytest.MonkeyPatch
):
    """The worker then drops from its queue what nobody waits for any more."""
    limits: list[float | None] = []

    def noting(run: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            limits.append(options.get("deadline_s"))
            return run(*arguments, **options)

        return noted

    for name in ("start", "start_score", "start_rerank"):
        monkeypatch.setattr(Model, name, noting(getattr(Model, name)))
    models = [served.model for served in everything.here.registry]
    with live(*models, settings=Settings(request_timeout_s=77.0)) as server:
        for path, body in BOUNDED:
            limits.clear()
            got = server.post(path, {"model": "minilm_like"} | body)
            assert got.status_code == 200, got.text
            assert limits
            assert set(limits) == {77.0}, path
            times = ("x-total-time", "x-tokenization-time", "x-queue-time", "x-inference-time")
            assert all(re.fullmatch(r"\d+\.\d", got.headers[name]) for name in times), path
            assert int(got.headers["x-compute-tokens"]) > 0


def test_times_are_told_in_milliseconds():
    headers = timing_headers(
        Times(time.perf_counter() - 2.0, tokenise_s=0.25, queue_s=0.5, engine_s=0.75, tokens=9)
    )
    assert 2000 <= float(headers.pop("x-total-time")) < 12_000
    assert headers == {
        "x-tokenization-time": "250.0",
        "x-queue-time": "500.0",
        "x-inference-time": "750.0",
        "x-compute-tokens": "9",
    }


def test_waiting_and_computing_are_told_apart(artifacts: Callable[[str], Path]):
    with held(artifacts("minilm_like"), Settings()) as (server, gate), ThreadPoolExecutor(2) as threads:
        model = server.here.registry.models[0].model
        first = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        second = threads.submit(server.post, "/v1/embeddings", {"input": TEXTS})
        until(lambda: model.statistics().queued_items == len(TEXTS))
        time.sleep(0.3)
        gate.go.set()
        one, other = (each.result(SOON_S).headers for each in (first, second))
        assert float(one["x-inference-time"]) >= 300
        assert float(other["x-queue-time"]) >= 300
        samples = counted(server)
    for metric, header in (
        ("vllm:request_queue_time", "x-queue-time"), ("vllm:request_inference_time", "x-inference-time"),
        ("vllm:request_prefill_time", "x-inference-time"), ("poolrt_tokenise", "x-tokenization-time"),
    ):  # fmt: skip
        seconds = (float(one[header]) + float(other[header])) / 1000
        assert value(samples, f"{metric}_seconds_sum") == pytest.approx(seconds, abs=0.001), metric
    whole = (float(one["x-total-time"]) + float(other["x-total-time"])) / 1000
    for metric in ("vllm:e2e_request_latency_seconds", "vllm:time_to_first_token_seconds"):
        assert 0.6 <= value(samples, f"{metric}_sum") <= whole + 0.001, metric


def test_a_request_that_is_late_counts_as_aborted(artifacts: Callable[[str], Path]):
    with held(artifacts("minilm_like"), Settings(request_timeout_s=0.2)) as (server, gate):
        assert server.post("/v1/embeddings", {"input": TEXTS}).status_code == 504
        gate.go.set()
        samples = counted(server)
        assert value(samples, "vllm:request_success_total", finished_reason="abort") == len(TEXTS)
        assert value(samples, "vllm:request_success_total", finished_reason="stop") == 0
        assert server.here.registry.models[0].running == 0
        assert server.here.state.load == 0


def test_a_full_queue_names_the_soonest_of_the_models(everything: Live, monkeypatch: pytest.MonkeyPatch):
    for served, wait_s in zip(everything.here.registry, (9.0, 3.0, 5.0, 9.0, 9.0, 9.0), strict=True):
        monkeypatch.setattr(served.model.worker, "is_full", lambda coming: True)
        monkeypatch.setattr(
            served.model.worker,
            "refusal",
            lambda coming, wait_s=wait_s: Overload("full", retry_after_s=wait_s),
        )
    refused = everything.post("/v1/embeddings", {"input": TEXT})
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "3")
    monkeypatch.setattr(everything.here.registry.models[3].model.worker, "is_full", lambda coming: False)
    assert check_queues(everything.here.workshop) is None, "one with room is enough"


def test_a_refusal_at_the_door_is_measured(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(api_keys=("k",))) as server:
        keyed = {"Authorization": "Bearer k"}
        assert server.post("/v1/embeddings", {"input": TEXT}).status_code == 401
        assert server.client.get("/made-up").status_code == 401
        text = server.client.get("/metrics", headers=keyed).text
    samples = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert value(samples, "http_requests_total", handler="/v1/embeddings", status="4xx") == 1
    assert value(samples, "http_requests_total", handler="none", status="4xx") == 1
    assert value(samples, "http_requests_total") == 2
    assert value(samples, "http_request_size_bytes_sum") == len(
        json.dumps({"input": TEXT}, separators=(",", ":"))
    )
    assert value(samples, "http_response_size_bytes_sum", handler="none") == len(b'{"error":"Unauthorized"}')
    assert value(samples, "poolrt_http_in_flight") == 1, "the scrape itself"


def test_adapters_are_loaded_into_the_registry_that_is_served(models: Callable[[str], Model]):
    makes: Any = object()
    registry = Registry([])
    loader = create_app(
        registry, Settings(runtime_lora=True, shutdown_timeout_s=7), makes
    ).state.context.loader
    assert (loader.registry, loader.adapters, loader._drain_s) == (registry, makes, 7)
    assert create_app(registry, Settings(), makes).state.context.loader is None
    assert create_app(Registry([]), Settings(runtime_lora=True)).state.context.loader is None

"""What one request, and all of them together, may cost: in memory, in time of the event loop, in
the queue and in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from poolrt.runtime import cancellation
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.model import Model
from poolrt.serve.app import create_app
from poolrt.serve.errors import ApiError
from poolrt.serve.http import request_body
from poolrt.serve.http.memory_budget import Budget, Hold, values_of
from poolrt.serve.logs import LOGGERS, Indented
from poolrt.serve.models.registry import Registry, Served
from poolrt.serve.process import memory_trimming
from poolrt.serve.responses import MANY, Json
from poolrt.serve.schema.body import refusal
from poolrt.serve.schema.validation_errors import MAX_LINES, problems_of
from poolrt.serve.schema.vllm import EMBEDDINGS, RERANK, EmbeddingText
from poolrt.serve.settings import Settings
from starlette.requests import Request

from tests.serve.cases import TEXT, distinct
from tests.serve.conftest import Live, live
from tests.serve.test_connections import connect, rest, statuses, until
from tests.serve.test_operations import SOON_S, held

BODIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "/v1/embeddings": lambda many: {"input": many},
    "/v2/embed": lambda many: {"texts": many},
    "/pooling": lambda many: {"input": many, "task": "token_embed"},
    "/score": lambda many: {"text_1": "a", "text_2": many},
    "/rerank": lambda many: {"query": "a", "documents": many},
    "/invocations": lambda many: {"input": many},
    "/embed": lambda many: {"inputs": many},
    "/similarity": lambda many: {"inputs": {"source_sentence": "a", "sentences": many}},
    "/tokenize": lambda many: {"inputs": many},
    "/": lambda many: {"inputs": many},
}


@pytest.fixture(scope="module")
def small(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(max_items=50)) as server:
        yield server


# Problems


@pytest.mark.parametrize(
    "value", [{}, None, [[]], 1.5, {"role": "user"}], ids=["objects", "nulls", "lists", "floats", "messages"]
)
def test_reading_stops_at_the_problems_that_are_told(value: Any):
    many = [value] * 100_000
    begun = time.monotonic()
    assert 0 < len(problems_of(refusal({"input": many}, EmbeddingText))) <= 10 * MAX_LINES
    with pytest.raises(ApiError) as caught:
        RERANK.read({"query": "a", "documents": many})
    assert str(caught.value).count("\n") <= MAX_LINES + 1
    assert time.monotonic() - begun < 2  # all of them: 4 s and 0.5 GB


@pytest.mark.parametrize("route", [route for route in BODIES if route not in ("/tokenize",)])
def test_a_body_of_many_faults_holds_nobody_up(embedder: Live, route: str):
    """0.9 MB of `{}` took 28 s of the event loop."""
    body = json.dumps(BODIES[route]([{}] * 30_000)).encode()
    begun = time.monotonic()
    got = embedder.client.post(route, content=body, headers={"content-type": "application/json"})
    assert got.status_code in (400, 422)
    assert time.monotonic() - begun < 5
    assert len(got.content) < 20_000


def test_large_bodies_are_read_outside_the_event_loop(small: Live, monkeypatch: pytest.MonkeyPatch):
    threads: dict[int, str] = {}
    parse = request_body.parse

    def noted(content: Any) -> Any:
        threads[len(content)] = threading.current_thread().name
        return parse(content)

    monkeypatch.setattr(request_body, "parse", noted)
    for length in (10, 5000):
        small.ask("/v1/embeddings", {"input": "a " * (length // 2), "truncate_prompt_tokens": 5})
    few, many = (name for _, name in sorted(threads.items()))
    assert "poolrt-read" in many
    assert "poolrt" not in few


def test_reading_stops_when_nobody_waits_for_it():
    with pytest.raises(Exception, match=r"^$") as caught, cancellation.watched(lambda: True):
        EMBEDDINGS.read({"input": [[1, "2"]] * 5000})
    assert type(caught.value).__name__ == "CancelledError"
    assert EMBEDDINGS.read({"input": [[1, "2"]] * 5000})


def test_what_a_thread_prepares_for_somebody_who_left_is_not_queued(
    artifacts: Callable[[str], Path], monkeypatch: Any
):
    with held(artifacts("minilm_like"), Settings()) as (server, gate):
        model = server.here.registry.models[0].model
        entered, go = threading.Event(), threading.Event()
        start = model.start

        def slow(*arguments: Any, **options: Any) -> Any:
            entered.set()
            assert go.wait(SOON_S)
            return start(*arguments, **options)

        monkeypatch.setattr(model, "start", slow)
        body = json.dumps({"input": distinct(200)}).encode()
        assert len(body) > 2048
        with connect(server) as leaver:
            head = (
                "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
                f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            leaver.sendall(head.encode() + body)
            assert entered.wait(SOON_S)
        until(lambda: server.here.state.in_flight == 0)
        go.set()
        until(lambda: model.statistics().cancelled == 1 and model.statistics().queued_items == 0)
        gate.go.set()


# Items, values, bytes


@pytest.mark.parametrize("route", BODIES)
def test_more_items_than_admitted_are_refused_by_name(small: Live, route: str):
    got = small.post(route, BODIES[route](["a"] * 51))
    assert got.status_code in (400, 413, 422)
    assert "--max-items" in got.text
    assert "51 items, 50" in got.text
    assert small.post(route, BODIES[route](["a"] * 50)).status_code == 200


def test_token_ids_are_no_items(small: Live):
    assert small.ask("/v1/embeddings", {"input": [6] * 100, "truncate_prompt_tokens": 5})
    assert small.ask("/v1/embeddings", {"input": [[6] * 100] * 3, "truncate_prompt_tokens": 5})


@pytest.mark.parametrize(
    "text",
    [
        '{"input": ["a", "b,[{", "\\"[", "\\\\", ""]}',
        "[[], [1, 2.5, null], {}]",
        '{"a": {"b": [true, false]}}',
        '"' + "\\\\" * 300_000 + '"',
    ],
)
def test_values_are_counted_without_parsing(text: str):
    def count(value: Any) -> tuple[int, int]:
        if isinstance(value, dict):
            inner = [count(one) for pair in value.items() for one in pair]
        elif isinstance(value, list):
            inner = [count(one) for one in value]
        else:
            return (0, 1) if isinstance(value, str) else (1, 0)
        return sum(one for one, _ in inner), 1 + sum(two for _, two in inner)

    assert values_of(text.encode())[1] == count(json.loads(text))[1]


def test_numbers_are_counted_too():
    assert values_of(b"[" + b",".join([b"1"] * 500_000) + b"]")[0] == pytest.approx(500_000, rel=0.01)


@pytest.mark.parametrize("piece", ["[]", "{}", '"a"', '{"a":1}', "[[]]"])
def test_a_body_of_very_many_values_is_not_parsed(small: Live, piece: str, monkeypatch: pytest.MonkeyPatch):
    def no(_: Any) -> Any:
        raise AssertionError("parsed")

    monkeypatch.setattr(request_body, "parse", no)
    body = b'{"x":[' + b",".join([piece.encode()] * 40_000) + b'],"input":"a"}'
    got = small.client.post("/v1/embeddings", content=body, headers={"content-type": "application/json"})
    assert got.status_code == 413
    assert "--max-items" in got.text


def test_texts_full_of_brackets_are_texts(small: Live):
    text = "[{,}] " * 40_000
    assert small.ask("/v1/embeddings", {"input": text, "truncate_prompt_tokens": 5})


def test_a_budget_serves_one_and_refuses_what_passes_it():
    budget = Budget(100)
    first, second = Hold(budget), Hold(budget)
    first.take(500)  # alone, whatever its size
    first.take(10)
    with pytest.raises(ApiError, match="--max-pending-bytes") as caught:
        second.take(1)
    assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
    first.give_back()
    second.take(60)
    first.take(40)
    with pytest.raises(ApiError):
        budget.check(1)
    second.give_back()
    first.give_back()
    assert budget.used == 0


def test_bodies_share_a_budget(models: Callable[[str], Model]):
    with live(models("minilm_like"), settings=Settings(max_pending_bytes=300_000)) as server:
        budget = server.here.workshop.budget
        head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        with connect(server) as slow:
            slow.sendall(head + b"Content-Length: 400000\r\n\r\n" + b"x" * 250_000)
            until(lambda: budget.used >= 250_000)
            with connect(server) as other:
                other.sendall(head + b"Content-Length: 200000\r\n\r\n")
                assert statuses(rest(other)) == [429]
            with connect(server) as other:
                other.sendall(
                    head + b"Transfer-Encoding: chunked\r\n\r\n" + b"20000\r\n" + b"x" * 0x20000 + b"\r\n"
                )
                assert statuses(rest(other)) == [429]
            assert server.ask("/v1/embeddings", {"input": TEXT})  # a small one costs nothing
        until(lambda: budget.used == 0)
        assert server.ask("/v1/embeddings", {"input": "a " * 100_000, "truncate_prompt_tokens": 5})
        until(lambda: budget.used == 0)


@pytest.mark.parametrize("route", ["/v1/embeddings", "/rerank"])
def test_a_text_without_tokens_is_not_read_to_its_end(models: Callable[[str], Model], route: str):
    model = models("minilm_like")
    text = "\u0301" * 3_000_000
    begun = time.monotonic()
    with pytest.raises(InputError, match="send a shorter text"):
        model.start(text, pooling_task="embed", truncate_prompt_tokens=-1)
    assert time.monotonic() - begun < SOON_S


def test_plain_tokenising_is_bounded(small: Live):
    assert "1048576" in small.refused("/tokenize", {"prompt": "a " * 600_000})["message"]
    assert "1048576" in small.post("/tokenize", {"inputs": ["a " * 300_000] * 2}).text


# The queue's door


def test_a_full_queue_refuses_before_the_body_comes(artifacts: Callable[[str], Path]):
    with (
        held(artifacts("minilm_like"), Settings(max_queued_tokens=60)) as (server, gate),
        ThreadPoolExecutor(3) as threads,
    ):
        model = server.here.registry.models[0].model
        asked = [threads.submit(server.post, "/v1/embeddings", {"input": TEXT})]
        assert gate.entered.wait(SOON_S)
        asked.append(threads.submit(server.post, "/v1/embeddings", {"input": distinct(30)}))
        until(lambda: model.statistics().queued_tokens >= 60)
        model.worker._speed = model.statistics().queued_tokens / 7.0
        for route in ("/v1/embeddings", "/rerank", "/embed", "/pooling", "/invocations"):
            with connect(server) as client:
                head = (
                    f"POST {route} HTTP/1.1\r\nHost: x\r\nContent-Type: "
                    "application/json\r\nContent-Length: 100000\r\n\r\n"
                )
                client.sendall(head.encode())
                answer = rest(client)
                assert statuses(answer) == [429]
                assert b"retry-after: 7\r\n" in answer.lower()
        assert server.post("/v1/embeddings", {"input": TEXT}).status_code == 429
        # What needs no queue is answered.
        for route, body in (
            ("/tokenize", {"prompt": TEXT}),
            ("/detokenize", {"tokens": [6]}),
            ("/v1/tokenize", {"text": TEXT}),
            ("/v1/detokenize", {"tokens": [6]}),
            ("/decode", {"ids": [6]}),
        ):
            assert server.ask(route, body)
        assert model.statistics().refused == 6
        gate.go.set()
        assert [one.result(SOON_S).status_code for one in asked] == [200, 200]
        assert server.post("/v1/embeddings", {"input": TEXT}).status_code == 200


def test_what_is_being_prepared_counts_as_queued(artifacts: Callable[[str], Path]):
    with held(artifacts("minilm_like"), Settings(max_queued_tokens=60)) as (server, gate):
        server.here.workshop.preparing_tokens = 60
        assert server.post("/v1/embeddings", {"input": TEXT}).status_code == 429
        server.here.workshop.preparing_tokens = 0
        gate.go.set()
        assert server.post("/v1/embeddings", {"input": distinct(200)}).status_code == 200
        assert server.here.workshop.preparing_tokens == 0


# The end


def test_what_is_not_finished_when_the_server_ends_is_a_503(
    artifacts: Callable[[str], Path], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    with (
        held(artifacts("minilm_like"), Settings(shutdown_timeout_s=0.3)) as (server, gate),
        ThreadPoolExecutor(4) as threads,
    ):
        model = server.here.registry.models[0].model
        running = [threads.submit(server.post, "/v1/embeddings", {"input": TEXT})]
        # Sent at once, both could run in one batch.
        assert gate.entered.wait(SOON_S)
        running.append(threads.submit(server.post, "/embed", {"inputs": TEXT}))
        until(lambda: model.statistics().queued_items == 1)
        with connect(server) as slow:
            slow.sendall(
                b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
                b"application/json\r\nContent-Length: 50\r\n\r\n{"
            )
            until(lambda: server.here.state.in_flight == 3)
            server.server.handle_exit(signal.SIGTERM, None)
            answer = rest(slow)
            assert statuses(answer) == [503]
            assert b"retry-after" in answer.lower()
        for one in running:
            got = one.result(SOON_S)
            assert got.status_code == 503
            assert int(got.headers["retry-after"]) >= 1
            assert "shutting down" in got.text
        gate.go.set()
    assert not [record for record in caplog.records if record.exc_info]


class Panic(BaseException):
    """As pyo3's: no Exception."""


@pytest.mark.parametrize(
    "error",
    [Panic("called `Option::unwrap()` on a `None` value"), SystemExit(0), MemoryError("out of memory")],
)
def test_whatever_fails_while_models_open_ends_the_server(
    error: BaseException, caplog: pytest.LogCaptureFixture
):
    def fails() -> Model:
        raise error

    registry = Registry([Served(names=("m",), open=fails)])
    ended = threading.Event()
    from poolrt.serve.lifespan import lifespan

    app = create_app(registry, Settings())
    app.state.owns_models = False
    app.state.stop = ended.set

    async def run() -> None:
        async with lifespan(app):
            for _ in range(200):
                if ended.is_set():
                    return
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert ended.is_set()
    failure = app.state.context.state.failure
    assert failure is not None
    if not isinstance(error, Exception):
        assert failure.exit_code == EXIT_INPUT
        assert "\n" not in str(failure)


# The log


def test_no_client_writes_lines_of_the_log(models: Callable[[str], Model], caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    evil = "a\nI 2026-11-25 00:00:00 forged\x1b[2J\u2028"
    with live(models("minilm_like"), settings=Settings(log_requests=True)) as server:
        server.post("/v1/embeddings", {"input": evil, "request_id": evil, "model": evil})
        server.post("/v1/embeddings", {"input": evil, "request_id": evil})
        server.client.get("/%0aforged%1b?x=%0aforged")
        server.client.get(
            "/live", headers={"x-forwarded-for": "forged-address", "x-forwarded-proto": "https"}
        )
        server.client.get("/live?" + "a" * 20_000)
        server.app.state.log(
            ValueError(evil),
            Request({"type": "http", "method": "GET", "path": evil, "headers": [], "query_string": b""}),
        )
        logging.getLogger("poolrt.serve").warning("adapter %s: %s", evil, InputError(evil))
    told = [record.getMessage() for record in caplog.records if record.name in LOGGERS]
    assert sum("forged" in line for line in told) >= 4
    assert all(len(line) < 5000 and "\x1b" not in line and "\u2028" not in line for line in told)
    assert all(more.startswith("  | ") for line in told for more in line.split("\n")[1:])
    assert not any("forged-address" in line for line in told)


def test_a_stack_looks_like_no_record():
    try:
        raise ValueError("a\nI 2026-11-25 00:00:00 forged")
    except ValueError:
        record = logging.LogRecord("poolrt.serve", logging.ERROR, "x.py", 1, "failed", (), sys.exc_info())
    first, *others = Indented("%(levelname).1s %(message)s").format(record).split("\n")
    assert first == "E failed"
    assert len(others) > 2
    assert all(line.startswith("  | ") for line in others)


@pytest.mark.parametrize("trusted", ["", "127.0.0.1"])
def test_a_proxy_is_believed_where_the_operator_says_so(
    models: Callable[[str], Model], caplog: Any, trusted: str
):
    caplog.set_level(logging.INFO, "uvicorn.access")
    with live(models("minilm_like"), settings=Settings(forwarded_allow_ips=trusted)) as server:
        server.client.get("/live", headers={"x-forwarded-for": "203.0.113.9"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert line.startswith("203.0.113.9:0 " if trusted else "127.0.0.1:")


# Answers


@pytest.mark.parametrize(
    "content",
    [
        {
            "data": [
                {"index": index, "embedding": np.arange(5, dtype=np.float32) + index} for index in range(200)
            ],
            "id": "a",
        },
        {"data": [{"index": 0, "data": np.arange(90_000, dtype=np.float32).reshape(-1, 90)}]},
        [np.full(3, index, np.float32) for index in range(100)],
        [np.zeros((2, 3), np.float32), np.zeros((70_000, 1), np.float32)],
        {
            "embeddings": {"float": [np.ones(2, np.float32)] * 65, "int8": [[1, 2]] * 65},
            "texts": ["\u00e4"] * 70,
            "none": [],
        },
        {"results": [], "usage": {"n": 1}},
        "text",
    ],
    ids=["many", "large", "list", "matrices", "kinds", "empty", "text"],
)
def test_an_answer_written_in_pieces_is_the_same(content: Any):
    assert Json(content).body == orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def test_large_answers_are_written_outside_the_event_loop(embedder: Live, monkeypatch: pytest.MonkeyPatch):
    threads: list[str] = []
    render = Json.render

    def noted(self: Json, content: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return render(self, content)

    monkeypatch.setattr(Json, "render", noted)
    for many in (1, MANY):
        assert len(embedder.ask("/v1/embeddings", {"input": ["paris"] * many})["data"]) == many
        assert (
            len(embedder.ask("/rerank", {"query": "mars", "documents": ["paris"] * many})["results"]) == many
        )
    assert ["poolrt-serve" in name for name in threads] == [False, False, True, True]


def test_live_waits_for_no_lock_of_the_engine(embedder: Live):
    with embedder.here.registry.models[0].model.worker._lock:
        assert embedder.client.get("/live", timeout=SOON_S).status_code == 200
        assert embedder.client.get("/health", timeout=SOON_S).status_code == 200


def test_memory_is_given_back_after_a_peak(monkeypatch: pytest.MonkeyPatch):
    sizes = iter([100, 110, 400, 150, 160, 500, 150])
    trimmed: list[int] = []
    monkeypatch.setattr(memory_trimming, "resident_bytes", lambda: next(sizes) << 20)

    async def run() -> None:
        made = memory_trimming.Trimming()  # 100
        monkeypatch.setattr(made, "_trim", trimmed.append)
        for expected in (0, 1, 1, 2):  # 110; 400, then 150; 160; 500, then 150
            made.look(idle=False)
            if made._running is not None:
                await made._running
            assert len(trimmed) == expected

    asyncio.run(run())


def test_a_long_queue_is_left_in_another_thread(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("poolrt.runtime.batching.worker.SMALL_QUEUE", 0)
    with held(artifacts("minilm_like"), Settings()) as (server, gate), ThreadPoolExecutor(1) as threads:
        model = server.here.registry.models[0].model
        leave, leaving = model.worker._leave, []
        monkeypatch.setattr(
            model.worker,
            "_leave",
            lambda calls: (leaving.append(threading.current_thread().name), leave(calls)),
        )
        first = threads.submit(server.post, "/v1/embeddings", {"input": TEXT})
        assert gate.entered.wait(SOON_S)
        body = json.dumps({"input": distinct(30)}).encode()
        with connect(server) as leaver:
            head = (
                "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: "
                f"application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            leaver.sendall(head.encode() + body)
            until(lambda: model.statistics().queued_items == 30)
        until(lambda: model.statistics().queued_items == 0)
        assert (model.statistics().cancelled, leaving[-1]) == (1, "poolrt-cancelled")
        gate.go.set()
        assert first.result(SOON_S).status_code == 200


def test_a_server_that_ended_begins_nothing_more():
    shop = create_app(Registry([]), Settings()).state.context.workshop
    go = threading.Event()
    try:
        for threads, workers in ((shop._reader, 1), (shop.threads, Settings().threads)):
            for _ in range(workers):
                threads.submit(go.wait, SOON_S)
        waiting = [threads.submit(int) for threads in (shop._reader, shop.threads)]
        shop.close()
        assert [one.cancelled() for one in waiting] == [True, True]
    finally:
        go.set()

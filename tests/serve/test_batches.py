"""Batch files, asked for by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import Batch
from poolrt.runtime.errors import InputError
from poolrt.runtime.model import Model
from poolrt.serve.batches import running
from poolrt.serve.batches.asking import Asking
from poolrt.serve.batches.records import Batch as StoredBatch
from poolrt.serve.batches.store import Store
from poolrt.serve.endpoints.batches import multipart
from poolrt.serve.errors import ApiError
from poolrt.serve.metrics.state import State
from poolrt.serve.settings import Settings

from tests.serve.cases import TEXTS
from tests.serve.conftest import Live, live

PATH = "/v1/embeddings"
MOST_S = 60.0


@pytest.fixture(scope="module")
def server(models: Callable[[str], Model], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    settings = Settings(
        batch_folder=tmp_path_factory.mktemp("batches"), api_keys=("k",), max_batch_bytes=2_000_000
    )
    with live(models("minilm_like"), models("bert_cross_encoder"), settings=settings) as started:
        started.client.headers["authorization"] = "Bearer k"
        yield started


@pytest.fixture(scope="module")
def client(server: Live) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="k", max_retries=0)


def request(name: str, body: Any, url: str = PATH) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": url, "body": body}


def jsonl(*rows: Any) -> bytes:
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def uploaded(client: openai.OpenAI, content: bytes) -> str:
    return client.files.create(file=("requests.jsonl", content), purpose="batch").id


def ended(client: openai.OpenAI, content: bytes, endpoint: Any = PATH) -> Batch:
    """A batch of that file, when it is over."""
    file = uploaded(client, content)
    batch = client.batches.create(
        input_file_id=file, endpoint=endpoint, completion_window="24h", metadata={"of": "a test"}
    )
    assert batch.status in ("validating", "in_progress")
    until = time.monotonic() + MOST_S
    while batch.status not in ("completed", "failed", "cancelled", "expired") and time.monotonic() < until:
        time.sleep(0.02)
        batch = client.batches.retrieve(batch.id)
    return batch


def results(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    return [] if file is None else [json.loads(line) for line in client.files.content(file).iter_lines()]


def test_answers_are_those_of_single_requests_in_their_order(server: Live, client: openai.OpenAI) -> None:
    bodies = [{"model": "minilm_like", "input": f"{text} {n}"} for n in range(9) for text in TEXTS]
    batch = ended(client, jsonl(*(request(f"r{n}", body) for n, body in enumerate(bodies))))
    assert batch.status == "completed"
    assert batch.error_file_id is None
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": len(bodies), "completed": len(bodies), "failed": 0}
    assert batch.metadata == {"of": "a test"}
    rows = results(client, batch.output_file_id)
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(len(bodies))]
    assert len({row["id"] for row in rows}) == len(rows)
    for row, body in zip(rows, bodies, strict=True):
        assert row["error"] is None
        assert row["response"]["status_code"] == 200
        single, answer = server.ask(PATH, body), row["response"]["body"]
        np.testing.assert_allclose(answer["data"][0]["embedding"], single["data"][0]["embedding"], atol=1e-5)
        assert answer["usage"] == single["usage"]
        assert answer.keys() == single.keys()
        assert row["response"]["request_id"] in answer["id"]


def test_wrong_lines_are_errors_of_their_own(client: openai.OpenAI) -> None:
    good = request("good", {"input": "a"})
    batch = ended(
        client,
        jsonl(
            good, b"{no json", [1], b"", request("good", {"input": "b"}), request("elsewhere", {}, "/rerank"),
            request("refused", {"input": "planet " * 500}), request("unknown", {"model": "x", "input": "a"}),
            {"url": PATH, "body": {}}, request("bodyless", None), request("get", {}) | {"method": "GET"},
            request("raw", {"input": "a", "encoding_format": "bytes"}), request("last", {"input": "a"}),
        ),
    )  # fmt: skip
    assert batch.status == "completed"
    assert batch.request_counts is not None
    assert batch.request_counts.model_dump() == {"total": 12, "completed": 2, "failed": 10}
    assert [row["custom_id"] for row in results(client, batch.output_file_id)] == ["good", "last"]
    errors = results(client, batch.error_file_id)
    assert [(row["custom_id"], row["error"] and row["error"]["code"]) for row in errors] == [
        (None, "invalid_json_line"), (None, "invalid_json_line"), ("good", "duplicate_custom_id"),
        ("elsewhere", "invalid_url"), ("refused", None), ("unknown", None),
        (None, "missing_required_parameter"), ("bodyless", "missing_required_parameter"),
        ("get", "invalid_method"), ("raw", "invalid_response"),
    ]  # fmt: skip
    refused, unknown = (row["response"] for row in errors if row["response"])
    assert (refused["status_code"], unknown["status_code"]) == (400, 404)
    assert "reduce the length" in refused["body"]["error"]["message"]


def test_other_routes_have_batches_too(server: Live, client: openai.OpenAI) -> None:
    body = {"model": "bert_cross_encoder", "query": TEXTS[0], "documents": TEXTS}
    batch = ended(client, jsonl(request("a", body, "/v1/rerank")), "/v1/rerank")
    (row,) = results(client, batch.output_file_id)
    expected = server.ask("/v1/rerank", body)["results"]
    for result, single in zip(row["response"]["body"]["results"], expected, strict=True):
        assert result["index"] == single["index"]
        assert result["relevance_score"] == pytest.approx(single["relevance_score"], abs=1e-5)


def test_a_file_without_requests_fails_as_a_whole(client: openai.OpenAI) -> None:
    batch = ended(client, b"\n \n")
    assert batch.status == "failed"
    assert batch.errors is not None
    assert batch.errors.data is not None
    assert [error.code for error in batch.errors.data] == ["empty_file"]
    with pytest.raises(openai.BadRequestError, match="cannot be cancelled"):
        client.batches.cancel(batch.id)


def test_files_are_listed_fetched_and_deleted(client: openai.OpenAI) -> None:
    content = jsonl(request("a", {"input": "ä\r\n--"})) + b"\r\n--\x00\xff"
    file = client.files.create(
        file=("my requests.jsonl", content), purpose="batch",
        expires_after={"anchor": "created_at", "seconds": 3600},
    )  # fmt: skip
    assert (file.filename, file.bytes, file.purpose) == ("my requests.jsonl", len(content), "batch")
    assert file.expires_at == file.created_at + 3600
    assert client.files.content(file.id).read() == content
    assert client.files.retrieve(file.id) == file
    assert file.id in [listed.id for listed in client.files.list(limit=1, order="desc")]
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError, match="No such File"):
        client.files.content(file.id)
    assert file.id not in [listed.id for listed in client.files.list(purpose="batch")]


def test_batches_are_listed_in_pages(client: openai.OpenAI) -> None:
    identifiers = [ended(client, jsonl(request("a", {"input": "a"}))).id for _ in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert set(identifiers) <= set(listed)
    assert len(listed) == len(set(listed))


@pytest.mark.parametrize(
    ("make", "status", "words"),
    [
        (lambda c: c.files.create(file=("a", b"x"), purpose="fine-tune"), 400, "purpose"),
        (lambda c: c.files.create(file=("a", b"x" * 2_000_000), purpose="batch"), 413, "max-batch-bytes"),
        (lambda c: c.files.retrieve("file-" + "0" * 32), 404, "No such File"),
        (lambda c: c.files.retrieve("..%2f..%2fsettings"), 404, "o"),
        (lambda c: c.batches.retrieve("batch_" + "0" * 32), 404, "No such batch"),
        (lambda c: c.batches.create(input_file_id="file-1", endpoint=PATH, completion_window="24h"), 404,
         "No such File"),
        (lambda c: c.batches.create(input_file_id="x", endpoint="/v1/responses", completion_window="24h"),
         400, "endpoint"),
    ],
    ids=["purpose", "room", "file", "path", "batch", "input", "endpoint"],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_openais_form(
    client: openai.OpenAI, make: Callable[[openai.OpenAI], object], status: int, words: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        make(client)
    assert caught.value.status_code == status
    assert words in str(caught.value)


def test_routes_are_there_with_a_folder_alone(embedder: Live, server: Live) -> None:
    assert embedder.post("/v1/batches", {}).status_code == 404
    assert server.client.get("/v1/batches", headers={"authorization": "Bearer wrong"}).status_code == 401
    paths = server.client.get("/openapi.json").json()["paths"]
    assert set(paths["/v1/files"]) == {"get", "post"}
    assert set(paths["/v1/files/{file_id}"]) == {"get", "delete"}


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="--batch-folder"):
        Store(tmp_path / "file", 1)


# The runner by itself, over an application that answers at once or never


class Answers:
    """An application that repeats the body's text, and stops at the request `stop`."""

    def __init__(self, stop: int | None = None, busy: int = 0) -> None:
        self.stop, self.busy = stop, busy
        self.count = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        if self.busy:
            self.busy -= 1
            status, headers = 429, [(b"retry-after", b"0")]
        else:
            self.count += 1
            if self.stop is not None and self.count > self.stop:
                await asyncio.Event().wait()
            status, headers = 200, []
        headers = [*headers, (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def started(store: Store, count: int) -> StoredBatch:
    file = store.add(jsonl(*(request(f"r{n}", {"n": n}) for n in range(count))), "requests.jsonl")
    moment = int(time.time())
    batch = StoredBatch(
        id="batch_" + "1" * 32, endpoint=PATH, input_file_id=file.id, completion_window="24h",
        created_at=moment, expires_at=moment + 3600,
    )  # fmt: skip
    store.put(batch)
    return batch


def worked(store: Store, answers: Answers, batch: StoredBatch, *, until: Callable[[], bool]) -> StoredBatch:
    async def work() -> None:
        task = asyncio.create_task(running.Runner(store, Asking(answers, None, State())).run())
        while not until():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(asyncio.wait_for(work(), MOST_S))
    return store.batch(batch.id)


def test_a_stopped_batch_goes_on_with_every_request_once(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**6)
    batch = started(store, 50)
    for stop in (running.ABREAST + 3, 1):  # the second process stops in its first group
        answers = Answers(stop=stop)
        left = worked(store, answers, batch, until=lambda answers=answers, stop=stop: answers.count > stop)
        assert left.status == "in_progress"
        assert left.request_counts.completed == running.ABREAST
    output, _ = running.outputs(batch)
    with store.content_path(output).open("ab") as file:
        file.write(b'{"id": "cut off by a ki')
    done = worked(store, Answers(), batch, until=lambda: store.batch(batch.id).is_over)
    assert (done.status, done.request_counts.completed, done.error_file_id) == ("completed", 50, None)
    rows = [json.loads(line) for line in store.content_path(output).read_bytes().splitlines()]
    assert [row["custom_id"] for row in rows] == [f"r{n}" for n in range(50)]
    assert [row["response"]["body"]["n"] for row in rows] == list(range(50))


def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**6)
    batch = started(store, 5)
    done = worked(store, Answers(busy=9), batch, until=lambda: store.batch(batch.id).is_over)
    assert (done.request_counts.completed, done.request_counts.failed) == (5, 0)


@pytest.mark.parametrize("way", ["cancelled", "expired", "failed"])
def test_a_batch_that_ends_early_keeps_what_is_done(tmp_path: Path, way: str) -> None:
    store = Store(tmp_path, 10**6)
    batch = started(store, 50)
    answers = Answers(stop=running.ABREAST)
    batch = worked(store, answers, batch, until=lambda: answers.count > running.ABREAST)
    if way == "cancelled":
        store.ask_to_cancel(batch.id)
    elif way == "expired":
        store.put(replace(batch, expires_at=batch.created_at - 1))
    else:
        store.most = 1
    done = worked(store, Answers(), batch, until=lambda: store.batch(batch.id).is_over)
    assert done.status == way
    assert done.request_counts.completed == running.ABREAST
    assert done.output_file_id is not None
    assert len(store.content_path(done.output_file_id).read_bytes().splitlines()) == running.ABREAST
    if done.errors is not None:
        assert [error.code for error in done.errors.data] == ["storage_full"]


def test_what_is_kept_no_longer_is_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**6)
    old = store.add(b"x", "old", kept_s=0)
    store.add(b"y", "new")
    assert not store.content_path(old.id).exists()
    assert [file.filename for file in store.files()] == ["new"]
    with pytest.raises(ApiError, match="No such File"):
        store.file(old.id)


def test_one_process_of_several_works(tmp_path: Path) -> None:
    store = Store(tmp_path, 10**6)
    batch = started(store, 40)
    first, second = Answers(), Answers()

    async def work() -> None:
        tasks = [
            asyncio.create_task(running.Runner(store, Asking(one, None, State())).run())
            for one in (first, second)
        ]
        while not store.batch(batch.id).is_over:
            await asyncio.sleep(0.01)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    asyncio.run(asyncio.wait_for(work(), MOST_S))
    assert sorted([first.count, second.count]) == [0, 40]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b"{}"),
        ("multipart/form-data", b"--x\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n1"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\nno name\r\n--x--\r\n"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n1\r\n" * 40 + b"--x--"),
        ("", b"--x--"),
    ],
)
def test_bodies_that_are_no_forms_are_refused(kind: str, body: bytes) -> None:
    with pytest.raises(ApiError):
        multipart.read(kind, body)

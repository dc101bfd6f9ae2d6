"""The measuring tools themselves: texts that never change, a client that counts right,
accuracy that is not flattered."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Tree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from bench import (
    chart,
    in_process,
    load,
    over_http,
    prepare,
    report,
    servers,
    shapes,
    stored,
    tables,
    towers,
    works,
)  # fmt: skip
from bench.texts import MIXES, Mix, Source

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nnext"
REFUSAL = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"


def test_texts_are_the_same_every_time():
    assert Source().texts(MIXES[0]) == Source().texts(MIXES[0])
    assert Source(1).texts(MIXES[0]) != Source().texts(MIXES[0])
    assert Source().texts(MIXES[2], 5) == Source().texts(MIXES[2])[:5]
    assert {len(text.split()) for text in Source().texts(works.TWENTY, 30)} == {20}


def test_no_text_comes_twice(tmp_path):
    """Equal texts may be computed once: neither one request nor any later one has a text that came before."""
    source = Source()
    file = prepare.text_file(tmp_path / "texts.json", source, MIXES, times=4)
    drawn = [text for mix in json.loads(file.read_text()).values() for text in mix]
    for case in works.WORKS["minilm"].cases:
        drawn += [text for request in over_http.requests(source, case, seconds=0.2) for text in request]
    assert len(drawn) == len(set(drawn)) > 4 * sum(mix.count for mix in MIXES)


def test_a_rerank_has_a_query_of_its_own():
    """The same one again would find its beginning computed."""
    server = servers.Server("a server", (), "model", "", Path())
    case = works.Case("a rerank", 1, 3, works.PASSAGES, "rerank")
    bodies = over_http.bodies(server, case, over_http.requests(Source(), case, seconds=0.01))
    read = [json.loads(body) for body in bodies]
    assert len({body["query"] for body in read}) == len(read) > 1
    assert all(len(body["documents"]) == 3 and len(body["query"].split()) == 8 for body in read)


def test_texts_that_run_out_are_told():
    source = Source()
    with pytest.raises(ValueError, match="no text of 1 words is left"):
        source.texts(Mix("words", 10_000, 1, 1, ""))


def test_mixes_have_the_lengths_they_claim():
    words = {mix.name: [len(text.split()) for text in Source().texts(mix)] for mix in MIXES}
    assert max(words["queries"]) < min(words["passages"])
    assert min(words["mixed"]) < 10
    assert max(words["mixed"]) > 150


def test_no_text_is_longer_than_the_model_takes():
    """256 tokens: a server refuses a longer one."""
    tokenizer = Tokenizer.from_file(str(prepare.checkpoint() / "tokenizer.json"))
    tokenizer.no_truncation()
    source = Source()
    texts = [source.text(mix) for mix in MIXES for _ in range(1000)]
    assert 200 < max(len(encoding.ids) for encoding in tokenizer.encode_batch(texts)) <= 256


def test_cosine_is_of_each_text():
    reference = np.eye(3, 4, dtype=np.float32)
    other = reference.copy()
    other[1] = [1, 1, 0, 0]
    np.testing.assert_allclose(in_process.cosines(other * 7, reference), [1, np.sqrt(0.5), 1])


@pytest.mark.parametrize(
    ("value", "text"), [(0.123456, "0.12"), (12.345, "12.3"), (1234.5, "1 234"), (4, "4.00")]
)
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_children_count_as_the_servers_own():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
    try:
        while len(servers.tree(process.pid)) < 2:
            assert process.poll() is None
        assert servers.cpu_seconds(process.pid) >= 0
        assert servers.resident_mib(process.pid) > 1
    finally:
        process.communicate(b"\n")


@pytest.mark.parametrize(("reply", "good"), [(ANSWER, True), (REFUSAL, False)], ids=["answers", "refusals"])
@pytest.mark.parametrize("pieces", [1, 3], ids=["whole", "in pieces"])
def test_client_counts_answers_and_failures(reply, good, pieces):
    """Against a server of our own that sends `reply`, whole or in pieces."""

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data):
            length = -(-len(reply) // pieces)
            for number in range(pieces):
                asyncio.get_running_loop().call_soon(
                    self.transport.write, reply[number * length : (number + 1) * length]
                )

        def connection_lost(self, exc):
            gone.release()

    gone = asyncio.Semaphore(0)

    async def measure() -> dict:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            requests = [b"POST / HTTP/1.1\r\n\r\n"] * 100_000
            drive = load.Load(requests, server.sockets[0].getsockname()[1])
            found = await load.drive(drive, connections=2, warm_s=0, seconds=0.1, pid=os.getpid())
            for _ in range(2):
                await gone.acquire()
        return found

    found = asyncio.run(measure())
    assert found["failures" if good else "answered"] == 0
    assert found["answered" if good else "failures"] == len(found["latencies_s"]) > 0
    assert bool(found["problem"]) != good


def test_a_measurement_ends_where_its_requests_do():
    """No request is sent twice, however long it was to last."""
    received: list[bytes] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data):
            received.append(data)
            self.transport.write(ANSWER)

        def connection_lost(self, exc):
            gone.release()

    gone = asyncio.Semaphore(0)
    requests = [b"POST /%d HTTP/1.1\r\n\r\n" % number for number in range(50)]

    async def measure() -> dict:
        server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
        async with server:
            drive = load.Load(requests, server.sockets[0].getsockname()[1])
            result = await load.drive(drive, connections=2, warm_s=0, seconds=3600, pid=os.getpid())
            for _ in range(2):
                await gone.acquire()
        return result

    result = asyncio.run(measure())
    assert sorted(received) == sorted(requests)
    assert 0 < result["answered"] <= 50


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("base", "[SEP]"),
        ("long", "[SEP]"),
        ("large", "</s>"),
        ("decoder", "<|endoftext|>"),
        ("reranker", None),
    ],
)
def test_shapes_have_their_family_s_tokens(tmp_path, name, ends):
    """Also where BERT's own vocabulary is not at hand."""
    place = shapes.write(name, tmp_path, tokenizer=None, tiny=True)
    config = json.loads((place / "config.json").read_text())
    tokens = Tokenizer.from_file(str(place / "tokenizer.json")).encode("Mars looks red, yes or no").tokens
    assert (tokens[-1] == ends) if ends else tokens[-1].endswith("no")
    assert len(tokens) < 20
    assert config["num_hidden_layers"] == 2
    assert config["vocab_size"] == shapes.SHAPES[name].settings.get("vocab_size", config["vocab_size"])
    assert (place / "modules.json").exists() == (name != "reranker")
    stamp = (place / "config.json").stat().st_mtime_ns
    assert shapes.write(name, tmp_path, tokenizer=None, tiny=True) == place
    assert (place / "config.json").stat().st_mtime_ns == stamp, "it is not written again"


def test_works_are_named():
    assert [work.name for work in works.chosen("base,long,decoder")] == [
        "base",
        "long",
        "decoder",
        "reranker",
    ]
    assert [work.name for work in works.chosen("all")] == list(works.WORKS)
    with pytest.raises(SystemExit, match="no work bert; it has all, minilm"):
        works.chosen("base,bert")


def test_the_basis_is_vllm_in_bf16():
    labels = ("poolrt fp32", "vLLM float32", "vLLM bfloat16")
    listed = [servers.Server(label, (), "model", "", Path()) for label in labels]
    case = works.Case("a request", 1, 1, works.TWENTY)
    measured = {
        (label, 0): over_http.Measured(texts_per_s=[rate])
        for label, rate in zip(labels, (30.0, 10.0, 20.0), strict=True)
    }
    assert tables.ratios(listed, [case], measured) == [
        ("a request", "poolrt fp32", 1.5),
        ("a request", "vLLM float32", 0.5),
        ("a request", "vLLM bfloat16", 1.0),
    ]


def piece(name: str, **more: Any) -> stored.Piece:
    facts = {"date": "today", "load": f"of {name}"}
    return stored.Piece(name, f"Title of {name}", f"what {name} is", facts, ["| a table |"], **more)


def test_the_report_is_made_of_what_was_kept(tmp_path):
    whole = piece("base", bars=[chart.Bar("1 text", "poolrt auto", 2.0)], is_complete=True)
    broken = piece("large", missing=["vLLM (it ended)"])
    for kept in (whole, broken):
        kept.keep(tmp_path)
    assert stored.read(tmp_path, "base") == whole
    assert stored.read(tmp_path, "long") is None
    out = tmp_path / "RESULTS.md"
    stored.write(out, [whole, broken])
    text = out.read_text()
    assert text.count("- date: today") == 1
    assert text.index("- load: of base") < text.index("Title of large") < text.index("- load: of large")
    assert "Left out: vLLM (it ended)." in text
    assert text.count("was not measured to its end") == 1
    assert "2.00×" in out.with_suffix(".svg").read_text()


def test_an_artifact_is_exported_again_where_the_exporter_or_the_checkpoint_changed(tmp_path, monkeypatch):
    exports: list[list[str]] = []

    def export(command: list[str], **_: object) -> Any:
        exports.append(command)
        place = tmp_path / "out" / command[command.index("--name") + 1]
        place.mkdir(parents=True)
        (place / "manifest.json").touch()
        return subprocess.CompletedProcess(command, 0, stdout="")

    monkeypatch.setattr(prepare.subprocess, "run", export)
    monkeypatch.setattr(prepare, "ROOT", tmp_path)
    source, code = tmp_path / "checkpoint", tmp_path / "exporter" / "x.py"
    for path in (source / "config.json", source / "tokenizer.json", code):
        path.parent.mkdir(exist_ok=True)
        path.write_text("first")
    for _ in range(2):
        assert prepare.artifact(source, "int8", tmp_path / "out", name="m") == tmp_path / "out/m-int8"
    assert len(exports) == 1
    for path in (code, source / "config.json"):
        path.write_text("second")
        prepare.artifact(source, "int8", tmp_path / "out", name="m")
    assert len(exports) == 3
    monkeypatch.setattr(
        prepare.subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 3, stdout="no")
    )
    with pytest.raises(RuntimeError, match="ended with 3"):
        prepare.artifact(source, "fp32", tmp_path / "out", name="m")


def test_a_peer_that_fails_costs_only_itself():
    class Simulated(in_process.Peer):
        def __init__(self, label: str, *, fails: bool) -> None:
            self.label, self.fails = label, fails

        def ask(self, **request: object) -> dict[str, float]:
            if self.fails:
                raise RuntimeError("it ended")
            return {"seconds": 1.0, "cpu_s": 0.5, "resident_mib": 7.0}

    peers: list[in_process.Peer] = [Simulated("a", fails=False), Simulated("b", fails=True)]
    missing: list[str] = []
    cases = [in_process.Case("mix", False, 2, "texts")]
    measured = in_process.run(peers, cases, rounds=2, say=lambda _: None, missing=missing)
    assert [peer.label for peer in peers] == ["a"]
    assert measured["a", 0].seconds == [1.0, 1.0]
    assert missing == ["b failed while it was measured (it ended)"]


def test_pictures_differ_and_their_tower_has_a_published_size():
    first, second = towers.picture("1"), towers.picture("2")
    assert first.shape == (towers.HEIGHT, towers.WIDTH, 3)
    assert (first != second).any()
    np.testing.assert_array_equal(first, towers.picture("1"))
    assert {work.tower for work in works.WORKS.values()} == {None, "siglip", "qwen3-vl"}


def test_vocabularies_have_the_published_size(tmp_path):
    shapes._words(tmp_path, shapes.SHAPES["decoder"], 5000)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 5000 - shapes.SPARE
    text = "Mars looks red because of its dust"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert max(tokenizer.encode(text).ids) < shapes.PIECES


def test_the_chart_has_a_bar_for_each_ratio():
    bars = [chart.Bar("1 text", "poolrt <fp32>", 2.0), chart.Bar("1 text", "vLLM", 1.0)]
    picture = Tree.fromstring(chart.drawn("ratios", [("BERT-base", bars)]))
    boxes = [box for box in picture.iter("{http://www.w3.org/2000/svg}rect") if box.get("y")]
    widths = [float(box.attrib["width"]) for box in boxes]
    assert widths[0] == pytest.approx(2 * widths[1])
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"poolrt <fp32>", "2.00×", "1.00×", "BERT-base", "ratios"} <= set(texts)
    (line,) = picture.iter("{http://www.w3.org/2000/svg}line")
    assert float(line.attrib["x1"]) == pytest.approx(chart.LEFT + widths[1])

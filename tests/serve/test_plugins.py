"""IO processors over HTTP: the answers of a real vLLM with its reference plugins, foreign
plugins, and what they do wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.loader import load
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.process.startup import models_of, plugins_of

from tests.conftest import exported
from tests.serve.cases import TEXT, TEXTS
from tests.serve.conftest import Live, live
from tests.serve.plugin_cases import SERVERS, marked_colbert

GOLDENS = Path(__file__).parent.parent / "goldens" / "plugins"
RECORDED = {name: json.loads((GOLDENS / f"{name}.json").read_text())["answers"] for name in SERVERS}
# Absolute; the recorded numbers have six digits, float32 sums of another engine differ in the last two
CLOSE = 2e-5

# What clients may look for; the rest is said in words of our own.
SAME_WORDS = (
    "Please reduce the length of the input prompt.",
    "You must pass at least one prompt",
    "out of vocabulary",
    "does not exist.",
)


@pytest.fixture(scope="module")
def servers(artifacts: Callable[[str], Path]) -> Iterator[dict[str, Live]]:
    folders = {"bge_m3": artifacts("bge_m3"), "marked_colbert": exported("marked_colbert", marked_colbert)}
    # vLLM takes a priority without its policy too, which its documentation calls an error.
    models = [
        load(folders[name], threads=1, check="quick", io_processor_plugin=server.plugin,
             scheduling_policy="priority")
        for name, server in SERVERS.items()
    ]  # fmt: skip
    with live(models[0], names=("m",)) as first, live(models[1], names=("m",)) as second:
        yield {"bge_m3": first, "marked_colbert": second}
    for model in models:
        model.close()


CASES = [(name, *case) for name, server in SERVERS.items() for case in server.cases]


@pytest.mark.parametrize(
    ("server", "name", "path", "body"), CASES, ids=[f"{server}-{name}" for server, name, *_ in CASES]
)
def test_vllm_answers_the_same(servers: dict[str, Live], server: str, name: str, path: str, body: Any):
    expected = RECORDED[server][name]
    got = servers[server].post(path, body)
    assert got.status_code == expected["status"], got.text
    if got.status_code == 200:
        same(got.json(), expected["json"])
        return
    told, ours = expected["json"]["error"], got.json()["error"]
    assert (ours["type"], ours["code"], ours["param"]) == (told["type"], told["code"], told["param"])
    assert all(words in ours["message"] for words in SAME_WORDS if words in told["message"])
    assert "\n" not in ours["message"]


def same(ours: Any, expected: Any) -> None:
    """The same keys, lengths and texts; numbers that are close; ids and times of their own."""
    assert type(ours) is type(expected) or {type(ours), type(expected)} == {int, float}
    if isinstance(expected, dict):
        assert list(ours) == list(expected)
        for key, value in expected.items():
            if key == "request_id":
                assert ours[key].startswith("pooling-")
            elif key != "created_at":
                same(ours[key], value)
    elif isinstance(expected, list):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            same(one, other)
    elif isinstance(expected, float):
        assert ours == pytest.approx(expected, abs=CLOSE)
    else:
        assert ours == expected


# Plugins of other people, over HTTP: one that works in the event loop, and one that does what it should not.
FOREIGN = """
import threading
from dataclasses import dataclass


class Sum:
    def __init__(self, config, renderer):
        self.steps = []

    async def pre_process_async(self, prompt, request_id=None, **kwargs):
        self.steps.append(("pre", request_id, threading.current_thread().name))
        return prompt["texts"]

    async def post_process_async(self, model_output, request_id=None, **kwargs):
        self.steps.append(("post", request_id, threading.current_thread().name))
        found = sorted([(index, one) async for index, one in model_output])
        return {1: [float(one.outputs.data.sum()) for _, one in found], "data": Dumped()}


class Dumped:
    def model_dump(self, mode):
        return {"mode": mode, "bad": float("nan")}


class Faulty:
    def __init__(self, config, renderer):
        pass

    def pre_process(self, prompt, request_id=None):
        if prompt == "early":
            raise RuntimeError("secret of /root/file.py")
        return "a text"

    def post_process(self, outputs, request_id=None):
        if prompt_is_late:
            raise ValueError("secret of /root/file.py")
        return object()


prompt_is_late = True
"""
POINTS = "[vllm.io_processor_plugins]\nsum = http_plugin:Sum\nfaulty = http_plugin:Faulty\n"


@pytest.fixture(scope="module")
def foreign(artifacts: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "http_plugin.py").write_text(FOREIGN)
    (facts := folder / "http_plugin-1.0.dist-info").mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: http-plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(POINTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        models = [
            load(artifacts("minilm_like"), threads=1, check="quick", io_processor_plugin=name)
            for name in ("sum", "faulty")
        ]
        with live(*models, names=("sum", "faulty")) as server:
            yield server
        for model in models:
            model.close()


def test_asynchronous_steps_run_in_the_event_loop(foreign: Live):
    body = {"model": "sum", "data": {"texts": TEXTS}}
    got = foreign.ask("/pooling", body, headers={"X-Request-Id": "abc"})
    vectors = foreign.ask("/v1/embeddings", {"model": "sum", "input": TEXTS})["data"]
    assert got["request_id"] == "pooling-abc"
    assert got["data"]["1"] == pytest.approx([sum(one["embedding"]) for one in vectors], abs=1e-5)
    assert got["data"]["data"] == {"mode": "json", "bad": None}
    plugin = foreign.here.registry.models[0].model.plugin
    assert plugin is not None
    (pre, first, thread), (post, second, other) = plugin.processor.steps
    assert (pre, post, first, second) == ("pre", "post", "pooling-abc", "pooling-abc")
    assert thread == other
    assert not thread.startswith("poolrt")
    told = foreign.refused("/pooling", {"model": "sum", "data": {}})
    assert told["message"] == "data: not what the plugin 'sum' takes: 'texts' is missing"


@pytest.mark.parametrize("data", ["early", "late"])
def test_a_fault_of_a_plugin_is_a_500_that_says_nothing(
    foreign: Live, data: str, caplog: pytest.LogCaptureFixture
):
    told = foreign.refused("/pooling", {"model": "faulty", "data": data}, 500)
    assert told["message"] == "the IO processor failed; the server's log says why"
    assert "secret" in caplog.text


def test_what_is_no_json_is_a_500_too(foreign: Live, monkeypatch: pytest.MonkeyPatch):
    import http_plugin  # pyright: ignore[reportMissingImports]

    monkeypatch.setattr(http_plugin, "prompt_is_late", False)
    told = foreign.refused("/pooling", {"model": "faulty", "data": "x"}, 500)
    assert told["message"] == "the IO processor failed; the server's log says why"


def test_a_plugin_model_answers_every_other_task_too(servers: dict[str, Live]):
    server = servers["bge_m3"]
    both = server.ask("/pooling", {"data": {"input": TEXT}})["data"]["data"][0]
    assert server.ask("/v1/embeddings", {"input": TEXT})["data"][0]["embedding"] == pytest.approx(
        both["dense_embedding"], abs=1e-6
    )
    weights = server.ask("/pooling", {"input": TEXT, "task": "token_classify"})["data"][0]["data"]
    assert weights == pytest.approx([one["weight"] for one in both["sparse_embedding"]], abs=1e-6)
    told = server.refused("/pooling", {"input": TEXT, "task": "plugin"})
    assert "needs a 'data' field" in told["message"]
    assert (
        server.refused("/pooling", {"input": TEXT, "task": "embed&token_classify"})["type"]
        == "BadRequestError"
    )


def test_many_requests_at_once_keep_their_own_answers(servers: dict[str, Live]):
    from concurrent.futures import ThreadPoolExecutor

    server = servers["marked_colbert"]
    texts = [" ".join(TEXTS[: 1 + index % 3]) for index in range(24)]

    def lengths(text: str) -> list[int]:
        data = server.ask("/pooling", {"data": {"input": [text, text + " mars"], "input_type": "document"}})[
            "data"
        ]["data"]
        return [len(one["embedding"]) for one in data]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lengths, texts))
    assert found == [lengths(text) for text in texts]


def test_the_flag_names_a_plugin_for_each_artifact(artifacts: Callable[[str], Path]):
    first, second = str(artifacts("bge_m3")), str(artifacts("minilm_like"))
    asked, notes = parse([first, second, "--io-processor-plugin", "bge_m3_sparse_plugin"])
    assert (plugins_of(asked), notes) == ({first: "bge_m3_sparse_plugin"}, [])
    asked, _ = parse([first, second, "--io-processor-plugin", f"x={second}", "y"])
    assert plugins_of(asked) == {first: "y", second: "x"}
    for given, told in ((["x", "y"], "one plugin"), (["x=elsewhere"], "none of the artifacts given")):
        asked, _ = parse([first, second, "--io-processor-plugin", *given])
        with pytest.raises(InputError, match=told):
            plugins_of(asked)
    asked, _ = parse([first, "--io-processor-plugin", "bge_m3_sparse_plugin"])
    registry = models_of(asked, settings_of(asked)).registry
    registry.open()
    assert registry.models[0].model.plugin is not None
    registry.close()


def test_a_plugin_that_cannot_be_ends_the_command(
    artifacts: Callable[[str], Path], caplog: pytest.LogCaptureFixture
):
    assert (
        serve([str(artifacts("minilm_like")), "--port", "0", "--io-processor-plugin", "nobody"]) == EXIT_INPUT
    )
    assert "'nobody': there is no such plugin" in caplog.text

"""What the log tells: prompts where they are asked for and not otherwise, in the form that the operator's file says."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import EXIT_INPUT
from poolrt.runtime.model import Model
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.settings import Settings

from tests.serve.cases import TEXT
from tests.serve.conftest import Live, live
from tests.serve.test_cli import SOON_S, started, wait_until_ready

SECRET = "secret\nof paris"
# route, body, what is logged of it at ten characters, the key of the answer's id
ASKED: list[tuple[str, dict[str, Any], str, str | None]] = [
    ("/v1/embeddings", {"input": [SECRET, "mars"]}, "['secret\\nof ', 'mars']", "id"),
    ("/v1/embeddings", {"input": list(range(6, 30))}, "[[6, 7, 8, 9, 10, 11, 12, 13, 14, 15]]", "id"),
    ("/v2/embed", {"texts": [SECRET]}, "['secret\\nof ']", "id"),
    ("/pooling", {"input": SECRET, "task": "token_embed"}, "['secret\\nof ']", "id"),
    ("/invocations", {"input": SECRET}, "['secret\\nof ']", "id"),
    ("/score", {"text_1": SECRET, "text_2": ["mars", SECRET]}, "['secret\\nof ', ['mars', 'secret\\nof ']]", "id"),
    ("/rerank", {"query": SECRET, "documents": ["mars"]}, "['secret\\nof ', ['mars']]", "id"),
    ("/embed", {"inputs": SECRET}, "['secret\\nof ']", None),
    ("/embed_all", {"inputs": [SECRET]}, "['secret\\nof ']", None),
    ("/rerank", {"query": SECRET, "texts": ["mars"]}, "['secret\\nof ', ['mars']]", None),
    ("/similarity", {"inputs": {"source_sentence": SECRET, "sentences": ["mars"]}}, "['secret\\nof ', 'mars']", None),
]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "poolrt.serve"]


@pytest.mark.parametrize(("route", "body", "told", "key"), ASKED, ids=[f"{index}{route}" for index, (route, *_) in enumerate(ASKED)])
def test_prompts_are_logged_where_they_are_asked_for(
    models: Callable[[str], Model], caplog: pytest.LogCaptureFixture, route: str, body: Any, told: str, key: str | None
):
    caplog.set_level(logging.INFO, "poolrt.serve")
    with live(models("minilm_like"), settings=Settings(log_requests=True, max_log_length=10)) as server:
        answer = server.ask(route, body)
        (line,) = lines(caplog)
        assert line.endswith(f": model minilm_like, inputs {told}")
        assert "\n" not in line
        assert key is None or line.startswith(f"request {answer[key]}: ")


def test_nothing_of_a_prompt_is_logged_unasked(embedder: Live, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.DEBUG)
    for route, body, *_ in ASKED:
        embedder.ask(route, body)
    assert "secret" not in caplog.text


def test_prompts_of_classifiers_and_plugins_are_logged_too(artifacts: Callable[[str], Path], models: Callable[[str], Model], caplog: Any):
    from poolrt.runtime.model import load

    caplog.set_level(logging.INFO, "poolrt.serve")
    with load(artifacts("bge_m3"), threads=1, io_processor_plugin="bge_m3_sparse_plugin") as plugin:
        settings = Settings(log_requests=True, max_log_length=0)
        with live(models("bert_classifier"), plugin, settings=settings, names=("classes", "m3")) as server:
            server.ask("/classify", {"input": TEXT})
            server.ask("/predict", {"inputs": TEXT})
            server.ask("/embed_sparse", {"inputs": TEXT, "model": "m3"})
            server.ask("/pooling", {"data": {"input": TEXT}, "model": "m3"})
    assert [line.partition(": ")[2] for line in lines(caplog)] == [
        "model classes, inputs ['']", "model classes, inputs ['']", "model m3, inputs ['']", "model m3, inputs ['']",
    ]  # fmt: skip


def test_the_flags_set_what_is_logged(capsys: pytest.CaptureFixture[str]):
    assert settings_of(parse(["m"])[0]).log_requests is False
    asked, notes = parse(["m", "--enable-log-requests", "--max-log-len", "0"])
    assert (settings_of(asked).log_requests, settings_of(asked).max_log_length, notes) == (True, 0, [])
    assert serve(["m", "--max-log-len", "-1"]) == EXIT_INPUT
    assert "expected 0 or more, found -1" in capsys.readouterr().err


def test_a_file_says_how_the_log_looks(artifacts: Callable[[str], Path], tmp_path: Path):
    config = {
        "version": 1,
        "formatters": {
            "own": {"format": '{"from": "%(name)s", "told": "%(message)s"}'},
            "uvicorn": {"()": "uvicorn.logging.DefaultFormatter"},
        },
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "log"), "formatter": "own"}},
        "root": {"handlers": ["file"], "level": "INFO"},
    }
    (tmp_path / "log.json").write_text(json.dumps(config))
    process, url = started(str(artifacts("minilm_like")), "--log-config-file", str(tmp_path / "log.json"))
    try:
        wait_until_ready(process, url)
        process.terminate()
        _, told = process.communicate(timeout=SOON_S)
    finally:
        process.kill()
    assert told == ""
    found = (tmp_path / "log").read_text()
    assert '{"from": "poolrt.serve", "told": "serving at' in found
    assert '{"from": "uvicorn.access", "told": "' in found


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "not readable (FileNotFoundError); expected JSON"),
        ("version: 1", "not readable (JSONDecodeError); expected JSON"),
        ("[]", "found list; expected JSON as logging.config.dictConfig takes it, an object"),
        ('{"version": 2}', "Unsupported version: 2"),
        ('{"handlers": {"a": {"class": "no.such.Handler"}}}', "Unable to configure handler 'a' ("),
        ('{"root": {"handlers": ["nobody"]}}', "Unable to configure root logger ("),
    ],
    ids=["missing", "yaml", "list", "version", "class", "handler"],
)
def test_a_file_that_says_nothing_usable_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str):
    path = tmp_path / "log.json"
    if text is not None:
        path.write_text(text)
    assert serve(["m", "--log-config-file", str(path)]) == EXIT_INPUT
    found = capsys.readouterr().err
    assert found.startswith(f"poolrt serve: --log-config-file {path}: ")
    assert told in found
    assert found.count("\n") == 1

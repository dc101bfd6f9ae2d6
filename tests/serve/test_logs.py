"""What the log tells: prompts where they are asked for and not otherwise, in the form that
the operator's file says."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from poolrt.runtime.errors import EXIT_INPUT, InputError
from poolrt.runtime.model import Model
from poolrt.serve import cli as serve_cli
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.json_logs import JsonLines, json_error
from poolrt.serve.logs import LOGGERS, Quiet
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
    (
        "/score",
        {"text_1": SECRET, "text_2": ["mars", SECRET]},
        "['secret\\nof ', ['mars', 'secret\\nof ']]",
        "id",
    ),
    ("/rerank", {"query": SECRET, "documents": ["mars"]}, "['secret\\nof ', ['mars']]", "id"),
    ("/embed", {"inputs": SECRET}, "['secret\\nof ']", None),
    ("/embed_all", {"inputs": [SECRET]}, "['secret\\nof ']", None),
    ("/rerank", {"query": SECRET, "texts": ["mars"]}, "['secret\\nof ', ['mars']]", None),
    (
        "/similarity",
        {"inputs": {"source_sentence": SECRET, "sentences": ["mars"]}},
        "['secret\\nof ', 'mars']",
        None,
    ),
]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "poolrt.serve"]


@pytest.mark.parametrize(
    ("route", "body", "told", "key"),
    ASKED,
    ids=[f"{index}{route}" for index, (route, *_) in enumerate(ASKED)],
)
def test_prompts_are_logged_where_they_are_asked_for(
    models: Callable[[str], Model],
    caplog: pytest.LogCaptureFixture,
    route: str,
    body: Any,
    told: str,
    key: str | None,
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


def test_prompts_of_classifiers_and_plugins_are_logged_too(
    artifacts: Callable[[str], Path], models: Callable[[str], Model], caplog: Any
):
    from poolrt.runtime.loader import load

    caplog.set_level(logging.INFO, "poolrt.serve")
    with load(artifacts("bge_m3"), threads=1, io_processor_plugin="bge_m3_sparse_plugin") as plugin:
        settings = Settings(log_requests=True, max_log_length=0)
        with live(models("bert_classifier"), plugin, settings=settings, names=("classes", "m3")) as server:
            server.ask("/classify", {"input": TEXT})
            server.ask("/predict", {"inputs": TEXT})
            server.ask("/embed_sparse", {"inputs": TEXT, "model": "m3"})
            server.ask("/pooling", {"data": {"input": TEXT}, "model": "m3"})
    assert [line.partition(": ")[2] for line in lines(caplog)] == [
        "model classes, inputs ['']", "model classes, inputs ['']", "model m3, inputs ['']",
        "model m3, inputs ['']",
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
        "handlers": {
            "file": {"class": "logging.FileHandler", "filename": str(tmp_path / "log"), "formatter": "own"}
        },
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
def test_a_file_that_says_nothing_usable_ends_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None, told: str
):
    path = tmp_path / "log.json"
    if text is not None:
        path.write_text(text)
    assert serve(["m", "--log-config-file", str(path)]) == EXIT_INPUT
    found = capsys.readouterr().err
    assert found.startswith(f"poolrt serve: --log-config-file {path}: ")
    assert told in found
    assert found.count("\n") == 1


def test_a_record_for_machines_is_one_object():
    record = logging.LogRecord("poolrt.serve", logging.WARNING, "x.py", 1, "%s is \u00e4", ("it",), None)
    record.created = 1_700_000_000.25
    line = JsonLines().format(record)
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250+00:00", "level": "warning", "logger": "poolrt.serve",
        "message": "it is \u00e4",
    }  # fmt: skip
    assert "\u00e4" in line, "readable, not escaped"
    try:
        raise ValueError("why")
    except ValueError:
        record.exc_info = sys.exc_info()
    exception = json.loads(JsonLines().format(record))["exception"]
    assert exception.startswith("Traceback")
    assert exception.endswith("ValueError: why")


def test_an_error_for_machines_has_its_class_and_exit_code():
    assert json.loads(json_error(InputError("no \u00e4"), 2)) == {
        "error": {"type": "InputError", "message": "no \u00e4", "exit_code": 2}
    }
    assert "\u00e4" in json_error(InputError("no \u00e4"), 2)


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/health", False),
        ("/health?x=1", False),
        ("/metrics", False),
        ("/healthy", True),
        ("/", True),
        ("", True),
    ],
)
def test_quiet_paths_are_left_out_of_the_access_log(path: str, shown: bool):
    record = logging.LogRecord(
        "uvicorn.access", logging.INFO, "x", 1, "", ("127.0.0.1:1", "GET", path, "1.1", 200), None
    )
    assert Quiet(" /health, /metrics ,").filter(record) is shown
    assert Quiet("").filter(record) is True
    record.args = None
    assert Quiet("/health").filter(record) is True


def test_a_fault_of_ours_is_logged_with_its_stack_and_told_to_nobody(
    embedder: Live, caplog: Any, monkeypatch: pytest.MonkeyPatch
):
    def fails(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret")

    for name in ("start", "start_score", "start_rerank"):
        monkeypatch.setattr(Model, name, fails)
    for route, body, status in (
        ("/v1/embeddings", {"input": TEXT}, 500), ("/embed", {"inputs": TEXT}, 424),
        ("/rerank", {"query": TEXT, "texts": [TEXT]}, 424),
        ("/rerank", {"query": TEXT, "documents": [TEXT]}, 500),
    ):  # fmt: skip
        caplog.clear()
        got = embedder.post(route, body)
        assert got.status_code == status, got.text
        assert "secret" not in got.text
        (record,) = [record for record in caplog.records if record.exc_info]
        assert record.exc_info[0] is ZeroDivisionError
        assert record.getMessage() == f"POST {route} failed: ZeroDivisionError"


def test_every_module_writes_to_a_logger_that_is_configured():
    """Under another name its lines would miss the filter of control characters and the operator's file."""
    package = Path(str(serve_cli.__file__)).parent
    names = re.findall(
        r"""getLogger\(["'](.*?)["']\)""",
        "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py")),
    )
    assert len(names) > 5
    assert set(names) <= set(LOGGERS)


def json_lines(stream: io.StringIO, count: int) -> list[dict[str, Any]]:
    """The lines of the access log, of which there are `count`: a client has its answer before its line."""
    for _ in range(1000):
        if stream.getvalue().count("\n") >= count:
            break
        threading.Event().wait(0.005)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def access() -> Iterator[io.StringIO]:
    """What the access log writes in JSON."""
    logger = logging.getLogger("uvicorn.access")
    handler = logging.StreamHandler(stream := io.StringIO())
    handler.setFormatter(JsonLines())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_each_request_has_a_line_with_its_id_model_and_duration(
    models: Callable[[str], Model], access: io.StringIO
):
    settings = Settings(log_format="json", request_id_headers=True)
    with live(models("minilm_like"), settings=settings) as server:
        answer = server.ask("/v1/embeddings?api=1", {"input": [TEXT, "mars"]}, headers={"X-Request-Id": "a"})
        got = server.post("/v1/embeddings", {"input": "mars"})
        server.refused("/v1/embeddings", {"input": []})
        server.post("/nothing", {})
        first, second, empty, absent = json_lines(access, 4)
    assert list(first) == [
        "time", "level", "logger", "message", "request_id", "client", "method", "path", "route", "status",
        "duration_s", "model", "prompts", "tokens", "tokenise_s", "queue_s", "engine_s",
    ]  # fmt: skip
    assert (first["request_id"], first["method"], first["path"], first["route"], first["status"]) == (
        "a", "POST", "/v1/embeddings", "/v1/embeddings", 200,
    )  # fmt: skip
    assert (first["model"], first["prompts"], first["tokens"]) == (
        "minilm_like", 2, answer["usage"]["total_tokens"],
    )  # fmt: skip
    assert first["message"].endswith('"POST /v1/embeddings?api=1 HTTP/1.1" 200')
    assert 0 < first["engine_s"] < first["duration_s"] < 60
    # The same id stands in the answer, its header and the log.
    assert second["request_id"] == got.headers["x-request-id"]
    assert got.json()["id"] == f"embd-{second['request_id']}"
    assert (empty["status"], empty["reason"], empty["model"]) == (400, "invalid", "minilm_like")
    assert (absent["status"], absent["reason"]) == (404, "not_found")
    assert "route" not in absent
    assert "model" not in absent


def test_no_client_forges_a_line_in_json(models: Callable[[str], Model], access: io.StringIO):
    with live(models("minilm_like"), settings=Settings(log_format="json")) as server:
        server.client.get("/no%0Athing%1b", headers={"X-Request-Id": "a\tb"})
        (line,) = json_lines(access, 1)
    assert line["path"] == "/no\\nthing\\x1b"
    assert line["request_id"] == "a\\tb"
    assert "\n" not in line["message"]


def test_a_process_logs_json_lines_and_nothing_else(artifacts: Callable[[str], Path], tmp_path: Path):
    process, url = started(
        str(artifacts("minilm_like")), "--log-format", "json", "--seed", "1",
        "--disable-access-log-for-endpoints", "/ready",
    )  # fmt: skip
    try:
        wait_until_ready(process, url)
        httpx.post(f"{url}/v1/embeddings", json={"input": TEXT}, headers={"X-Request-Id": "mine"})
        httpx.get(f"{url}/ready")
        process.terminate()
        _, err = process.communicate(timeout=SOON_S)
    finally:
        process.kill()
    entries = [json.loads(line) for line in err.splitlines()]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, entries))
    (request,) = [entry for entry in entries if entry.get("path") == "/v1/embeddings"]
    assert (request["request_id"], request["status"]) == ("mine", 200)
    assert not [entry for entry in entries if entry.get("path") == "/ready"]
    assert any(entry["message"].startswith("--seed has no effect here") for entry in entries)


def test_an_error_at_the_start_is_a_line_of_json_too(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []
    try:
        assert serve([str(tmp_path / "absent"), "--log-format", "json", "--port", "0"]) == EXIT_INPUT
    finally:
        root.handlers = handlers
        logging.captureWarnings(False)
    lines_of_error = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert lines_of_error[-1]["level"] == "critical"
    assert "absent" in lines_of_error[-1]["message"]


@pytest.mark.parametrize(
    ("arguments", "variables"),
    [
        (["--log-format", "json", "--threads", "two"], {}),
        (["--log_format=json"], {"POOLRT_THREADS": "two"}),
        (["--json"], {"POOLRT_THREADS": "two"}),
        ([], {"POOLRT_LOG_FORMAT": "json", "POOLRT_THREADS": "two"}),
        ([], {"POOLRT_SERVE_LOG_FORMAT": "json", "POOLRT_LOG_FORMAT": "text", "POOLRT_THREADS": "two"}),
    ],
)
def test_what_is_wrong_with_arguments_is_a_line_of_json(
    arguments: list[str], variables: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    assert serve([*arguments, "some/artifact"], variables) == EXIT_INPUT
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["level"] == "critical"
    assert "expected a whole number" in json.loads(line)["message"]


def test_text_stays_text(capsys: pytest.CaptureFixture[str]):
    variables = {"POOLRT_LOG_FORMAT": "json", "POOLRT_THREADS": "two"}
    assert serve(["--log-format", "text", "some/artifact"], variables) == EXIT_INPUT
    assert capsys.readouterr().err.startswith("poolrt serve: POOLRT_THREADS: expected")

"""What a client may learn from an error, and in which form."""

from __future__ import annotations

from typing import Any

import pytest
from poolrt.runtime.errors import (
    ArtifactError,
    DeadlineExceeded,
    EngineError,
    InputError,
    Overload,
    UnsupportedTask,
)
from poolrt.serve.errors import (
    MOST_MESSAGE,
    ApiError,
    api_error,
    error_body,
    error_response,
    scrub,
    surprising,
)
from poolrt.serve.http.request_body import parse

from tests.serve.conftest import Live


@pytest.mark.parametrize(
    ("message", "clean"),
    [
        ("cannot open /home/ann/models/x.onnx", "cannot open <path>"),
        ("see /usr/lib/python3.11/site-packages/a/b.py for more", "see <path> for more"),
        ("bad '/var/tmp/a b'", "bad '<path> b'"),
        ("/data/model.safetensors is broken", "<path> is broken"),
        ("/a/b.ext", "<path>"),
        ("<Thing at 0x7f00deadbeef> failed", "<Thing> failed"),
        ("use /v1/embeddings or /tokenize", "use /v1/embeddings or /tokenize"),
        ("no scheme in https://example.org/a/b", "no scheme in https://example.org/a/b"),
        ("Traceback (most recent call last):\n  File \"x.py\", line 3, in f\nValueError: no",
        "ValueError: no"),
        ("a ratio of 3/4", "a ratio of 3/4"),
        ("see ../serve/app.py", "see ..<path>"),
        ("\n\nFile \"x.py\", line 3\nno", "no"),
        ("-/" * 9, "-/" * 9),
    ],
)  # fmt: skip
def test_messages_are_scrubbed(message, clean):
    assert scrub(message) == clean


@pytest.mark.parametrize("words", ["-/", "\n", "/a.b", " at 0x0", "/home/", "a"])
def test_what_a_client_wrote_is_not_sent_back_without_end(words: str):
    # A pattern that read a run of path characters from each of them would take minutes.
    clean = scrub("no such prompt: " + words * 1_000_000)
    assert len(clean) < MOST_MESSAGE + 100
    assert "characters more" in clean or words == "/home/"


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InputError("no", field="input_tokens"), 400, "BadRequestError"),
        (UnsupportedTask("no"), 400, "BadRequestError"),
        (Overload("full", retry_after_s=2.4), 429, "RateLimitError"),
        (DeadlineExceeded("late"), 504, "TimeoutError"),
        (EngineError("secret"), 500, "InternalServerError"),
        (ArtifactError("secret"), 500, "InternalServerError"),
        (KeyError("secret"), 500, "InternalServerError"),
        (ApiError(404, "gone"), 404, "NotFoundError"),
        (ApiError(499, "left"), 499, "ClientClosedRequest"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_every_error_has_its_status(error, status, kind):
    told = api_error(error)
    assert (told.status, told.kind) == (status, kind)
    assert "secret" not in str(told)


def test_both_forms_of_the_body_say_the_same():
    made = error_body(api_error(InputError("too long", field="input_tokens")))
    assert made["error"] == {
        "message": "too long (parameter=input_tokens)",
        "type": "BadRequestError",
        "param": "input_tokens",
        "code": 400,
    }
    assert {key: made[key] for key in ("message", "type", "param", "code")} == made["error"]
    assert made["object"] == "error"


@pytest.mark.parametrize(("wait_s", "told"), [(0.0, "1"), (0.4, "1"), (2.4, "2"), (2.6, "3"), (60.0, "60")])
def test_an_overload_says_when_to_come_back(wait_s: float, told: str):
    assert api_error(Overload("full", retry_after_s=wait_s)).headers == {"Retry-After": told}


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/tokenize"])
def test_only_the_assistant_may_say_nothing(embedder: Live, path):
    def talk(role):
        return {"messages": [{"role": role, "content": None}]}

    assert embedder.refused(path, talk("user"))["type"] == "Bad Request"
    # This model has no template, so a conversation that can be read gets that far.
    assert "chat template" in embedder.refused(path, talk("assistant"))["message"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"input": "a", "x": NaN, "y": ' + b"9" * 5000 + b"}", "a number is too long"),
        (b'{"input": "a", "x": "\\udfff"}', "lone surrogate"),
        (b'{"input": "\xff"}', "byte 11 is not UTF-8"),
    ],
)
def test_what_no_parser_takes_is_refused(content, why):
    with pytest.raises(ApiError, match=why):
        parse(content)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/pooling", "/invocations"])
def test_padding_that_would_change_the_answer_is_refused(embedder: Live, path):
    assert embedder.refused(path, {"input": "a", "padding": "max_length"})["param"] == "padding"
    assert embedder.refused(path, {"input": "a", "padding": True})["type"] in (
        "Bad Request",
        "BadRequestError",
    )
    assert (
        embedder.ask(path, {"input": "a", "padding": None})["usage"]
        == embedder.ask(path, {"input": "a"})["usage"]
    )


@pytest.mark.parametrize(("path", "body"), [("/v2/embed", {"texts": ["a"]}), ("/tokenize", {"prompt": "a"})])
def test_where_padding_is_no_field_it_is_any_unknown_word(embedder: Live, path, body):
    known = set(embedder.ask(path, body))
    assert set(embedder.ask(path, body | {"padding": "max_length"})) == known


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "BadRequestError"), (401, "AuthenticationError"), (404, "NotFoundError"),
        (405, "Method Not Allowed"),
        (413, "RequestTooLargeError"), (422, "UnprocessableEntityError"), (429, "RateLimitError"),
        (431, "RequestTooLargeError"),
        (499, "ClientClosedRequest"), (500, "InternalServerError"), (501, "NotImplementedError"),
        (503, "ServiceUnavailableError"),
        (504, "TimeoutError"),
    ],
)  # fmt: skip
def test_a_status_names_its_type(status: int, kind: str):
    assert ApiError(status, "no").kind == kind
    assert ApiError(status, "no", kind="Mine").kind == "Mine"
    assert surprising(ApiError(status, "no")) == (status == 500)


@pytest.mark.parametrize(
    ("error", "message", "param"),
    [
        (InputError("too long", field="input_text"), "too long (parameter=input_text)", "input_text"),
        (InputError("input_text is too long", field="input_text"),
        "input_text is too long (parameter=input_text)", "input_text"),
        (InputError("top_n is -1", field="top_n"), "top_n is -1", None),
        (InputError("negative", field="top_n"), "negative (parameter=top_n)", None),
        (InputError("no"), "no", None), (UnsupportedTask("no"), "no (parameter=task)", "task"),
        (UnsupportedTask("no", field=None), "no", None),
        (ApiError(400, "no", param="body.input", kind="Bad Request"), "no", "body.input"),
    ],
    ids=str,
)  # fmt: skip
def test_the_parameter_to_change_is_named_once(error: Exception, message: str, param: str | None):
    told = api_error(error)
    assert (str(told), told.param, told.status) == (message, param, 400)
    assert told.headers == {}


def test_an_error_is_its_own_answer():
    error = ApiError(418, "tea")
    assert api_error(error) is error
    got = error_response(ApiError(503, "later", headers={"Retry-After": "1"}))
    assert (got.status_code, got.headers["retry-after"], got.headers["content-type"]) == (
        503,
        "1",
        "application/json",
    )


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"type": "text"}, "type='text' requires text"),
        ({"type": "text", "text": None}, "type='text' requires text"),
        ({"type": "image_url"}, "requires image_url.url"),
        ({"type": "image_url", "image_url": None}, "requires image_url.url"),
        ({"type": "image_url", "image_url": {"url": ""}}, "requires image_url.url"),
        ({"type": "sound"}, "'text' or 'image_url'"),
    ],
    ids=str,
)  # fmt: skip
def test_a_part_without_its_content_is_refused_by_name(embedder: Live, part: dict[str, Any], told: str):
    assert told in embedder.refused("/v2/embed", {"inputs": [{"content": [part]}]})["message"]

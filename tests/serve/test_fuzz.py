"""Whatever is sent, the answer is never a 5xx and never says anything about the server's inside."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from poolrt.runtime.model import Model
from poolrt.serve.endpoints.routes import ROUTES
from poolrt.serve.settings import Settings

from tests.serve.conftest import Live, live

PATHS = [route.path for route in ROUTES if route.methods == ("POST",) and route.is_on(Settings())] + ["/"]
LEAKS = re.compile(
    r"Traceback|File \"|/tmp/|/home/|/usr/|site-packages|\.py\b| at 0x|"
    r"orjson|starlette|pydantic|tokenizers|jinja2|numpy|onnxruntime|KeyError|TypeError"
)
JSON = {"content-type": "application/json"}
FUZZ = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def server(models: Callable[[str], Model]) -> Iterator[Live]:
    names = ("bge_m3", "bert_cross_encoder", "bert_classifier", "colbert")
    with live(*(models(name) for name in names), settings=Settings(trust_request_chat_template=True)) as made:
        yield made


def check(server: Live, path: str, content: bytes, headers: dict[str, str] = JSON) -> int:
    got = server.client.post(path, content=content, headers=headers)
    assert got.status_code < 500, f"{path} {content[:300]!r}: {got.text[:500]}"
    if got.status_code >= 400:
        told = got.text
        # What the caller sent may be shown back to it.
        found = LEAKS.search(told)
        assert found is None or found.group().encode() in content, told[:500]
        assert len(told) < 30_000
        assert "error" in got.json() or "detail" in got.json()
    return got.status_code


numbers = (
    st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.sampled_from([0, 1, -1, 2**31, 2**32, 2**63, 2**64])
)
leaves = (
    st.none()
    | st.booleans()
    | numbers
    | st.text(max_size=30)
    | st.sampled_from(["", "a", "\x00", "é", "𝄞", "​", "[MASK]", "</s>"])
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = {
    "model": st.sampled_from(["bge_m3", "bert_cross_encoder", "bert_classifier", "colbert", "nobody", "",
    None]) | leaves,
    "input": values, "inputs": values, "messages": values, "data": values,
    "task": st.sampled_from(["embed", "token_embed", "score", "x"]) | leaves,
    "encoding_format": st.sampled_from(["float", "base64", "bytes", "bytes_only", "sparse"]) | leaves,
    "embed_dtype": st.sampled_from(["float32", "bfloat16", "fp8_e4m3", "int8"]) | leaves,
    "endianness": st.sampled_from(["big", "native"]) | leaves, "dimensions": leaves,
    "truncate_prompt_tokens": leaves,
    "truncation_side": st.sampled_from(["left", "right"]) | leaves, "use_activation": leaves,
    "add_special_tokens": leaves,
    "queries": values, "documents": values, "items": values, "text_1": values, "text_2": values,
    "data_1": values, "data_2": values,
    "query": values, "texts": values, "top_n": leaves, "max_tokens_per_doc": leaves,
    "max_tokens_per_query": leaves, "instruction": leaves,
    "chat_template": st.sampled_from(["{{ messages[0].content }}", "{{ x.y.z }}", "{% for"]) | leaves,
    "chat_template_kwargs": values,
    "add_generation_prompt": leaves, "continue_final_message": leaves, "prompt": values, "tokens": values,
    "ids": values,
    "input_type": st.sampled_from(["query", "document"]) | leaves, "prompt_name": leaves,
    "embedding_types": values, "max_tokens": leaves,
    "output_dimension": leaves, "truncate": leaves, "truncate_documents": leaves, "request_id": leaves,
    "priority": leaves,
    "return_token_strs": leaves, "tools": values, "parameters": values, "normalize": leaves,
    "raw_scores": leaves, "return_text": leaves,
}  # fmt: skip
bodies = st.fixed_dictionaries({}, optional=FIELDS)
messages = st.lists(
    st.fixed_dictionaries({"role": leaves}, optional={"content": values, "name": leaves}), max_size=3
)


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(raw=st.binary(max_size=200))
@example(raw=b"")
@example(raw=b"null")
@example(raw=b"[]")
@example(raw=b'"text"')
@example(raw=b'{"input": NaN}')
@example(raw=b'{"input": "\\ud800"}')
@example(raw=b'{"input": "\xff\xfe"}')
@example(raw=b"\xef\xbb\xbf{}")
@example(raw=b"1e999")
def test_raw_bytes_never_break_a_route(server: Live, path: str, raw: bytes):
    assert 400 <= check(server, path, raw) < 500


@pytest.mark.parametrize("path", PATHS)
@FUZZ
@given(body=bodies)
def test_bodies_of_known_fields_never_break_a_route(server: Live, path: str, body: dict[str, Any]):
    check(server, path, json.dumps(body).encode())


@FUZZ
@given(
    messages=messages,
    more=st.fixed_dictionaries(
        {}, optional={name: FIELDS[name] for name in ("chat_template", "chat_template_kwargs")}
    ),
)
def test_conversations_never_break_a_route(server: Live, messages: Any, more: dict[str, Any]):
    for path in ("/v1/embeddings", "/pooling", "/classify", "/tokenize"):
        check(
            server,
            path,
            json.dumps({"messages": messages, "chat_template": "{{ messages }}"} | more).encode(),
        )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "application/x-www-form-urlencoded",
        "",
        "APPLICATION/JSON;charset=x",
    ],
)
def test_media_types_are_told_apart(server: Live, path: str, kind: str):
    status = check(server, path, b'{"input": "a"}', {"content-type": kind} if kind else {})
    if not kind.startswith("APPLICATION"):
        assert 400 <= status < 500


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b'{"input":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"input": ' + b"9" * 100_000 + b"}",
        b'{"input": "' + b"x" * 10_000_000 + b'"}', b'{"input": [' + b"1," * 500_000 + b"1]}",
        b'{"input": [' + b'"",' * 20_000 + b'""]}',
        b'{"query": "a", "documents": "' + b"word " * 2_000_000 + b'"}',
        b'{"messages": ' + b"[" * 500 + b"]" * 500 + b"}",
        b'{"messages": [{"role": "user", "content": ' + b'[{"a":' * 400 + b"1" + b"}]" * 400 + b"}]}",
        b'{"input": "a", "chat_template_kwargs": ' + b'{"a":' * 400 + b"1" + b"}" * 400 + b"}",
        b'{"tokens": [' + b"1," * 300_000 + b"1]}", b'{"prompt": "' + "é".encode() * 1_000_000 + b'"}',
        b" " * 1_000_000,
    ],
    ids=["brackets", "braces", "deep list", "long number", "10 MB text", "million ids", "20000 texts",
    "10 MB document", "deep messages",
         "deep parts", "deep variables", "many tokens", "2 MB prompt", "spaces"],
)  # fmt: skip
def test_huge_bodies_never_break_a_route(server: Live, path: str, content: bytes):
    check(server, path, content)


@pytest.mark.parametrize("path", ["/v1/embeddings", "/rerank", "/nothing"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"])
def test_other_methods_are_refused(server: Live, path: str, method: str):
    got = server.client.request(method, path)
    assert got.status_code == (404 if path == "/nothing" else 405)
    if method != "HEAD":
        assert got.json() == {"detail": "Not Found" if path == "/nothing" else "Method Not Allowed"}


@pytest.mark.parametrize("value", ["x" * 5000, "é", "a\tb", "%00"])
def test_odd_request_ids_are_taken(server: Live, value: str):
    got = server.client.post(
        "/v1/embeddings",
        json={"input": "a", "encoding_format": "bytes"},
        headers=[(b"X-Request-Id", value.encode("latin-1"))],
    )
    assert got.status_code == 200
    assert json.loads(got.headers["metadata"])["id"].startswith("embd-")

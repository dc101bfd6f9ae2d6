"""poolrt answers what the real vLLM answered to the same requests on the same tiny checkpoints: status,
keys, order, types, numbers."""

from __future__ import annotations

import base64
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.model import Model
from poolrt.serve.settings import Settings

from tests.goldens.record_http import answer, send
from tests.serve.cases import SERVERS, TEMPLATES, Case
from tests.serve.conftest import Live, live

FOLDER = Path(__file__).parent.parent / "goldens" / "http"
NUMBER = 1e-5  # fp32 on both sides; worst difference found 2e-6 on logits of size 4
FP8_STEPS = 1  # a value that falls between two fp8 numbers may round to the other one

WORDS_DIFFER = "error.message"
OURS = {
    # what names the server, the folder or the moment
    "version", "owned_by", "root", "created", "id", "metadata",
}  # fmt: skip
DECIDED = {
    "bad-utf8": (
        "vLLM's framework answers its own `detail` form here; ours is the error body of every other refusal"
    ),
    "score-kwargs-template": (
        "docs/http.md 7.1: reserved keys are refused; vLLM 0.32 ignores them while no template is in use"
    ),
    **dict.fromkeys(
        ("null-encoding", "null-special", "null-request-id", "rerank-top-null", "classify-chat-null-special"),
        "clients write null for what their caller left out (Dify: `top_n`); vLLM refuses it",
    ),
    **dict.fromkeys(
        ("rerank-objects", "rerank-v2"),
        "Cohere's, Jina's and LiteLLM's bodies: text objects, `return_documents`",
    ),
    **dict.fromkeys(
        ("score-content", "rerank-part-more"),
        "parts that are all text are a text; vLLM refuses them where no picture is read",
    ),
    "cohere-input-type": (
        "Cohere's v2 client cannot leave `input_type` out, so its own types are taken "
        "by a model without prompts"
    ),
    "score-kwargs-tools": (
        "docs/http.md 7.1: reserved keys are refused; vLLM 0.32 ignores them while no template is in use"
    ),
}
"""Cases in which poolrt means to differ, and why."""

ALL = [
    pytest.param(name, case, id=f"{name}-{case[0]}")
    for name, (_, cases) in SERVERS.items()
    for case in cases
    if case[0] not in DECIDED
]


@pytest.fixture(scope="module")
def servers(models: Callable[[str], Model]) -> Iterator[Callable[[str], Live]]:
    """One server per checkpoint, as vLLM has it: which routes exist depends on the model."""
    opened: dict[str, Any] = {}

    def find(name: str) -> Live:
        if name not in opened:
            settings = Settings(
                chat_template=TEMPLATES.get(name), trust_request_chat_template=name in TEMPLATES
            )
            holder = live(models(SERVERS[name][0]), settings=settings, names=("m",))
            opened[name] = (holder, holder.__enter__())
        return opened[name][1]

    yield find
    for holder, _ in opened.values():
        holder.__exit__(None, None, None)


@pytest.mark.parametrize(("name", "case"), ALL)
def test_an_answer_equals_vllms(servers: Callable[[str], Live], name: str, case: Case) -> None:
    golden = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["answers"][case[0]]
    if case[0] == "trailing-comma" and sys.version_info >= (3, 13):
        # Python's json names the comma since 3.13, before what follows it; vLLM was recorded with 3.12.
        golden = json.loads(json.dumps(golden).replace("body.14", "body.13"))
    _, method, path, body = case
    ours = answer(send(servers(name).client, method, path, body))
    assert ours["status"] == golden["status"], ours
    assert (
        ours["headers"].get("content-type", "").split(";")[0]
        == golden["headers"].get("content-type", "").split(";")[0]
    )
    if "json" in golden:
        same(golden["json"], ours["json"], "")
    else:
        same_bytes(case, base64.b64decode(golden["bytes"]), base64.b64decode(ours["bytes"]))
    if "metadata" in golden["headers"]:
        told, expected = (json.loads(one["headers"]["metadata"]) for one in (ours, golden))
        same(expected, told, "")


def same(expected: Any, found: Any, path: str) -> None:
    """Asserts equality field by field: keys with their order, types, numbers to NUMBER. Error texts are
    compared by what clients read."""
    if isinstance(expected, dict):
        assert isinstance(found, dict), path
        # Errors carry the older flat form beside the nested one; both beside the `detail` of a route
        # that no model can answer.
        keys = [key for key in found if key in expected or not {"error", "detail"} & expected.keys()]
        assert keys == list(expected), f"{path}: {list(found)}"
        for key, value in expected.items():
            if key not in OURS:
                same(value, found[key], f"{path}.{key}".lstrip("."))
    elif isinstance(expected, list):
        assert isinstance(found, list), path
        assert len(found) == len(expected), path
        for index, (one, other) in enumerate(zip(expected, found, strict=True)):
            same(one, other, f"{path}.{index}")
    elif isinstance(expected, float):
        assert isinstance(found, float | int), path
        assert math.isclose(found, expected, rel_tol=NUMBER, abs_tol=NUMBER), f"{path}: {found} != {expected}"
    elif path == WORDS_DIFFER:
        assert isinstance(found, str)
        assert read_by_clients(expected) == read_by_clients(found), f"{expected}\n{found}"
    elif (
        isinstance(expected, str)
        and len(expected) > 40
        and " " not in expected
        and not path.startswith("error")
    ):
        same_base64(expected, found)
    else:
        assert type(found) is type(expected), path
        assert found == expected, path


FRAGMENTS = (
    "validation error", "literal_error", "out of vocabulary", "maximum context length",
    "Please reduce the length of the input prompt",
    "Please request a smaller truncation size.", "Unsupported task: ", "No IOProcessor plugin installed.",
    "was removed; use `use_activation`",
    "does not exist", "Unsupported input_type", "Exactly one of texts, images, or inputs must be provided",
    "exceeds max_tokens=",
    "You must pass at least one prompt", "prompt cannot be empty", "At least one text element",
    "At least one text_pair element",
    "Input lengths must be either 1:1, 1:N or N:N", "MultiModalParam is not supported for",
    "must be a non-negative integer",
    "--trust-request-chat-template is not set", "Cannot set both", "Cannot find suitable handler",
    "chat template", "JSON decode error",
    "dimensions is currently not supported",
)  # fmt: skip


def read_by_clients(message: str) -> set[str]:
    return {fragment for fragment in FRAGMENTS if fragment in message}


def same_base64(expected: str, found: str) -> None:
    one, other = base64.b64decode(expected, validate=True), base64.b64decode(found, validate=True)
    assert len(one) == len(other)
    # A case of 64 or 32 dimensions: four bytes each are float32, two bfloat16 in big-endian order.
    if len(one) % 256 == 0:
        np.testing.assert_allclose(
            np.frombuffer(other, "<f4"), np.frombuffer(one, "<f4"), rtol=NUMBER, atol=NUMBER
        )
    else:
        np.testing.assert_allclose(bfloat16(other), bfloat16(one), rtol=2**-7)


def bfloat16(raw: bytes) -> np.ndarray[Any, Any]:
    return (np.frombuffer(raw, ">u2").astype(np.uint32) << 16).view(np.float32)


def same_bytes(case: Case, expected: bytes, found: bytes) -> None:
    assert len(found) == len(expected)
    dtype = (case[3] or {}).get("embed_dtype", "float32") if isinstance(case[3], dict) else "float32"
    if dtype.startswith("fp8"):
        steps = np.abs(np.frombuffer(found, np.uint8).astype(int) - np.frombuffer(expected, np.uint8))
        assert steps.max() <= FP8_STEPS
    elif expected:
        kind = {"float32": "<f4", "float16": "<f2"}[dtype]
        tolerance = NUMBER if dtype == "float32" else 2**-10
        np.testing.assert_allclose(
            np.frombuffer(found, kind), np.frombuffer(expected, kind), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("name", SERVERS)
def test_every_case_was_recorded(name: str) -> None:
    recorded = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    assert list(recorded["answers"]) == [case[0] for case in SERVERS[name][1]], "make goldens"

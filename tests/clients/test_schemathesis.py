"""Our own OpenAPI document held against a running server, from outside, by schemathesis
(https://schemathesis.readthedocs.io): whatever the document allows and forbids is sent, and every answer must
be one that the document tells of. `make clients`; FUZZ_SECONDS sets how long.

Two of its checks are left out, because the contract is looser than a schema can tell:
`negative_data_rejection` (clients of vLLM may send "32" for 32, and fields nobody knows) and
`positive_data_acceptance` (an unknown model, a text that is too long and an id outside of the vocabulary fit
the schema and are refused).
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.commands import environment, served

SECONDS = int(os.environ.get("FUZZ_SECONDS", "90"))
KEY = "k"
ANSWERS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance", "unsupported_method",
)  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("schemathesis") is None,
        reason="schemathesis is not installed: make clients",
    ),
]


def found(url: str, *flags: str) -> str:
    """Its report, empty when it found nothing."""
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    always = ["--no-color", "--warnings", "off", "--continue-on-failure"]
    command = [sys.executable, "-c", program, "run", f"{url}/openapi.json", *always, *flags]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout if done.returncode else ""


def test_every_answer_is_one_that_the_document_tells_of(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    names = ("minilm_like", "bert_cross_encoder", "bert_classifier", "bge_m3", "colbert")
    with served(*(artifacts(name) for name in names)) as url:
        flags = [
            "--checks",
            ",".join(ANSWERS),
            "--max-time",
            str(SECONDS),
            "--max-examples",
            "40",
            "--workers",
            "2",
        ]
        report = found(url, *flags, "--generation-database", str(tmp_path / "examples"))
    assert not report, report


def test_no_route_answers_without_the_key_it_asks_for(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    with served(artifacts("minilm_like"), flags=["--api-key", KEY]) as url:
        flags = [
            "--checks",
            "ignored_auth,not_a_server_error",
            "--phases",
            "coverage",
            "--max-time",
            str(SECONDS),
        ]
        header = ["--header", f"Authorization: Bearer {KEY}"]
        report = found(url, *flags, *header, "--generation-database", str(tmp_path / "examples"))
    assert not report, report

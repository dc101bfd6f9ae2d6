"""Command lines, read as the real vLLM's parser reads them (tests/goldens/record_command_lines.py)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.errors import InputError
from poolrt.serve.cli import parse, settings_of

from .command_lines import LINES

RECORDED = Path(__file__).parents[1] / "goldens" / "http" / "command_lines.json"
STRICTER = '["m", "--hf-overrides", "{"]'
"""vLLM's parser hands on what is no JSON, and its engine refuses it."""
PARSED: dict[str, Any] = json.loads(RECORDED.read_text(encoding="utf-8"))["parsed"]


def test_every_line_was_recorded():
    assert list(PARSED) == LINES


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_is_read_as_vllm_reads_it(line: str):
    arguments, expected = json.loads(line), PARSED[line]
    if isinstance(expected, str) or line == STRICTER:
        with pytest.raises(InputError):
            settings_of(parse(arguments, {})[0])
        return
    options, _ = parse(arguments, {})
    read = options.values | {"max_model_len": options.max_model_len or -1}
    assert {name: _plain(read[name]) for name in expected} == expected


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value

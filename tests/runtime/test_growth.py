"""Descriptions of tokenizers at the limits of what is read: how much longer they may make a text,
and files that are none."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime.inputs import growth, tokenizer_file


def step(pattern: str, content: str, *, regex: bool = False) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex" if regex else "String": pattern}, "content": content}


def sequence(*steps: dict[str, Any], inner: str = "normalizers") -> dict[str, Any]:
    return {"type": "Sequence", inner: list(steps)}


def charsmap(replacement: bytes) -> dict[str, Any]:
    raw = struct.pack("<I", 4) + bytes(4) + b"x\0" + replacement + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}


NESTED: dict[str, Any] = step("a", "b" * 300)
for _ in range(growth.DEEPEST):
    NESTED = sequence(NESTED)


@pytest.mark.parametrize(
    ("part", "described", "refused"),
    [
        # One step: how long what it puts in may be.
        ("normalizer", step("abcdefgh", "b" * 256), None),
        ("normalizer", step("abcdefgh", "b" * 257),
        "puts 257 characters in the place of a few (256 are allowed)"),
        ("normalizer", {"type": "Prepend", "prepend": "b" * 257}, "its normalizer puts 257 characters"),
        ("normalizer", charsmap(b"y" * 257), "its normalizer puts 257 characters"),
        ("normalizer", charsmap(b"y" * 256), None),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AA=="}, None),
        ("decoder", step("a", "b" * 257), "its decoder puts"),
        # By the letters that it stands for.
        ("normalizer", step("a", "b" * 32), None),
        ("normalizer", step("a", "b" * 33), "makes a text 33 times longer"),
        ("normalizer", step("ab", "b" * 64), None),
        ("normalizer", step("ab", "b" * 66), "makes a text 33 times longer"),
        ("normalizer", step("a|b", "c" * 33, regex=True), "times longer"),
        # In a row: what one step made, the next one takes.
        ("normalizer", sequence(step("a", "bbbb"), step("b", "cccc")), None),
        ("normalizer", sequence(step("a", "bbbbbb"), step("b", "cccccc")), "makes a text 36 times longer"),
        ("normalizer", sequence(step("a", "bbbbbb"), step("x", "cccccc")), None),
        ("normalizer", sequence(step("b", "cccccc"), step("a", "bbbbbb")), None),
        ("normalizer", sequence(step("a", "bbbbbb"), sequence(step("b", "cccccc"))), "36 times"),
        # Where it is not measured, at worst.
        ("pre_tokenizer", sequence(*[{"type": "ByteLevel"}] * 9, inner="pretokenizers"), None),
        ("pre_tokenizer", sequence(*[{"type": "ByteLevel"}] * 10, inner="pretokenizers"),
        "its pre_tokenizer makes a text 1.02e+03 times"),
        ("pre_tokenizer", sequence(*[{"type": "Metaspace"}] * 10, inner="pretokenizers"), "times longer"),
        ("pre_tokenizer", sequence(*[{"type": "Whitespace"}] * 20, inner="pretokenizers"), None),
        ("normalizer", sequence(*[step("", "bbbb")] * 5), "3.12e+03 times"),
        ("normalizer", sequence(step("", "b" * 6), step("", "b" * 10), step("", "b" * 12)),
        "makes a text 1e+03 times"),
        ("normalizer", sequence(*[{"type": "Prepend", "prepend": "b" * 30}] * 2), None),
        ("normalizer", sequence(*[{"type": "Prepend", "prepend": "b" * 31}] * 2), "1.02e+03 times"),
        ("pre_tokenizer", sequence({"no": "type"}, *[{"type": "ByteLevel"}] * 6, inner="pretokenizers"),
        None),
        ("normalizer", NESTED["normalizers"][0], "puts 300 characters"),
    ],
)  # fmt: skip
def test_how_much_longer_a_text_may_become(part: str, described: dict[str, Any], refused: str | None):
    problem = growth.problem({part: described})
    assert problem is None if refused is None else refused in str(problem), problem


def around(*, single: list[str], pair: list[str] = [], ids: int = 1) -> dict[str, Any]:  # noqa: B006
    def pieces(names: list[str]) -> list[dict[str, Any]]:
        return [
            {"Sequence" if name in "AB" else "SpecialToken": {"id": name, "type_id": 0}} for name in names
        ]

    special = {"[X]": {"id": "[X]", "ids": [0] * ids, "tokens": ["[X]"] * ids}}
    return {
        "type": "TemplateProcessing",
        "single": pieces(single),
        "pair": pieces(pair),
        "special_tokens": special,
    }


@pytest.mark.parametrize(
    ("described", "refused"),
    [
        (around(single=["[X]", "A", "[X]"], pair=["[X]", "A", "[X]", "B"], ids=512), None),
        (around(single=["[X]", "A"], ids=1024), None),
        (around(single=["[X]", "A"], ids=1025), "puts 1025 tokens around a text (1024 are allowed)"),
        (around(single=["A"], pair=["A", "[X]", "B"], ids=1025), "puts 1025 tokens"),
        (around(single=["A", *["[Y]"] * 1025]), "puts 1025 tokens"),
        (around(single=["A", "A"]), "repeats a text (single)"),
        (around(single=["A"], pair=["A", "B", "A"]), "repeats a text (pair)"),
        (sequence({"type": "ByteLevel"}, around(single=["A", "A"]), inner="processors"), "repeats a text"),
        ({"type": "TemplateProcessing", "single": "A A", "pair": None, "special_tokens": []}, None),
        (None, None),
    ],
)
def test_what_may_stand_around_a_text(described: Any, refused: str | None):
    problem = growth.problem({"post_processor": described})
    assert problem is None if refused is None else refused in str(problem), problem


PLAIN: dict[str, Any] = {
    "version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None, "model": {"type": "WordLevel", "vocab": {"?": 0, "a": 1}, "unk_token": "?"},
    "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
    "padding": {
        "strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "?",
    },
}  # fmt: skip


def test_the_limits_of_a_training_run_are_left_out():
    tokenizer = tokenizer_file.opened(json.dumps(PLAIN).encode())
    assert tokenizer.encode("a b a").ids == [1, 0, 1]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\xff", "decode"), (b"{", "Expecting"), (b"[]", "expected a JSON object, found list"),
        (b"{}", "missing"),
        (json.dumps({**PLAIN, "normalizer": step("a", "b" * 999)}).encode(), "puts 999 characters"),
    ],
)  # fmt: skip
def test_what_is_no_tokenizer_is_one_line(raw: bytes, told: str):
    with pytest.raises(ValueError, match=told) as error:
        tokenizer_file.opened(raw)
    assert type(error.value) is ValueError
    assert "\n" not in str(error.value)


def test_an_interrupt_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch):
    def interrupted(described: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(growth, "problem", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tokenizer_file.opened(json.dumps(PLAIN).encode())


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert tokenizer_file.MOST_BYTES == 128 * 1024 * 1024
    monkeypatch.setattr(tokenizer_file, "MOST_BYTES", 4)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"1234")
    assert tokenizer_file.content(path) == b"1234"
    path.write_bytes(b"12345")
    with pytest.raises(ValueError, match="5 bytes, more than any tokenizer has"):
        tokenizer_file.content(path)

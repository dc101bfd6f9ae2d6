"""How commands read their arguments: flags anywhere, numbers as people write them,
one line for what is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from poolrt.runtime.commands import command_line
from poolrt.runtime.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("512", 512), (" 7 ", 7), ("-3", -3), ("+3", 3), ("1k", 1_000), ("1K", 1_024), ("2m", 2_000_000),
        ("2M", 2 * 1_048_576),
        ("3g", 3 * 10**9), ("3G", 3 * 2**30), ("1t", 10**12), ("1T", 2**40), ("25.6k", 25_600),
        ("1.5m", 1_500_000), ("0.0016k", 2),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text: str, value: int):
    assert command_line.whole_number(text) == value


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "found ''"),
        ("x", "found 'x'"),
        ("1kk", "found '1kk'"),
        ("1.5", "needs a decimal suffix"),
        ("1.5K", "did you mean 1.5k?"),
    ],
)
def test_what_is_no_whole_number_is_said(text: str, told: str):
    with pytest.raises(argparse.ArgumentTypeError) as error:
        command_line.whole_number(text)
    assert told in str(error.value)
    assert ("did you mean" in str(error.value)) == text.endswith("K")


def test_the_least_of_each_kind_of_number():
    assert command_line.positive("1") == 1
    assert command_line.natural("0") == 0
    for read, text in (
        (command_line.positive, "0"),
        (command_line.positive, "-1"),
        (command_line.natural, "-1"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match="or more, found"):
            read(text)
    assert [command_line.length_or_auto(text) for text in ("auto", " AUTO ", "-1", "1k")] == [
        None,
        None,
        None,
        1000,
    ]
    with pytest.raises(argparse.ArgumentTypeError):
        command_line.length_or_auto("0")


@pytest.mark.parametrize(
    ("argument", "spelled"),
    [
        ("--hf_overrides.num_labels=1", "--hf-overrides.num_labels=1"),
        ("--max_model_len=a_b", "--max-model-len=a_b"), ("-1_0", "-1_0"),
        ("a_b", "a_b"), ("--", "--"), ("--1_0", "--1_0"), ("x--a_b", "x--a_b"),
    ],
)  # fmt: skip
def test_a_flag_s_name_has_two_spellings_and_nothing_else_does(argument: str, spelled: str):
    assert command_line.spelled(argument) == spelled


@pytest.fixture
def parser() -> command_line.Parser:
    parser = command_line.Parser(prog="poolrt test")
    parser.add_argument("folder", type=Path)
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--top_n".replace("_", "-"), type=command_line.positive, default=5)
    parser.add_argument("--out", type=Path)
    return parser


def test_positionals_stand_before_and_behind_flags(parser: command_line.Parser):
    options = parser.parse_args(["folder", "a", "--top_n", "2", "b"])
    assert (options.folder, options.texts, options.top_n) == (Path("folder"), ["a", "b"], 2)
    assert parser.parse_args(["folder"]).top_n == 5


def test_behind_two_dashes_nothing_is_a_flag(parser: command_line.Parser):
    options = parser.parse_args(["--out", "o", "folder", "a", "--", "--top_n", "--", "-x_y"])
    assert (options.folder, options.texts, options.out, options.top_n) == (
        Path("folder"),
        ["a", "--top_n", "--", "-x_y"],
        Path("o"),
        5,
    )
    options = parser.parse_args(["--", "--folder", "--out"])
    assert (options.folder, options.texts, options.out) == (Path("--folder"), ["--out"], None)


def test_what_is_wrong_is_one_sentence_of_the_caller_s(parser: command_line.Parser):
    for arguments in ([], ["folder", "--top-n", "0"], ["folder", "--nothing"]):
        with pytest.raises(InputError, match="see poolrt test --help"):
            parser.parse_args(arguments)

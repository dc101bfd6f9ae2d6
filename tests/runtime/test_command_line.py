"""How commands are declared and read: flags anywhere, their variables and files, numbers as people write
them, one line for what is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from poolrt.runtime.command_line import spelling, values
from poolrt.runtime.command_line.command import Command, command
from poolrt.runtime.command_line.flags import Argument, Flag
from poolrt.runtime.errors import EXIT_INPUT, EXIT_OK, InputError


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
    assert values.whole_number(text) == value


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
    with pytest.raises(ValueError, match="found") as error:
        values.whole_number(text)
    assert told in str(error.value)
    assert ("did you mean" in str(error.value)) == text.endswith("K")


def test_numbers_have_bounds():
    assert values.number(values.whole_number, at_least=1)("1") == 1
    assert values.number(values.whole_number, at_most=65535)("0") == 0
    for options, text in (
        ({"at_least": 1}, "0"),
        ({"at_least": 0}, "-1"),
        ({"above": 0}, "0"),
        ({"at_most": 9}, "10"),
        ({"at_most": 9}, "-1"),
    ):
        with pytest.raises(ValueError, match=r"expected .*, found"):
            values.number(values.whole_number, **options)(text)
    assert [values.length_or_auto(text) for text in ("auto", " AUTO ", "-1", "1k")] == [
        None,
        None,
        None,
        1000,
    ]
    with pytest.raises(ValueError, match="1 or more, or auto"):
        values.length_or_auto("0")


@dataclass(frozen=True, slots=True)
class Shared:
    """Flags of several commands."""

    top_n: Annotated[int, Flag("how many", "scores", at_least=1)] = 5
    quiet: Annotated[bool | None, Flag("say less")] = None
    loud: Annotated[bool, Flag("say nothing", name="disable-loud", off=True)] = True
    words: Annotated[
        tuple[str, ...], Flag("any", words=True, aliases=("terms",), variables=("OTHER_WORDS",))
    ] = ()
    options: Annotated[dict[str, Any], Flag("changes")] = None  # pyright: ignore[reportAssignmentType]


calls: list[dict[str, Any]] = []


@command(examples=["poolrt example folder a b --top-n 2"], notes="Good to know.")
def example(
    folder: Annotated[Path, Argument("FOLDER", "where", complete="dir")],
    texts: Annotated[tuple[str, ...], Argument("TEXT", config=("texts",))],
    shared: Shared,
    *,
    out: Annotated[Path | None, Flag("where to", own=True)] = None,
    kind: Annotated[Literal["a", "bc"], Flag("which")] = "a",
    repeated: Annotated[tuple[str, ...], Flag()] = (),
    ray: Annotated[str | None, Flag("where", metavar="ADDRESS", bare="")] = None,
    json: Annotated[bool, Flag("for machines")] = False,
) -> None:
    """Tries everything."""
    calls.append(
        {
            "folder": folder,
            "texts": texts,
            "out": out,
            "kind": kind,
            "repeated": repeated,
            "json": json,
            "ray": ray,
        }
    )
    calls[-1] |= {name: getattr(shared, name) for name in ("top_n", "quiet", "loud", "words", "options")}


def run(*arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    assert example(list(arguments), environment or {}) == EXIT_OK
    return calls.pop()


def refused(*arguments: str, environment: dict[str, str] | None = None) -> str:
    with pytest.raises(InputError) as error:
        example.context(list(arguments), environment or {})
    assert "\n" not in str(error.value)
    return str(error.value)


def test_defaults_are_those_of_the_signature():
    assert run("f") == {
        "folder": Path("f"), "texts": (), "out": None, "kind": "a", "repeated": (), "json": False,
        "ray": None, "top_n": 5, "quiet": None, "loud": True, "words": (), "options": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("f a --top_n 2 b", {"texts": ("a", "b"), "top_n": 2}),
        ("--top-n=1k f a", {"texts": ("a",), "top_n": 1000}),
        ("--quiet f --disable_loud", {"quiet": True, "loud": False}),
        ("--no-quiet f --no-disable-loud", {"quiet": False, "loud": True}),
        ("f --words a b --top-n 1 c", {"words": ("a", "b"), "texts": ("c",)}),
        ("f --words a --terms b c", {"words": ("b", "c")}),
        ("f --repeated a --repeated b c", {"repeated": ("a", "b"), "texts": ("c",)}),
        ("f --options.a.b 1 --options {\"c\":2}", {"options": {"a": {"b": 1}, "c": 2}}),
        ("--out o f a -- --top_n -- -x_y", {"texts": ("a", "--top_n", "--", "-x_y"), "out": Path("o")}),
        ("-- --folder --out", {"folder": Path("--folder"), "texts": ("--out",)}),
        ("f --ray", {"ray": ""}),
        ("f --ray --json", {"ray": "", "json": True}),
        ("f --ray a b", {"ray": "a", "texts": ("b",)}),
        ("f -5 - --kind bc", {"texts": ("-5", "-"), "kind": "bc"}),
    ],
)  # fmt: skip
def test_a_command_line_is_read(arguments: str, expected: dict[str, Any]):
    called = run(*arguments.split())
    assert {name: called[name] for name in expected} == expected
    assert called | expected == called


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "the following arguments are required: FOLDER"),
        ("f --top-n 0", "argument --top-n: expected 1 or more, found 0"),
        ("f --top-n x", "argument --top-n: expected a whole number such as 512"),
        ("f --topn 3", "unrecognized arguments: --topn; did you mean --top-n?"),
        ("f --nothing", "unrecognized arguments: --nothing; see"),
        ("f -x", "unrecognized arguments: -x; see"),
        ("f --out", "argument --out: a value is expected"),
        ("f --out --json", "argument --out: a value is expected"),
        ("f --kind.a b", "unrecognized arguments: --kind.a"),
        ("f --json=yes", "argument --json: it takes no value"),
        ("f --kind b", "invalid choice: 'b' (choose from a, bc)"),
        ("f --options [1]", "argument --options: expected a JSON object, found list"),
        ("f --options {", "argument --options: not JSON"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments: str, message: str):
    text = refused(*arguments.split())
    assert text.startswith(message) or message in text
    assert text.endswith("; see poolrt example --help")


VALUES: list[tuple[str, str, Any, dict[str, Any]]] = [
    # variable, its text, the same in a file, what the command gets
    ("POOLRT_TOP_N", "7", 7, {"top_n": 7}),
    ("POOLRT_QUIET", "off", False, {"quiet": False}),
    ("POOLRT_DISABLE_LOUD", "1", True, {"loud": False}),
    ("POOLRT_WORDS", "a b", ["a", "b"], {"words": ("a", "b")}),
    ("POOLRT_WORDS", '["a b", "c"]', ["a b", "c"], {"words": ("a b", "c")}),
    ("POOLRT_OPTIONS", '{"a": 1}', {"a": 1}, {"options": {"a": 1}}),
    ("POOLRT_EXAMPLE_OUT", "o", "o", {"out": Path("o")}),
    ("POOLRT_KIND", "bc", "bc", {"kind": "bc"}),
    ("POOLRT_REPEATED", "a b", ["a", "b"], {"repeated": ("a", "b")}),
    ("POOLRT_JSON", "true", True, {"json": True}),
]


@pytest.mark.parametrize(("variable", "text", "content", "expected"), VALUES)
def test_every_flag_has_a_variable_and_a_name_in_files(
    variable: str, text: str, content: Any, expected: dict[str, Any], tmp_path: Path
):
    called = run("f", environment={variable: text})
    assert {name: called[name] for name in expected} == expected
    name = variable.removeprefix("POOLRT_").removeprefix("EXAMPLE_").lower()
    (tmp_path / "c.json").write_text(json.dumps({name: content}))
    called = run("f", "--config", str(tmp_path / "c.json"))
    assert {name: called[name] for name in expected} == expected
    called = run("f", environment={"POOLRT_EXAMPLE_CONFIG": str(tmp_path / "c.json")})
    assert {name: called[name] for name in expected} == expected


def test_the_command_line_is_stronger_than_the_environment_and_that_than_a_file(tmp_path: Path):
    (tmp_path / "c.toml").write_text(
        'top-n = 2\nkind = "bc"\ntexts = ["t"]\noptions = {a = 1, b = 1}\nwords = ["w"]'
    )
    config = ("--config", str(tmp_path / "c.toml"))
    environment = {"POOLRT_TOP_N": "3", "POOLRT_OPTIONS": '{"b": 2, "c": 2}', "POOLRT_WORDS": "v"}
    called = run("f", "u", *config, "--top-n", "4", "--options.c", "3", environment=environment)
    assert (called["top_n"], called["kind"], called["texts"]) == (4, "bc", ("t", "u"))
    assert called["options"] == {"a": 1, "b": 2, "c": 3}
    assert called["words"] == ("v",)
    assert run("f", *config, environment=environment)["top_n"] == 3
    assert run("f", *config)["top_n"] == 2
    assert run("f", environment={"POOLRT_TOP_N": "3", "POOLRT_EXAMPLE_TOP_N": "4"})["top_n"] == 4
    assert run("f", environment={"POOLRT_TOP_N": "", "POOLRT_OUT": "o"}) == run("f"), "empty is nothing"
    assert run("f", environment={"OTHER_WORDS": "b", "POOLRT_WORDS": "a"})["words"] == ("a", "b")


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("POOLRT_TOP_N", "0", "POOLRT_TOP_N: expected 1 or more, found 0"),
        ("POOLRT_KIND", "d", "POOLRT_KIND: invalid choice: 'd' (choose from a, bc)"),
        (
            "POOLRT_JSON",
            "maybe",
            "POOLRT_JSON: expected one of 1, true, yes, on, 0, false, no, off, found 'maybe'",
        ),
        ("POOLRT_WORDS", "[1]", "POOLRT_WORDS: expected a JSON list of texts"),
        ("POOLRT_OPTIONS", "a", "POOLRT_OPTIONS: not JSON"),
    ],
)
def test_a_wrong_variable_is_named_with_what_is_allowed(variable: str, text: str, message: str):
    assert refused("f", environment={variable: text}).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"top_n": 0}', "--config c.json: top_n: expected 1 or more, found 0"),
        ('{"topn": 1}', "--config c.json: topn is no flag; did you mean top-n?"),
        ('{"quiet": "no"}', "--config c.json: quiet is 'no', expected true or false"),
        ('{"out": true}', "--config c.json: out is true, expected a value"),
        ('{"kind": ["a"]}', "--config c.json: kind: invalid choice"),
        ("[]", "--config c.json: expected `name: value` lines, found list"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_allowed(text: str, message: str, tmp_path: Path):
    (tmp_path / "c.json").write_text(text)
    assert refused("f", "--config", str(tmp_path / "c.json")).startswith(message)


def test_errors_are_objects_with_json(capsys: pytest.CaptureFixture[str]):
    for arguments, environment in (["--json"], {}), ([], {"POOLRT_JSON": "1"}):
        assert example(arguments, environment) == EXIT_INPUT
        out, err = capsys.readouterr()
        message = err.removeprefix("poolrt example: ").strip()
        assert json.loads(out)["error"] == {"type": "InputError", "message": message, "exit_code": EXIT_INPUT}
    assert example(["--no-json"], {"POOLRT_JSON": "1"}) == EXIT_INPUT
    assert capsys.readouterr().out == ""


def test_help_says_everything_that_is_declared(capsys: pytest.CaptureFixture[str]):
    assert example(["--help", "--top-n", "0"], {"POOLRT_KIND": "d"}) == EXIT_OK
    page = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in page.splitlines()]
    assert lines[0] == "usage: poolrt example [FLAGS] FOLDER [TEXT ...]"
    for line in (
        "Tries everything.",
        "FOLDER where",
        "scores:",
        "--top-n N how many [default: 5; env: POOLRT_TOP_N]",
        "--quiet, --no-quiet say less [env: POOLRT_QUIET]",
        "--kind a|bc which [default: a; env: POOLRT_KIND]",
        "--ray [ADDRESS] where [env: POOLRT_RAY]",
        "--words WORDS ... any [env: POOLRT_WORDS]",
        "--out OUT where to [env: POOLRT_EXAMPLE_OUT]",
        "poolrt example folder a b --top-n 2",
        "Good to know.",
    ):
        assert line in lines
    assert "--terms" not in page
    assert "\x1b" not in page


def test_a_name_has_two_spellings_and_a_value_has_one():
    line = spelling.normalised(["--out=a_b", "c_d"], example.values, see="")
    assert (line.flags, line.positionals) == (["--out=a_b"], ["c_d"])


def test_a_parameter_without_a_flag_is_noticed():
    def bare(text: str) -> None: ...

    with pytest.raises(AssertionError, match="text has no Flag"):
        Command("bare", bare, extra="cpu")

"""The commands: exit codes, one clear line per mistake, JSON for machines, vLLM's spellings."""

from __future__ import annotations

import ctypes
import errno
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.exporter import cli
from poolrt.exporter.heads import head_modules
from poolrt.runtime import errors, json_objects

ROOT = Path(__file__).parents[2]


def test_an_export_ends_with_a_report(
    checkpoints: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.export(
        [
            str(checkpoints("bert_plain")),
            "--out",
            str(tmp_path),
            "--name",
            "plain",
            "--json",
            "--trust-remote-code",
        ]
    )
    out, err = capsys.readouterr()
    assert code == errors.EXIT_OK, err
    told = json.loads(out)
    assert (told["name"], told["architecture"], told["tasks"][0]) == ("plain", "BertModel", "embed")
    assert told["evidence"]
    assert "never runs a checkpoint's code" in err
    assert "[1/6] read the checkpoint" in err
    library = f"transformers {importlib.metadata.version('transformers')} BertModel"
    assert told["reading"]["reference"] == library
    assert {"token ids", "hidden states", "embed"} <= {each["what"] for each in told["reading"]["agreements"]}
    assert cli.verify([str(tmp_path / "plain")]) == errors.EXIT_OK
    shown = capsys.readouterr().out
    assert "golden alone" in shown
    assert f"agrees with {library}: token ids of" in shown
    assert (
        cli.verify([str(tmp_path / "plain"), "--against", str(checkpoints("bert_plain")), "--json"])
        == errors.EXIT_OK
    )
    proved = json.loads(capsys.readouterr().out)
    assert "one long" in {each["shape"] for each in proved["evidence"]}
    assert proved["reading"]["reference"] == library


def test_a_reading_that_the_library_contradicts_ends_with_exit_3_and_nothing_kept(
    checkpoints: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(head_modules.POOLS, "mean", head_modules.POOLS["cls"])
    code = cli.export([str(checkpoints("minilm_like")), "--out", str(tmp_path), "--json"])
    told = json.loads(capsys.readouterr().out)["error"]
    assert code == errors.EXIT_VERIFICATION
    assert told["type"] == "VerificationError"
    assert "otherwise than sentence-transformers" in told["message"]
    assert "embed of" in told["message"]
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith(".lock")]


WRONG = {
    "not a checkpoint": (["{empty}"], errors.EXIT_INPUT, "config.json"),
    "no such folder": (["{empty}/nothing/here/at/all"], errors.EXIT_INPUT, "nothing"),
    "unknown precision": (["{empty}", "--precision", "fp8"], errors.EXIT_INPUT, "expected one of"),
    "unknown target": (["{empty}", "--target", "trt"], errors.EXIT_INPUT, "tensorrt-rtx"),
    "int8 for a GPU": (
        ["{empty}", "--precision", "int8", "--target", "tensorrt-rtx:sm89"],
        errors.EXIT_INPUT,
        "for processors",
    ),
    "unknown GPU": (["{empty}", "--target", "tensorrt-rtx:sm42"], errors.EXIT_ENGINE, "sm42"),
    "bad JSON": (["{empty}", "--hf-overrides", "{{"], errors.EXIT_INPUT, "not JSON"),
    "JSON of another kind": (
        ["{empty}", "--pooler-config", "[1]"],
        errors.EXIT_INPUT,
        "expected a JSON object",
    ),
    "a dotted flag without value": (
        ["{empty}", "--hf-overrides.a"],
        errors.EXIT_INPUT,
        "a value is expected",
    ),
    "generation": (["{empty}", "--runner", "generate"], errors.EXIT_INPUT, "pooling models only"),
    "bad name": (["{good}", "--name", "../up"], errors.EXIT_INPUT, "--name"),
    "no arguments": ([], errors.EXIT_INPUT, "CHECKPOINT"),
    "unknown flag": (["{empty}", "--fast"], errors.EXIT_INPUT, "--fast"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line_and_its_exit_code(
    checkpoints: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    given, code, told = WRONG[case]
    (tmp_path / "empty").mkdir()
    out = tmp_path / "out"
    arguments = [part.format(empty=tmp_path / "empty", good=checkpoints("minilm_like")) for part in given]
    assert cli.export(["--out", str(out), *arguments] if arguments else []) == code
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not out.exists() or list(out.iterdir()) == []


def test_a_mistake_is_json_where_json_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.verify([str(tmp_path), "--json"]) == errors.EXIT_INPUT
    told = json.loads(capsys.readouterr().out)["error"]
    assert (told["type"], told["exit_code"]) == ("ArtifactError", 2)


def test_verification_that_fails_has_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poolrt.exporter import pipeline

    def refuse(*_: object, **__: object) -> None:
        raise errors.VerificationError("too far")

    monkeypatch.setattr(pipeline, "verified", refuse)
    assert cli.verify([str(tmp_path)]) == errors.EXIT_VERIFICATION
    assert "too far" in capsys.readouterr().err


def test_what_libraries_print_is_no_part_of_the_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poolrt.exporter import pipeline
    from tokenizers import AddedToken

    def loud(*_: object, **__: object) -> None:
        print("from Python")
        ctypes.CDLL(None).puts(b"from C, buffered")
        AddedToken("x", __type="AddedToken")
        raise errors.CheckpointError("too loud")

    monkeypatch.setattr(pipeline, "verified", loud)
    assert cli.verify([str(tmp_path), "--json"]) == errors.EXIT_INPUT
    out, err = capfd.readouterr()
    assert json.loads(out)["error"]["message"] == "too loud"
    for line in ("from Python", "from C, buffered", "Ignored unknown kwarg option __type"):
        assert line in err


def test_our_own_mistake_has_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poolrt.exporter import pipeline

    def stumble(*_: object, **__: object) -> None:
        raise KeyError("gone")

    monkeypatch.setattr(pipeline, "verified", stumble)
    assert cli.verify([str(tmp_path)]) == errors.EXIT_INTERNAL
    assert "please report" in capsys.readouterr().err


def test_a_full_disk_says_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poolrt.exporter import pipeline

    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "model.onnx"))

    monkeypatch.setattr(pipeline, "export", fill)
    assert cli.export([str(tmp_path)]) == errors.EXIT_INPUT
    assert (
        "model.onnx: No space left on device; nothing was kept: make room, or choose"
    ) in capsys.readouterr().err


def test_an_interruption_has_its_own_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from poolrt.exporter import pipeline

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "verified", interrupt)
    assert cli.verify([str(tmp_path)]) == errors.EXIT_INTERRUPTED
    assert "nothing was kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a", "--hf-overrides", '{"x": 1}'], {"x": 1}),
        (["a", "--hf-overrides.x", "1"], {"x": 1}),
        (["a", "--hf-overrides.x.y=true", "--hf-overrides.x.z", "text"], {"x": {"y": True, "z": "text"}}),
        (["--hf-overrides", '{"x": {"y": 1}}', "a", "--hf-overrides.x.z", "[2]"], {"x": {"y": 1, "z": [2]}}),
    ],
    ids=["json", "dotted", "nested", "both"],
)
def test_dotted_flags_mean_the_same_as_json(given: list[str], expected: dict[str, object]) -> None:
    flags = json_objects.undotted(given, ["--hf-overrides"])
    assert flags[0] == "a"
    assert json.loads(flags[flags.index("--hf-overrides") + 1]) == expected


def test_what_stands_behind_two_dashes_is_no_flag() -> None:
    given = ["--hf-overrides.x", "1", "--", "--hf-overrides.x", "2", "--hf-overrides"]
    flags = json_objects.undotted(given, ["--hf-overrides"])
    assert flags == ["--hf-overrides", '{"x": 1}', "--", "--hf-overrides.x", "2", "--hf-overrides"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["onnx,tensorrt-rtx:sm89,sm120"], ["onnx", "tensorrt-rtx:sm89,sm120"]),
        (["onnx", "tensorrt-rtx:sm89"], ["onnx", "tensorrt-rtx:sm89"]),
        (["tensorrt-rtx:sm89, SM_120,tensorrt"], ["tensorrt-rtx:sm89, SM_120", "tensorrt"]),
    ],
    ids=str,
)
def test_targets_may_be_listed_or_repeated(given: list[str], expected: list[str]) -> None:
    assert cli._targets(given) == expected


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.recipes([]) == errors.EXIT_OK
    assert "MiniLM" in capsys.readouterr().out
    assert cli.recipes(["--json", "MiniLM"]) == errors.EXIT_OK
    assert all(
        "minilm" in json.dumps(each).lower() for each in json.loads(capsys.readouterr().out)["recipes"]
    )
    assert cli.recipes(["no such model"]) == errors.EXIT_OK
    assert "no recipe matches" in capsys.readouterr().out


def test_help_and_mistakes_import_nothing_heavy() -> None:
    script = f"""
    import sys; sys.path.insert(0, {str(ROOT)!r}); import conftest
    from poolrt.exporter import cli
    assert cli.export(["--help"]) == 0
    assert cli.export(["x", "--precision", "fp8"]) == 2
    heavy = {{"torch", "transformers", "onnx", "onnx_ir", "onnxruntime", "starlette"}} & set(sys.modules)
    assert not heavy, heavy
    """.replace("\n    ", "\n")
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    assert "exit codes" in done.stdout

"""`poolrt list | pull | push | rm | prune` as a user meets them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from poolrt.runtime import cache_folder
from poolrt.runtime.artifact import checkpoints, reading
from poolrt.runtime.commands import cli
from poolrt.runtime.store import home, stored

Poolrt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def poolrt(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Poolrt:
    """Runs one command against an empty store: (exit code, stdout, stderr)."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(cache_folder.FOLDER, "")

    def run(*arguments: object) -> tuple[int, str, str]:
        code = cli.main(list(map(str, arguments)))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def whole(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("minilm_like")


def test_pulled_listed_pushed_and_removed(poolrt: Poolrt, whole: Path, tmp_path: Path) -> None:
    code, out, _ = poolrt("list")
    assert code == 0
    assert "nothing is stored" in out
    assert "poolrt pull" in out
    code, out, progress = poolrt("pull", whole)
    assert code == 0
    assert "poolrt serve minilm_like" in out
    assert re.search(r"model\.onnx: \d+ kB\n", progress)
    assert "up to date" in poolrt("pull", whole)[1]
    titles, row = poolrt("list")[1].splitlines()
    assert titles.split() == ["NAME", "TASKS", "PRECISION", "SIZE", "FROM", "USED"]
    assert row.split()[:4] == ["minilm_like", "embed", "token_embed", "fp32"]
    assert str(whole) in row
    (entry,) = json.loads(poolrt("list", "--json")[1])["artifacts"]
    assert entry["name"] == "minilm_like"
    assert entry["origin"]["address"] == str(whole.resolve())

    code, out, _ = poolrt("push", "minilm_like", tmp_path / "share", "--json")
    assert code == 0
    assert json.loads(out) == {"name": "minilm_like", "address": str(tmp_path / "share"), "commit": None}
    reading.read(tmp_path / "share")

    code, _, error = poolrt("rm", "minilm_like", "another")
    assert code == 2
    assert "another: no such folder, and no artifact of that name is stored" in error
    assert stored.lookup("minilm_like") is not None, "nothing goes where one name is wrong"
    code, out, _ = poolrt("rm", "minilm_like")
    assert code == 0
    assert "removed minilm_like" in out
    assert list((tmp_path / "home" / "artifacts").iterdir()) == []


def test_a_command_takes_the_name(poolrt: Poolrt, whole: Path) -> None:
    poolrt("pull", whole, "--name", "tiny")
    assert "bi-encoder" in poolrt("inspect", "tiny")[1]
    assert "64 dims" in poolrt("embed", "tiny", "hello")[1]
    code, _, error = poolrt("embed", "tinny", "hello")
    assert code == 2
    assert "did you mean tiny?" in error


def test_what_is_broken_is_listed_beside_the_others(poolrt: Poolrt, whole: Path) -> None:
    poolrt("pull", whole)
    poolrt("pull", whole, "--name", "broken")
    (home.artifacts() / "broken" / "manifest.json").write_text("{")
    code, out, error = poolrt("list")
    assert code == 0
    assert "minilm_like" in out
    assert "broken" in error
    listed = json.loads(poolrt("list", "--json")[1])
    assert len(listed["artifacts"]) == 1
    assert "not readable as JSON" in listed["problems"][0]


def test_a_dry_run_removes_nothing(poolrt: Poolrt, tmp_path: Path) -> None:
    draft = tmp_path / "home" / "artifacts" / ".dead.partial"
    (draft / "parts").mkdir(parents=True)
    (draft / "parts" / "00").write_bytes(b"x" * 2_000_000)
    code, out, _ = poolrt("prune", "--dry-run")
    assert code == 0
    assert "partial download" in out
    assert "2.0 MB would be free" in out
    assert draft.exists()
    result = json.loads(poolrt("prune", "--json")[1])
    assert (result["bytes"], result["dry_run"]) == (2_000_000, False)
    assert result["leftovers"][0]["path"] == str(draft)
    assert not draft.exists()
    assert poolrt("prune")[1] == "nothing to remove\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "my-checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_checkpoint_is_not_stored_but_named(poolrt: Poolrt, checkpoint: Path) -> None:
    code, out, _ = poolrt("pull", checkpoint)
    assert code == 0
    assert f"poolrt export {checkpoint}" in out
    assert f"poolrt pull --export {checkpoint}" in out
    result = json.loads(poolrt("pull", checkpoint, "--json")[1])
    assert (result["kind"], result["next"]) == ("checkpoint", f"poolrt export {checkpoint}")
    assert list(stored.every()) == []


def test_with_export_its_artifact_is_stored(
    poolrt: Poolrt, checkpoint: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs: list[list[str]] = []

    def call(program: Sequence[str]) -> tuple[int, str]:
        programs.append(list(program[program.index("export") :]))
        out, name = (Path(program[program.index(flag) + 1]) for flag in ("--out", "--name"))
        shutil.copytree(whole, out / name, dirs_exist_ok=True)
        return 0, ""

    monkeypatch.setattr(checkpoints, "call", call)
    code, out, _ = poolrt("pull", "--export", checkpoint, "--precision", "int8")
    assert code == 0
    assert "poolrt serve my-checkpoint" in out
    out = str(home.artifacts())
    export = ["export", str(checkpoint), "--name", "my-checkpoint", "--out", out, "--precision", "int8"]
    assert programs == [export]
    assert stored.lookup("my-checkpoint") == home.artifacts() / "my-checkpoint"
    assert poolrt("pull", "--export", checkpoint)[0] == 0, "again, from the same place"
    stored.keep_origin("my-checkpoint", stored.Origin(address="hf://somebody/else"))
    code, _, error = poolrt("pull", "--export", checkpoint)
    assert code == 2
    assert "stored already, from hf://somebody/else" in error

    def failing(program: Sequence[str]) -> tuple[int, str]:
        return 3, ""

    monkeypatch.setattr(checkpoints, "call", failing)
    code, _, error = poolrt("pull", "--export", checkpoint, "--name", "fresh")
    assert code == 3
    assert "exporting it failed (exit code 3)" in error


@pytest.mark.parametrize("place", ["nowhere", "https://u:secret@example.org/x"])
def test_a_place_that_is_none_is_refused_in_one_line(poolrt: Poolrt, place: str) -> None:
    code, out, error = poolrt("pull", place, "--json")
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "secret" not in error
    value: Any = json.loads(out)
    assert value["error"]["exit_code"] == 2

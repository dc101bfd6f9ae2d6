"""An artifact appears whole or not at all, however the writer ends."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.exporter.base import artifact
from poolrt.runtime.artifact import reading as reader
from poolrt.runtime.errors import ArtifactError, InputError
from poolrt.runtime.store import placing

ROOT = Path(__file__).parents[2]


@pytest.fixture
def whole(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("minilm_like")


def written_again(whole: Path, out: Path, name: str = "copy") -> Path:
    """The same artifact through the writer."""
    old = reader.read(whole)
    with artifact.draft(out, name) as draft:
        for file in old.manifest.files:
            (draft.folder / file).parent.mkdir(parents=True, exist_ok=True)
            (draft.folder / file).write_bytes((whole / file).read_bytes())
        return draft.commit(dataclasses.replace(old.manifest, name=name))


def test_what_is_written_can_be_read(whole: Path, tmp_path: Path) -> None:
    path = written_again(whole, tmp_path)
    again = reader.read(path)
    assert again.manifest.name == "copy"
    assert again.manifest.files == reader.read(whole).manifest.files
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_an_artifact_is_replaced_as_a_whole(whole: Path, tmp_path: Path) -> None:
    written_again(whole, tmp_path)
    (tmp_path / "copy" / "left over").touch()
    written_again(whole, tmp_path)
    assert not (tmp_path / "copy" / "left over").exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]
    reader.read(tmp_path / "copy")


def test_it_is_replaced_where_the_system_cannot_exchange(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "_exchange", lambda one, other: False)
    written_again(whole, tmp_path)
    written_again(whole, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]
    reader.read(tmp_path / "copy")


def test_a_failed_draft_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with artifact.draft(tmp_path, "a") as draft:
            (draft.folder / "model.onnx").write_bytes(b"half")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not an artifact"), artifact.draft(tmp_path, "mine"):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("name", ["", ".hidden", "../up", "a/b", "a b", "a\n"], ids=repr)
def test_a_name_must_be_a_plain_folder_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--name"), artifact.draft(tmp_path, name):
        pass


def _hold(out: str, ready: object, done: object) -> None:
    with artifact.draft(out, "busy"):
        ready.set()  # type: ignore[attr-defined]
        done.wait(60)  # type: ignore[attr-defined]


def test_two_exports_of_one_name_do_not_mix(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(InputError, match="another process"), artifact.draft(tmp_path, "busy"):
            pass
        with artifact.draft(tmp_path, "idle"):
            pass
    finally:
        done.set()
        other.join(60)
    with artifact.draft(tmp_path, "busy"):
        pass


def test_two_exports_of_one_name_in_one_process_do_not_mix(tmp_path: Path) -> None:
    with artifact.draft(tmp_path, "busy"):
        with pytest.raises(InputError, match="wait for it"), artifact.draft(tmp_path, "busy"):
            pass
        with artifact.draft(tmp_path, "idle"):
            pass
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, shutil, signal, sys
sys.path.insert(0, {root!r})
import conftest
from pathlib import Path
from poolrt.exporter.base import artifact
from poolrt.runtime.store import placing
from tests.exporter.test_artifact_writer import written_again

def dying(function, after=False):
    def die(*arguments):
        if after:
            function(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
    return die

{patch}
written_again(Path({whole!r}), Path({out!r}))
"""
MOMENTS = {
    "while hashing": "artifact.sha256 = dying(artifact.sha256)",
    "before the manifest": "artifact.sealed = dying(artifact.sealed)",
    "after the manifest": "artifact.put_in_place = dying(artifact.put_in_place)",
    "after the exchange": "placing._exchange = dying(placing._exchange, after=True)",
    "while removing the old one": "shutil.rmtree = dying(shutil.rmtree)",
}


def killed(whole: Path, out: Path, moment: str) -> None:
    script = textwrap.dedent(KILLED).format(
        root=str(ROOT), whole=str(whole), out=str(out), patch=MOMENTS[moment]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env={**os.environ}
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("moment", ["while hashing", "before the manifest", "after the manifest"])
def test_killed_at_any_moment_nothing_loads(whole: Path, tmp_path: Path, moment: str) -> None:
    killed(whole, tmp_path, moment)
    left = [entry for entry in tmp_path.rglob("*") if entry.is_dir()]
    assert left, "the killed export had begun"
    for folder in left:
        with pytest.raises(ArtifactError):
            reader.read(folder)
    written_again(whole, tmp_path)  # and the next export is not disturbed
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize(
    "moment", ["while hashing", "after the manifest", "after the exchange", "while removing the old one"]
)
def test_killed_while_replacing_one_whole_artifact_stands(whole: Path, tmp_path: Path, moment: str) -> None:
    written_again(whole, tmp_path)
    killed(whole, tmp_path, moment)
    reader.read(tmp_path / "copy")
    for hidden in (entry for entry in tmp_path.iterdir() if entry.is_dir() and entry.name != "copy"):
        with pytest.raises(ArtifactError):
            reader.read(hidden)
    written_again(whole, tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["copy"]


def test_goldens_are_plain_arrays(tmp_path: Path) -> None:
    arrays = {"ids": np.arange(5), "embed": np.ones((2, 3), np.float32)}
    artifact.write_golden(tmp_path, arrays)
    again = artifact.read_golden(tmp_path)
    assert {name: array.tolist() for name, array in again.items()} == {
        name: array.tolist() for name, array in arrays.items()
    }
    with pytest.raises(AssertionError, match="pickle"):
        artifact.write_golden(tmp_path, {"texts": np.array(["a", None], dtype=object)})

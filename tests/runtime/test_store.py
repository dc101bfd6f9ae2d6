"""Names of stored artifacts: resolved, listed, removed; and what nobody needs any more goes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.runtime import cache_folder, load
from poolrt.runtime.artifact import checkpoints
from poolrt.runtime.artifact.manifest import FILE
from poolrt.runtime.errors import ArtifactError, InputError
from poolrt.runtime.store import home, pruning, resolving, stored
from poolrt.runtime.store.locking import locked
from poolrt.runtime.store.stored import Origin

DAY_S = 86400


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Callable[[str], Path]) -> Path:
    """A store with one artifact, `tiny`, that came from the hub, and caches of its own."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(cache_folder.FOLDER, str(tmp_path / "cache" / "engines"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "home" / "artifacts"
    shutil.copytree(artifacts("minilm_like"), folder / "tiny")
    stored.keep_origin("tiny", Origin(address="hf://me/tiny-model", revision="c0ffee"))
    return folder


def test_a_path_comes_first_then_the_store(store: Path, tmp_path: Path) -> None:
    assert resolving.artifact("tiny") == store / "tiny"
    assert resolving.artifact("me/tiny-model") == store / "tiny"
    assert resolving.artifact("hf://me/tiny-model") == store / "tiny"
    with load("tiny", threads=1) as model:
        assert model.folder == store / "tiny"
    (tmp_path / "tiny").mkdir()
    assert resolving.artifact("tiny") == Path("tiny")
    assert resolving.artifact(Path("nowhere")) == Path("nowhere")
    assert resolving.artifact("./no/where") == Path("./no/where")


@pytest.mark.parametrize("name", ["tyni", "Tiny", "tin", "my-tiny"])
def test_a_name_that_is_nearly_right_is_named(store: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match=r"did you mean tiny\?.*poolrt pull"):
        load(name)


def test_a_name_unlike_any_is_said_to_be_unknown(store: Path) -> None:
    with pytest.raises(ArtifactError, match="no such folder, and no artifact of that name") as refusal:
        load("qwen3-reranker")
    assert "did you mean" not in str(refusal.value)


def test_a_checkpoint_is_left_to_the_exporter(store: Path, tmp_path: Path) -> None:
    assert resolving.artifact_or_checkpoint("BAAI/bge-m3") == ("BAAI/bge-m3", [])
    assert resolving.artifact_or_checkpoint("tiny") == (str(store / "tiny"), [])
    with pytest.raises(ArtifactError, match="did you mean"):
        resolving.artifact_or_checkpoint("tinny")


def test_what_is_stored_is_listed_and_a_broken_one_is_said(store: Path) -> None:
    (store / "broken").mkdir()
    (store / "broken" / FILE).write_text("{}")
    (store / ".draft.partial").mkdir()
    (store / "no-artifact").mkdir()
    broken, tiny = stored.every()
    assert isinstance(broken, ArtifactError)
    assert isinstance(tiny, stored.Stored)
    plain = tiny.plain()
    assert (plain["name"], plain["tasks"], plain["precisions"]) == (
        "tiny",
        ["embed", "token_embed"],
        ["fp32"],
    )
    size = (
        sum(path.stat().st_size for path in (store / "tiny").iterdir())
        - (store / "tiny" / FILE).stat().st_size
    )
    assert plain["bytes"] == size
    assert plain["origin"] == {"address": "hf://me/tiny-model", "revision": "c0ffee"} | {
        "stored": plain["used"]
    }


def test_a_use_is_noted(store: Path) -> None:
    record = home.home() / "origins" / "tiny.json"
    os.utime(record, (1e9, 1e9))
    resolving.artifact("tiny")
    (tiny,) = stored.every()
    assert isinstance(tiny, stored.Stored)
    assert tiny.used is not None
    assert time.time() - tiny.used < 1000
    record.unlink()
    resolving.artifact("tiny")
    assert stored.origin_of("tiny") is None


def test_removed_it_is_gone(store: Path) -> None:
    assert stored.drop("tiny") > 100_000
    assert list(store.iterdir()) == []
    assert stored.origin_of("tiny") is None
    for name in ("tiny", "..", "../../etc", "a/b"):
        with pytest.raises(ArtifactError, match="no artifact of that name"):
            stored.drop(name)


def test_a_store_without_a_home_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (home.VARIABLE, "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)

    def homeless() -> Path:
        raise RuntimeError("no home")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match=home.VARIABLE):
        resolving.artifact("tiny")


def old(path: Path, days: float) -> None:
    then = time.time() - days * DAY_S
    os.utime(path, (then, then))


def test_what_nobody_needs_is_found_and_goes_and_nothing_else(store: Path, tmp_path: Path) -> None:
    # Two drafts, one of which somebody is writing.
    (store / ".dead.partial" / "parts").mkdir(parents=True)
    (store / ".dead.partial" / "parts" / "00").write_bytes(b"x" * 100)
    (store / ".busy.partial").mkdir()
    exports = checkpoints.default_cache()
    (exports / ".killed.partial").mkdir(parents=True)
    # Exports of checkpoints: one long unused, one in use, and a folder of somebody's own.
    for name in ("long-0123456789ab", "fresh-0123456789ab", "mine"):
        shutil.copytree(store / "tiny", exports / name)
    old(exports / "long-0123456789ab", 31)
    old(exports / "mine", 31)
    # What is kept of folders, of which one is gone, and their compiled graphs.
    engines = tmp_path / "cache" / "engines"
    for name, folder in (("here", store / "tiny"), ("gone", tmp_path / "gone")):
        cache_folder.remember(f"files-{name}", {cache_folder.ABOUT: str(folder), "model.onnx": [1]})
        cache_folder.remember(f"{cache_folder.OF}{name}", {cache_folder.ABOUT: str(folder)})
        (engines / f"{name}.blob").write_bytes(b"compiled")
    cache_folder.remember("a choice", {"engine": "onnxruntime"})
    for name, days in (("lately", 1), ("once", 40)):
        (engines / f"{name}.blob").write_bytes(b"compiled")
        old(engines / f"{name}.blob", days)
    stored.keep_origin("removed", Origin(address="hf://me/removed"))

    with locked(store / ".busy.lock", "busy"):
        several = pruning.leftovers()
        assert sorted(item.path.name for item in several) == [
            ".dead.partial", ".killed.partial", "files-gone.json", "gone.blob", "long-0123456789ab",
            "of-gone.json", "once.blob", "removed.json",
        ]  # fmt: skip
        assert all(item.path.exists() for item in several), "looking removes nothing"
        assert next(item.size for item in several if item.path.name == ".dead.partial") == 100
        assert pruning.prune(several) == sum(item.size for item in several)
    assert not any(item.path.exists() for item in several)
    assert (store / ".busy.partial").exists()
    assert [item.path.name for item in pruning.leftovers()] == [".busy.partial"], "now nobody writes it"
    assert sorted(path.name for path in exports.iterdir()) == ["fresh-0123456789ab", "mine"]
    assert load("tiny", threads=1).close() is None


def test_a_draft_that_is_written_meanwhile_stays(store: Path) -> None:
    (store / ".a.partial").mkdir()
    several = pruning.leftovers()
    with locked(store / ".a.lock", "busy"):
        assert pruning.prune(several) == 0
    assert (store / ".a.partial").exists()

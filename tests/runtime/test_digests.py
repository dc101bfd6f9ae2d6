"""Files of an artifact that are not hashed again at every start, and those that are."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from poolrt.runtime import cache_folder
from poolrt.runtime.artifact import digests, reading
from poolrt.runtime.errors import ArtifactError

TICK_S = 0.02  # the clock of a file system has steps of up to 10 ms
CHANGED = "tokenizer_config.json"


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(cache_folder.FOLDER, str(tmp_path / "kept"))
    # As if the files had been written long ago.
    monkeypatch.setattr(digests, "SETTLED_NS", -(10**12))
    return tmp_path / "kept"


@pytest.fixture
def folder(artifacts, tmp_path) -> Path:
    return shutil.copytree(artifacts("minilm_like"), tmp_path / "artifact")


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """Names of the files that are read."""
    names: list[str] = []
    compute = digests.sha256

    def noted(path: Path) -> str:
        names.append(path.name)
        return compute(path)

    monkeypatch.setattr(digests, "sha256", noted)
    return names


def damage(path: Path) -> os.stat_result:
    """Changes one byte of a file. Returns its facts of before."""
    facts, content = path.stat(), path.read_bytes()
    time.sleep(TICK_S)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return facts


def test_an_unchanged_file_is_hashed_once(folder, kept, hashed):
    first = reading.read(folder, check="once")
    assert sorted(hashed) == sorted(first.manifest.files)
    hashed.clear()
    assert reading.read(folder, check="once") == first
    assert hashed == []
    assert kept.stat().st_mode & 0o077 == 0
    reading.read(folder)
    reading.read(folder, check="full")
    # Neither reads the memory, nor goes through it.
    assert hashed == []


@pytest.mark.parametrize("restored", [False, True], ids=["plainly", "with its old time"])
@pytest.mark.parametrize("replaced", [False, True], ids=["in place", "by another file"])
def test_a_file_that_changes_after_it_was_hashed_is_refused(folder, kept, hashed, restored, replaced):
    reading.read(folder, check="once")
    path = folder / CHANGED
    if replaced:
        path.rename(folder / "old")
        shutil.copy2(folder / "old", path)
        (folder / "old").unlink()
    facts = damage(path)
    if restored:
        os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        assert path.stat().st_mtime_ns == facts.st_mtime_ns
    hashed.clear()
    with pytest.raises(ArtifactError, match=f"{CHANGED}: changed since it was exported"):
        reading.read(folder, check="once")
    assert hashed == [CHANGED]
    # The refusal is no reason to believe it the next time.
    with pytest.raises(ArtifactError, match=f"{CHANGED}: changed since it was exported"):
        reading.read(folder, check="once")


def test_full_sees_what_does_not_pass_through_the_file_system(folder, kept):
    reading.read(folder, check="once")
    (record,) = kept.glob("files-*.json")
    damage(folder / CHANGED)
    facts = json.loads(record.read_text())
    state = (folder / CHANGED).stat()
    facts[CHANGED][3:5] = [state.st_mtime_ns, state.st_ctime_ns]
    record.write_text(json.dumps(facts))
    reading.read(folder, check="once")
    with pytest.raises(ArtifactError, match="changed since"):
        reading.read(folder, check="full")


def test_a_file_written_just_now_is_hashed_again(folder, kept, hashed, monkeypatch):
    monkeypatch.setattr(digests, "SETTLED_NS", 3600 * 10**9)
    for _ in range(2):
        reading.read(folder, check="once")
    assert len(hashed) == 2 * len(set(hashed))
    assert not kept.exists()


@pytest.mark.parametrize(
    "record",
    ["{", "[]", "null", '{"tokenizer.json": 7}', '{"tokenizer.json": [1, 2, 3, 4, 5, 6]}', "[" * 10**5],
)
def test_a_record_that_is_no_record_is_done_without(folder, kept, hashed, record):
    reading.read(folder, check="once")
    (path,) = kept.glob("files-*.json")
    path.write_text(record)
    hashed.clear()
    reading.read(folder, check="once")
    assert "tokenizer.json" in hashed


@pytest.mark.parametrize("system", ["no folder", "no time of change"])
def test_without_a_memory_every_start_hashes(folder, kept, hashed, monkeypatch, system):
    if system == "no folder":
        monkeypatch.setenv(cache_folder.FOLDER, "")
    else:
        monkeypatch.setattr(digests, "REMEMBERS", False)
    for _ in range(2):
        reading.read(folder, check="once")
    assert len(hashed) == 2 * len(set(hashed))
    assert not kept.exists()


def test_the_oldest_records_go(kept, monkeypatch):
    monkeypatch.setattr(cache_folder, "MOST_RECORDS", 3)
    for age, name in enumerate("abcde"):
        cache_folder.remember(name, {"name": name})
        os.utime(kept / f"{name}.json", (1e9 + age, 1e9 + age))
    assert sorted(path.stem for path in kept.glob("*.json")) == ["c", "d", "e"]
    assert cache_folder.recall("a") is None
    assert cache_folder.recall("e") == {"name": "e"}

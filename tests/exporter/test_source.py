from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.files import source
from poolrt.runtime.errors import CheckpointError

Paths = Callable[[str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(checkpoints: Paths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a tiny checkpoint into an offline hub cache under a hub id."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))

    def put(name: str, hub_id: str) -> Path:
        home = tmp_path / f"models--{hub_id.replace('/', '--')}"
        (home / "refs").mkdir(parents=True)
        (home / "refs/main").write_text(COMMIT)
        return Path(shutil.copytree(checkpoints(name), home / "snapshots" / COMMIT))

    return put


def test_a_hub_id_in_the_cache_is_read_offline(cached: Callable[[str, str], Path]):
    folder = cached("minilm_like", "somebody/tiny")
    read = checkpoint.read("somebody/tiny")
    assert (read.source, read.folder, read.revision) == ("somebody/tiny", folder, COMMIT)


def test_a_cached_pickle_is_enough(cached: Callable[[str, str], Path]):
    cached("bert_vocab_txt", "somebody/old")
    assert checkpoint.read("somebody/old").architecture == "BertForMaskedLM"


def test_a_snapshot_folder_is_called_by_its_hub_id(cached: Callable[[str, str], Path]):
    folder = cached("minilm_like", "somebody/tiny")
    assert source.find(str(folder)).name == "somebody/tiny"


@pytest.mark.parametrize("name", ["", " "])
def test_no_name_is_not_the_current_folder(name: str):
    with pytest.raises(CheckpointError, match="the name is empty"):
        source.find(name)


def test_a_folder_is_called_by_its_own_name(checkpoints: Paths, monkeypatch: pytest.MonkeyPatch):
    folder = checkpoints("minilm_like")
    monkeypatch.chdir(folder)
    assert source.find(".").name == folder.name


@pytest.mark.parametrize(
    "file", ["modeling_x.py", "onnx/model.onnx", "optimizer.pt", "consolidated.safetensors", "model.gguf"]
)
def test_what_is_not_needed_is_not_downloaded(file: str):
    assert not wanted(file)


@pytest.mark.parametrize(
    "file",
    [
        "config.json",
        "1_Pooling/config.json",
        "2_Dense/pytorch_model.bin",
        "model-00001-of-00002.safetensors",
        "artifact.metadata",
    ],
)
def test_what_is_needed_is_downloaded(file: str):
    assert wanted(file)


def wanted(file: str) -> bool:
    from huggingface_hub.utils import filter_repo_objects

    allowed = [*source.SMALL, *source.SAFE_WEIGHTS]
    return bool(
        list(filter_repo_objects([file], allow_patterns=allowed, ignore_patterns=list(source.LEFT_OUT)))
    )


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("models--org--m/snapshots/abc", "org/m"), ("models--m/snapshots/abc", "m"),
        ("models--org--m/other/abc", "abc"),
        ("folder/snapshots/abc", "abc"), ("models--org--a--b/snapshots/abc", "org/a/b"),
    ],
)  # fmt: skip
def test_only_a_snapshot_of_the_hubs_cache_is_called_by_its_id(tmp_path: Path, path: str, name: str):
    (tmp_path / path).mkdir(parents=True)
    assert source.find(str(tmp_path / path)).name == name


@pytest.mark.parametrize("revision", [None, "v1"])
@pytest.mark.parametrize("held", ["model.safetensors", "0_Transformer/model.safetensors", None])
def test_pickles_are_fetched_only_where_there_is_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: str | None, revision: str | None
):
    asked: list[dict[str, object]] = []
    folder = tmp_path / "snapshots" / COMMIT

    def snapshot_download(hub_id: str, **options: object) -> str:
        asked.append({"hub_id": hub_id, **options})
        (folder / "0_Transformer").mkdir(parents=True, exist_ok=True)
        if held is not None:
            (folder / held).touch()
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    found = source.find("org/m", revision)
    assert (found.name, found.folder, found.revision) == ("org/m", folder, revision or COMMIT)
    assert len(asked) == (1 if held else 2)
    for call in asked:
        assert (call["hub_id"], call["revision"], call["ignore_patterns"]) == (
            "org/m",
            revision,
            list(source.LEFT_OUT),
        )
    allowed: list[Any] = [call["allow_patterns"] for call in asked]
    assert all("*.safetensors" in patterns and "*.json" in patterns for patterns in allowed)
    assert not any("config.json" in patterns for patterns in allowed)
    assert ["pytorch_model*.bin" in patterns for patterns in allowed] == [False, True][: len(asked)]

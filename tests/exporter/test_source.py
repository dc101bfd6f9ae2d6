from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.files import source
from poolrt.runtime.errors import CheckpointError

from tests.families import qwen3_5

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


@pytest.mark.parametrize(
    "address", ["hf://somebody/tiny", f"somebody/tiny@{COMMIT}", f"hf://somebody/tiny@{COMMIT}"]
)
def test_an_address_of_the_hub_is_read_as_its_parts(cached: Callable[[str, str], Path], address: str):
    folder = cached("minilm_like", "somebody/tiny")
    place = source.find(address)
    assert (place.name, place.folder, place.revision) == ("somebody/tiny", folder, COMMIT)


def test_an_address_may_name_a_folder(cached: Callable[[str, str], Path]):
    folder = cached("minilm_like", "somebody/tiny")
    inner = Path(shutil.copytree(folder, folder / "v1"))
    place = source.find("hf://somebody/tiny/v1")
    assert (place.folder, place.subfolder) == (inner, "v1")


@pytest.mark.parametrize(
    ("address", "revision", "subfolder", "words"),
    [
        ("a/b@v1", "v2", None, "names 'v1', and --revision 'v2'"),
        ("hf://a/b/v1", None, "v2", "names 'v1', and --subfolder 'v2'"),
        ("hf://a", None, None, "expected hf://owner/name"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused(
    address: str, revision: str | None, subfolder: str | None, words: str
):
    with pytest.raises(CheckpointError, match=words):
        source.find(address, revision, subfolder)


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


class Hub:
    """Stands in for the hub: a repository with these files, of which those that match are fetched."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder, self.files = folder / "snapshots" / COMMIT, files
        self.calls: list[dict[str, Any]] = []

    def snapshot_download(self, hub_id: str, **options: Any) -> str:
        from huggingface_hub.utils import filter_repo_objects

        self.calls.append({"hub_id": hub_id, **options})
        self.folder.mkdir(parents=True, exist_ok=True)
        patterns = {key: options[key] for key in ("allow_patterns", "ignore_patterns")}
        for name in filter_repo_objects(list(self.files), **patterns):
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_text(self.files[name])
        return str(self.folder)

    @property
    def fetched(self) -> set[str]:
        return {path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file()}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], Hub]:
    def put(files: dict[str, str]) -> Hub:
        hub = Hub(tmp_path, files)
        monkeypatch.setattr("huggingface_hub.snapshot_download", hub.snapshot_download)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        return hub

    return put


MODEL = '{"model_type": "bert"}'


@pytest.mark.parametrize("revision", [None, "v1"])
@pytest.mark.parametrize("held", ["model.safetensors", "0_Transformer/model.safetensors", None])
def test_pickles_are_fetched_only_where_there_is_nothing_else(
    hub: Callable[[dict[str, str]], Hub], held: str | None, revision: str | None
):
    files = {"config.json": MODEL, "pytorch_model.bin": "", "0_Transformer/pytorch_model.bin": "", "a.h5": ""}
    repository = hub(files | ({} if held is None else {held: ""}))
    place = source.find("org/m", revision)
    assert (place.name, place.folder, place.revision) == ("org/m", repository.folder, revision or COMMIT)
    pickles = {"pytorch_model.bin", "0_Transformer/pytorch_model.bin"}
    assert repository.fetched == {"config.json"} | (pickles if held is None else {held})
    assert {(call["hub_id"], call["revision"]) for call in repository.calls} == {("org/m", revision)}


VERSIONS = {
    **{f"{folder}{name}": text for folder in ("", "v1/", "old/v2/") for name, text in (
        ("config.json", MODEL), ("model.safetensors", ""), ("tokenizer.json", "{}"), ("onnx/model.onnx", ""),
    )},
    "1_Pooling/config.json": '{"pooling_mode_cls_token": true}', "2_Dense/model.safetensors": "",
}  # fmt: skip


def test_weights_of_other_checkpoints_in_a_repository_are_not_fetched(hub: Callable[[dict[str, str]], Hub]):
    repository = hub(VERSIONS)
    assert source.find("org/m").subfolder is None
    weights = {name for name in repository.fetched if not name.endswith(".json")}
    assert weights == {"model.safetensors", "2_Dense/model.safetensors"}


@pytest.mark.parametrize("inside", ["v1", "old/v2", "./v1/"])
def test_one_checkpoint_of_a_repository_is_fetched_alone(hub: Callable[[dict[str, str]], Hub], inside: str):
    repository = hub(VERSIONS)
    place = source.find("org/m", "main", inside)
    clean = inside.strip("./")
    assert (place.name, place.folder, place.revision, place.subfolder) == (
        "org/m", repository.folder / clean, "main", clean,
    )  # fmt: skip
    names = ("config.json", "model.safetensors", "tokenizer.json")
    assert repository.fetched == {f"{clean}/{name}" for name in names}


def test_a_repository_of_several_checkpoints_names_them(hub: Callable[[dict[str, str]], Hub]):
    inner = {name: text for name, text in VERSIONS.items() if name.startswith(("v1", "old"))}
    repository = hub(inner)
    with pytest.raises(CheckpointError, match=r"^org/m: no config.json, but .* --subfolder old/v2 or v1$"):
        checkpoint.read("org/m")
    assert not any(name.endswith(".safetensors") for name in repository.fetched)
    with pytest.raises(CheckpointError, match=r"^org/m: no config.json in its folder v3; .*: old/v2, v1$"):
        checkpoint.read("org/m", subfolder="v3")


def test_a_folder_of_the_cache_is_read_offline(cached: Callable[[str, str], Path], checkpoints: Paths):
    folder = cached("minilm_like", "somebody/tiny")
    shutil.copytree(checkpoints("bert_plain"), folder / "v1")
    read = checkpoint.read("somebody/tiny", subfolder="v1")
    assert (read.source, read.folder, read.subfolder) == ("somebody/tiny", folder / "v1", "v1")
    assert (read.described({}, {}).checkpoint, read.described({}, {}).subfolder) == ("somebody/tiny", "v1")
    assert pipeline._default_name(read) == "tiny-v1"
    with pytest.raises(CheckpointError, match=r"in its folder v2 of the local cache \(offline.*: v1$"):
        checkpoint.read("somebody/tiny", subfolder="v2")


def test_a_local_folder_of_several_checkpoints(tmp_path: Path):
    qwen3_5.colqwen3_5(tmp_path / "colqwen3.5-4.5B-v3" / "v1")
    outer = tmp_path / "colqwen3.5-4.5B-v3"
    with pytest.raises(CheckpointError, match=f"^{outer}: no config.json, but .*; give --subfolder v1$"):
        checkpoint.read(outer)
    for read in (checkpoint.read(outer, subfolder="v1"), checkpoint.read(outer / "v1")):
        assert (read.architecture, read.folder) == ("ColQwen3_5", outer / "v1")
    read = checkpoint.read(outer, subfolder="v1")
    assert (read.source, pipeline._default_name(read)) == (outer.name, f"{outer.name}-v1")
    # A version in a folder is prepared as the repository's recipe says.
    assert read.recipe is not None
    assert read.recipe.name == "colqwen3.5"


@pytest.mark.parametrize("inside", ["", ".", "..", "../v1", "/v1", "a\\b", "v*", "[v]"])
def test_a_folder_outside_the_repository_is_refused(inside: str):
    with pytest.raises(CheckpointError, match="is no folder inside the repository; give a path such as v1"):
        source.find("org/m", None, inside)


def test_a_folder_behind_a_hub_id_is_told_how_to_be_given():
    with pytest.raises(CheckpointError, match=r"; for a folder of a repository: org/m --subfolder v1/b$"):
        source.find("org/m/v1/b")

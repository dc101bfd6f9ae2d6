"""Artifacts come into the store whole or not at all, from web servers, the hub and buckets."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from poolrt.runtime import load
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import FILE, File
from poolrt.runtime.artifact.reading import sealed
from poolrt.runtime.errors import ArtifactError, InputError
from poolrt.runtime.store import arriving, buckets, home, pushing, resolving, sources, stored
from poolrt.runtime.store.addresses import HubAddress, Url, parsed
from poolrt.runtime.store.pulling import IsCheckpoint, pull

from .places import Hub, Web, hub, web

PREFIX = "store-test"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of the hub's client


def quiet(line: str) -> None:
    pass


@pytest.fixture
def whole(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("minilm_like")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    monkeypatch.setattr(sources, "WAIT_S", 0.0)
    return tmp_path / "home" / "artifacts"


@pytest.fixture
def server(whole: Path) -> Iterator[Web]:
    with web(whole) as place:
        yield place


def same(folder: Path, other: Path) -> None:
    """Both folders hold the same artifact, and nothing of how it came is left."""
    listed = reading.read(other).manifest.files
    assert sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    ) == sorted([*listed, FILE])
    for name in (*listed, FILE):
        assert (folder / name).read_bytes() == (other / name).read_bytes()
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


# --- from a web server


def test_an_artifact_comes_whole_from_a_web_server(server: Web, whole: Path, store: Path) -> None:
    artifact = pull(server.url, say=quiet)
    assert (artifact.name, artifact.is_new) == ("minilm_like", True)
    same(store / "minilm_like", whole)
    assert stored.origin_of("minilm_like") == stored.Origin(
        address=server.url,
        stored=stored.origin_of("minilm_like").stored,  # type: ignore[union-attr]
    )
    server.requests.clear()
    assert not pull(server.url, say=quiet).is_new
    assert [path for path, _ in server.requests] == [FILE], "what is there is not fetched again"


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_a_connection_that_breaks_is_gone_on_with(whole: Path, store: Path, ranges: bool) -> None:
    """Each connection ends after 100 kB; that of a server without ranges a little later each time."""
    with web(whole, most=100_000, ranges=ranges) as place:
        if not ranges:
            place.watch = lambda sent: setattr(place, "most", 60_000 * (len(place.requests) + 1))
        pull(place.url, say=quiet)
    same(store / "minilm_like", whole)
    size = (whole / "model.onnx").stat().st_size
    ranges_of_model = [begin for path, begin in place.requests if path == "model.onnx"]
    assert ranges_of_model[0] is None
    assert len(ranges_of_model) > 1
    assert all(ranges_of_model[1:])
    if ranges:
        assert ranges_of_model == [None, *(f"bytes={start}-" for start in range(100_000, size, 100_000))]


def test_a_server_that_stays_silent_is_given_up_and_gone_on_with_later(whole: Path, store: Path) -> None:
    with web(whole, most=0) as place:

        def after_manifest(sent: int) -> None:
            place.most = 0 if len(place.requests) > 1 else None

        place.most, place.watch = None, after_manifest
        with pytest.raises(ArtifactError, match="goes on from what is there"):
            pull(place.url, say=quiet)
        assert not (store / "minilm_like").exists()
        place.most, place.watch = None, lambda sent: None
        pull(place.url, say=quiet)
    same(store / "minilm_like", whole)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the child needs none of the threads
def test_killed_at_any_moment_the_next_attempt_ends_it(server: Web, whole: Path, store: Path) -> None:
    """SIGKILL at six moments of the transfer: nothing that a name finds is ever half."""
    total = sum(file.size for file in reading.read(whole).manifest.files.values())
    context = multiprocessing.get_context("fork")
    for moment in range(6):
        child = context.Process(target=pull, args=(server.url,), kwargs={"say": quiet})
        limit = server.sent + total // 8

        def kill(sent: int, child: Any = child, limit: int = limit) -> None:
            if sent >= limit:
                os.kill(child.pid, signal.SIGKILL)

        server.watch = kill
        child.start()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL, f"moment {moment}: it was over before"
        assert stored.lookup("minilm_like") is None
        assert list(stored.every()) == []
    server.watch = lambda sent: None
    pull(server.url, say=quiet)
    same(store / "minilm_like", whole)


def test_two_pulls_of_one_name_do_not_mix(server: Web, store: Path) -> None:
    store.mkdir(parents=True)
    from poolrt.runtime.store.locking import locked

    with locked(store / ".minilm_like.lock", "busy"), pytest.raises(InputError, match="another process"):
        pull(server.url, say=quiet)


def test_a_damaged_beginning_is_fetched_again(server: Web, whole: Path, store: Path) -> None:
    digest = reading.read(whole).manifest.files["model.onnx"].sha256
    parts = store / ".minilm_like.partial" / "parts"
    parts.mkdir(parents=True)
    (parts / digest).write_bytes(b"not what was sent" * 100)
    (parts / ("0" * 64)).write_bytes(b"of another version")
    pull(server.url, say=quiet)
    same(store / "minilm_like", whole)


def changed(folder: Path, **fields: Any) -> None:
    """Writes a manifest with other fields, sealed as its author would."""
    manifest = reading.described(FILE, (folder / FILE).read_bytes())
    (folder / FILE).write_bytes(sealed(replace(manifest, **fields)))


@pytest.fixture
def own(whole: Path, tmp_path: Path) -> Iterator[Web]:
    """A server whose artifact a test may change."""
    with web(Path(shutil.copytree(whole, tmp_path / "own"))) as place:
        yield place


def test_a_newer_version_replaces_the_stored_one_and_fetches_what_differs(own: Web, store: Path) -> None:
    pull(own.url, say=quiet)
    (own.folder / "note.txt").write_bytes(b"new")
    files = reading.read(own.folder).manifest.files
    digest = "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    changed(own.folder, files={**files, "note.txt": File(size=3, sha256=digest)})
    own.requests.clear()
    assert pull(own.url, say=quiet).is_new
    assert [path for path, _ in own.requests] == [FILE, "note.txt"]
    same(store / "minilm_like", own.folder)


HOSTILE: dict[str, Any] = {
    "../../up": "leaves the folder",
    "/etc/cron.d/x": "leaves the folder",
    "a\\b": "leaves the folder",
    "c:x": "leaves the folder",
    "Manifest.json": "the manifest itself",
    "model.onnx/below": "a file and a folder",
}


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_hostile_paths_are_refused_before_anything_comes(own: Web, store: Path, name: str) -> None:
    files = reading.read(own.folder).manifest.files
    changed(own.folder, files={**files, name: files["golden.npz"]})
    with pytest.raises(ArtifactError, match=HOSTILE[name]):
        pull(own.url, say=quiet)
    assert [path for path, _ in own.requests] == [FILE]
    assert not store.exists()


def test_hostile_names_sizes_and_contents_are_refused(
    own: Web, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = reading.read(own.folder).manifest.files
    changed(own.folder, name="../up")
    with pytest.raises(InputError, match="--name"):
        pull(own.url, say=quiet)
    huge = replace(files["golden.npz"], size=1 << 60)
    changed(own.folder, name="a", files={**files, "golden.npz": huge})
    with pytest.raises(ArtifactError, match="room"):
        pull(own.url, say=quiet)
    smaller = replace(files["golden.npz"], size=10)
    changed(own.folder, name="b", files={**files, "golden.npz": smaller})
    with pytest.raises(ArtifactError, match="more than the 10 bytes"):
        pull(own.url, say=quiet)
    other = replace(files["golden.npz"], sha256="1" * 64)
    changed(own.folder, name="c", files={**files, "golden.npz": other})
    with pytest.raises(ArtifactError, match="sha256 is not the manifest's"):
        pull(own.url, say=quiet)
    changed(own.folder, name="d", files={f"{n}": files["golden.npz"] for n in range(arriving.MOST_FILES + 1)})
    with pytest.raises(ArtifactError, match="10001 files"):
        pull(own.url, say=quiet)
    monkeypatch.setattr(reading, "MOST_MANIFEST_BYTES", 1000)
    with pytest.raises(ArtifactError, match="more than 1000 bytes"):
        pull(own.url, say=quiet)
    assert list(stored.every()) == []


def test_a_manifest_that_somebody_changed_is_refused(own: Web) -> None:
    text = (own.folder / FILE).read_bytes()
    (own.folder / FILE).write_bytes(text.replace(b'"embed"', b'"ember"', 1))
    with pytest.raises(ArtifactError, match="changed since it was written"):
        pull(own.url, say=quiet)


def test_a_name_belongs_to_one_origin(server: Web, own: Web) -> None:
    pull(server.url, say=quiet)
    with pytest.raises(InputError, match=r"stored already, from http.*--name"):
        pull(own.url, say=quiet)
    assert pull(own.url, name="other", say=quiet).name == "other"


def test_a_password_comes_from_netrc(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with web(whole, login="me:secret") as place:
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        with pytest.raises(ArtifactError, match=r"access is refused.*401.*~/\.netrc"):
            pull(place.url, say=quiet)
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        assert pull(place.url, say=quiet).is_new


def test_what_is_missing_or_forbidden_is_said(server: Web, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no manifest\.json there"):
        pull(f"{server.url}/nothing", say=quiet)
    with pytest.raises(ArtifactError, match="not reachable"):
        pull("http://127.0.0.1:9/x", say=quiet)
    with pytest.raises(InputError, match="neither a folder"):
        pull("nowhere", say=quiet)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a/b", HubAddress("a/b")),
        ("hf://a/b@v1", HubAddress("a/b", "v1")),
        ("a/b@v1", HubAddress("a/b", "v1")),
        ("hf://a/b@refs%2Fpr%2F1/sub/x", HubAddress("a/b", "refs/pr/1", "sub/x")),
        ("hf://a/b/int8/", HubAddress("a/b", None, "int8")),
        ("s3://bucket/path/", Url("s3://bucket/path")),
    ],
)
def test_an_address_is_read_and_written_as_it_was(text: str, address: Any) -> None:
    assert parsed(text) == address
    assert parsed(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "hf://a",
        "hf://a/b/../c",
        "hf://a/b/*",
        "https://u:secret@x/",
        "zip://x::http://y",
        "https://x/?t=1",
        "s3://",
    ],
)
def test_addresses_that_mean_something_else_are_refused(text: str) -> None:
    with pytest.raises(InputError) as refusal:
        parsed(text)
    assert "secret" not in str(refusal.value)


# --- from and to what fsspec opens


@pytest.fixture
def bucket() -> Iterator[str]:
    """An address in fsspec's own file system in memory."""
    yield f"memory://{PREFIX}/model"
    files = fsspec.filesystem("memory")
    with suppress(FileNotFoundError):
        files.rm(f"/{PREFIX}", recursive=True)


def test_pushed_into_a_bucket_it_is_loaded_in_one_step(bucket: str, whole: Path, store: Path) -> None:
    assert pushing.push(whole, bucket, say=quiet).address == bucket
    with load(bucket, threads=1) as model, load(whole, threads=1) as original:
        assert (model.embed("a")[0].outputs.data == original.embed("a")[0].outputs.data).all()
    same(store / "minilm_like", whole)
    fsspec.filesystem("memory").rm(f"/{PREFIX}", recursive=True)
    with load(bucket, threads=1):
        pass  # from the store


def test_a_bucket_never_shows_half_an_artifact(
    bucket: str, whole: Path, own: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload that ends at any file leaves no manifest, and the next one ends it."""
    files = fsspec.filesystem("memory")
    pushing.push(own.folder, bucket, say=quiet)
    files.pipe(f"/{PREFIX}/model/README.md", b"mine")
    listed = dict(reading.read(own.folder).manifest.files)
    (own.folder / "golden.npz").unlink()
    del listed["golden.npz"]
    changed(own.folder, files=listed)
    put = type(files).put_file
    for moment in range(len(listed) + 1):
        count = iter(range(moment, -1, -1))

        def failing(self: Any, lpath: str, rpath: str, left: Any = count, **more: Any) -> None:
            if next(left) == 0:
                raise RuntimeError("the connection broke")
            put(self, lpath, rpath, **more)

        with monkeypatch.context() as patch:
            patch.setattr(type(files), "put_file", failing)
            with pytest.raises(ArtifactError, match="the connection broke"):
                pushing.push(own.folder, bucket, say=quiet)
        with pytest.raises(ArtifactError, match=r"no manifest\.json there"):
            pull(bucket, say=quiet)
    pushing.push(own.folder, bucket, say=quiet)
    names = {path.rpartition("/")[2] for path in files.find(f"/{PREFIX}/model")}
    # The manifest that listed it was gone by then, so nobody knows whose golden.npz is.
    assert names == {*listed, FILE, "README.md", "golden.npz"}
    pull(bucket, say=quiet)


def test_what_only_the_older_artifact_had_goes(bucket: str, own: Web) -> None:
    pushing.push(own.folder, bucket, say=quiet)
    listed = dict(reading.read(own.folder).manifest.files)
    (own.folder / "golden.npz").unlink()
    del listed["golden.npz"]
    changed(own.folder, files=listed)
    pushing.push(own.folder, bucket, say=quiet)
    names = {path.rpartition("/")[2] for path in fsspec.filesystem("memory").find(f"/{PREFIX}/model")}
    assert names == {*listed, FILE}


def test_a_folder_is_pushed_to_and_pulled_from(whole: Path, tmp_path: Path, store: Path) -> None:
    target = tmp_path / "share" / "model"
    pushing.push(whole, str(target), say=quiet)
    pushing.push(whole, str(target), say=quiet)
    same(target, whole)
    pull(str(target), say=quiet)
    same(store / "minilm_like", whole)
    pushing.push(whole, f"file://{tmp_path}/other", say=quiet)
    reading.read(tmp_path / "other")
    with load(f"file://{tmp_path}/other", threads=1):
        pass
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not replaced"):
        pushing.push(whole, str(tmp_path / "mine"), say=quiet)
    with pytest.raises(InputError, match="no uploads"):
        pushing.push(whole, "https://example.org/x", say=quiet)


def test_a_checkpoint_in_a_bucket_is_brought_here_without_what_no_export_reads(
    bucket: str, tmp_path: Path
) -> None:
    files = fsspec.filesystem("memory")
    contents = {"config.json": b"{}", "model.safetensors": b"w" * 5000, "1_Dense/config.json": b"{}"}
    others = {"onnx/model.onnx": b"o", "tf_model.h5": b"h", "modeling.py": b"code", "pytorch_model.bin": b"p"}
    for name, content in {**contents, **others}.items():
        files.pipe(f"/{PREFIX}/model/{name}", content)
    with pytest.raises(IsCheckpoint, match=f"poolrt pull {bucket}"):
        pull(bucket, say=quiet)
    place, options = resolving.artifact_or_checkpoint(bucket)
    folder = Path(place)
    assert (folder.parent, options) == (tmp_path / "home" / "checkpoints", [])
    assert folder.name.startswith("model-")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.part").write_bytes(b"w" * 3000)
    assert resolving.artifact_or_checkpoint(bucket) == (place, []), "gone on with"
    brought = {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert brought == contents
    files.pipe(f"/{PREFIX}/model/config.json", b"{ }")
    assert resolving.artifact_or_checkpoint(bucket)[0] != place, "another version has a folder of its own"


def test_a_scheme_whose_package_is_missing_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, "s3", raising=False)
    with pytest.raises(ArtifactError, match=r"s3fs.*pip install 'poolrt\[s3\]'"):
        pull("s3://bucket/x", say=quiet)
    with pytest.raises(ArtifactError, match=r"not known: s4.*hf://, https://"):
        pull("s4://bucket/x", say=quiet)


class NoCredentialsError(Exception):
    """Of a cloud's library: no OSError."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NoCredentialsError("unable to locate credentials"), "access is refused.*by the environment"),
        (PermissionError("Forbidden"), "access is refused.*Forbidden"),
        (RuntimeError("no endpoint"), "not reachable.*RuntimeError: no endpoint"),
    ],
)
def test_a_bucket_that_cannot_be_asked_says_why(
    bucket: str, whole: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(fsspec.filesystem("memory")), "exists", refused)
        with pytest.raises(ArtifactError, match=words):
            pull(bucket, say=quiet)
        with pytest.raises(ArtifactError, match=words):
            pushing.push(whole, bucket, say=quiet)


def test_a_bucket_of_no_name_is_not_made(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an object store a folder's making would make its bucket."""
    monkeypatch.setattr(buckets, "OBJECT_STORES", frozenset(["memory"]))
    monkeypatch.setattr(pushing, "OBJECT_STORES", frozenset(["memory"]))
    with pytest.raises(ArtifactError, match="there is no bucket 'no-such'"):
        pushing.push(whole, "memory://no-such/model", say=quiet)
    with pytest.raises(ArtifactError, match="there is no bucket 'no-such'"):
        pull("memory://no-such/model", say=quiet)
    assert not fsspec.filesystem("memory").exists("/no-such")


def test_a_file_that_is_shorter_than_the_manifest_says_is_named(bucket: str, whole: Path) -> None:
    pushing.push(whole, bucket, say=quiet)
    files = fsspec.filesystem("memory")
    files.pipe_file(f"/{PREFIX}/model/model.onnx", b"short")
    with pytest.raises(ArtifactError, match=r"model\.onnx: it ended after 5 of \d+ bytes.*push it again"):
        pull(bucket, say=quiet)


# --- the hub, by huggingface_hub's own client


@pytest.fixture
def repositories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    with hub() as place:
        monkeypatch.setenv("HF_ENDPOINT", place.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield place


def test_pushed_to_the_hub_in_one_commit_and_loaded_in_one_step(
    repositories: Hub, whole: Path, store: Path
) -> None:
    published = pushing.push(whole, "me/tiny", say=quiet)
    assert published.address == "hf://me/tiny"
    first, second = repositories.repositories["me/tiny"]
    assert FILE not in first
    assert set(second) == {".gitattributes", FILE, *reading.read(whole).manifest.files}
    assert second["model.onnx"] == (whole / "model.onnx").read_bytes()
    with load("hf://me/tiny", threads=1) as model:
        assert model.name == "minilm_like"
    same(store / "minilm_like", whole)
    origin = stored.origin_of("minilm_like")
    assert origin is not None
    assert (origin.address, origin.revision) == ("hf://me/tiny", repositories.sha("me/tiny", 1))
    assert stored.lookup("me/tiny") == store / "minilm_like", "a hub id is a name too"
    repositories.served.clear()
    assert not pull("me/tiny", say=quiet).is_new
    assert repositories.served == ["me/tiny/manifest.json"]
    with load("hf://me/tiny", threads=1):
        pass
    assert repositories.served == ["me/tiny/manifest.json"], "a stored artifact needs no network"


def test_a_second_push_leaves_nothing_of_the_first(repositories: Hub, own: Web) -> None:
    pushing.push(own.folder, "hf://me/tiny", say=quiet)
    repositories.repositories["me/tiny"][-1]["README.md"] = b"mine"
    listed = dict(reading.read(own.folder).manifest.files)
    (own.folder / "golden.npz").unlink()
    del listed["golden.npz"]
    changed(own.folder, files=listed)
    pushing.push(own.folder, "hf://me/tiny", say=quiet)
    assert set(repositories.repositories["me/tiny"][-1]) == {".gitattributes", "README.md", FILE, *listed}


def test_a_revision_and_a_folder_are_obeyed(repositories: Hub, whole: Path, own: Web) -> None:
    pushing.push(whole, "hf://me/several/fp32", say=quiet)
    changed(own.folder, name="later")
    pushing.push(own.folder, "hf://me/several/fp32", say=quiet)
    sha = repositories.sha("me/several", 1)
    assert pull(f"hf://me/several@{sha}/fp32", say=quiet).name == f"minilm_like@{sha}"
    assert pull("hf://me/several/fp32", say=quiet).name == "later"
    with pytest.raises(ArtifactError, match="no revision 'v9'"):
        pull("hf://me/several@v9", say=quiet)
    with pytest.raises(ArtifactError, match=r"no manifest\.json there"):
        pull("hf://me/several", say=quiet)
    with pytest.raises(ArtifactError, match=r"no such repository.*hf auth login"):
        pull("you/nothing", say=quiet)


def test_two_revisions_stand_beside_each_other(repositories: Hub, whole: Path, own: Web, store: Path) -> None:
    pushing.push(whole, "me/tiny", say=quiet)
    changed(own.folder, created="later")
    pushing.push(own.folder, "me/tiny", say=quiet)
    repositories.tags = {"v1": 1, "refs%2Fpr%2F1": 1}
    assert pull("me/tiny", say=quiet).name == "minilm_like"
    assert not pull("me/tiny@main", say=quiet).is_new
    repositories.served.clear()
    assert pull("me/tiny@v1", say=quiet).name == "minilm_like@v1"
    assert repositories.served == ["me/tiny/manifest.json"], "other files are those of the other revision"
    same(store / "minilm_like@v1", whole)
    assert [entry.name for entry in stored.every() if isinstance(entry, stored.Stored)] == [
        "minilm_like", "minilm_like@v1",
    ]  # fmt: skip
    for argument in ("minilm_like@v1", "me/tiny@v1", "hf://me/tiny@v1"):
        assert resolving.artifact(argument) == store / "minilm_like@v1"
    for argument in ("minilm_like", "me/tiny", "me/tiny@main", "hf://me/tiny@main"):
        assert resolving.artifact(argument) == store / "minilm_like"
    assert pull("hf://me/tiny@refs%2Fpr%2F1", say=quiet).name == "minilm_like@refs-pr-1"
    stored.drop("minilm_like")
    with pytest.raises(ArtifactError, match="did you mean minilm_like@v1"):
        resolving.artifact("minilm_like")


def test_a_stored_name_is_brought_up_to_date_from_where_it_came(
    repositories: Hub, whole: Path, own: Web, store: Path
) -> None:
    pushing.push(whole, "me/tiny", say=quiet)
    pull("me/tiny", name="mine", say=quiet)
    assert not pull("mine", say=quiet).is_new
    changed(own.folder, created="later")
    pushing.push(own.folder, "me/tiny", say=quiet)
    assert pull("mine", say=quiet).is_new
    same(store / "mine", own.folder)
    assert pull("me/tiny@" + repositories.sha("me/tiny", 1), name="mine", say=quiet).is_new, "as it says"
    same(store / "mine", whole)
    pushing.push(whole, "hf://me/tiny/int8", say=quiet)
    with pytest.raises(InputError, match="is stored already, from hf://me/tiny"):
        pull("hf://me/tiny/int8", name="mine", say=quiet)


def test_a_repository_whose_files_are_not_the_manifests_is_refused(repositories: Hub, whole: Path) -> None:
    pushing.push(whole, "me/tiny", say=quiet)
    repositories.repositories["me/tiny"][-1]["model.onnx"] += b"more"
    with pytest.raises(ArtifactError, match="push it again"):
        pull("me/tiny", say=quiet)
    size = (whole / "model.onnx").stat().st_size
    repositories.repositories["me/tiny"][-1]["model.onnx"] = b"x" * size
    with pytest.raises(ArtifactError, match="sha256 is not the manifest's"):
        pull("me/tiny", say=quiet)
    assert list(stored.every()) == []


def test_a_checkpoint_is_told_apart(repositories: Hub, tmp_path: Path) -> None:
    repositories.repositories["you/checkpoint"] = [{"config.json": json.dumps({}).encode()}]
    with pytest.raises(IsCheckpoint, match="poolrt export you/checkpoint") as refusal:
        pull("hf://you/checkpoint@main", say=quiet)
    assert refusal.value.export == ["you/checkpoint", "--revision", "main"]


def test_offline_the_error_says_what_to_do(repositories: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=r"HF_HUB_OFFLINE is set.*unset it"):
        load("hf://me/tiny")

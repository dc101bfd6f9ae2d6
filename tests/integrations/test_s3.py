"""Artifacts in an S3 store: moto's server, which speaks S3 over HTTP, asked by s3fs and botocore as a user's
commands ask it. `make s3`; `make test` has fsspec's memory instead (tests/runtime/test_pulling.py).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.digests import sha256
from poolrt.runtime.artifact.manifest import FILE, File
from poolrt.runtime.artifact.reading import sealed
from poolrt.runtime.store import home

from tests.end_to_end.commands import answer, command, environment, run, served

if any(importlib.util.find_spec(name) is None for name in ("moto", "s3fs", "flask")):
    pytest.skip("moto[server] and s3fs are not installed: make s3", allow_module_level=True)
from moto.server import ThreadedMotoServer

pytestmark = pytest.mark.slow
PADDING = 64 << 20
PLACE = "s3://bucket/models/big"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(scope="module")
def big(artifacts: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with a file that takes a while to come."""
    folder = Path(shutil.copytree(artifacts("minilm_like"), tmp_path_factory.mktemp("s3") / "big"))
    (folder / "padding.bin").write_bytes(np.random.default_rng(0).bytes(PADDING))
    manifest = reading.described(FILE, (folder / FILE).read_bytes())
    padding = File(size=PADDING, sha256=sha256(folder / "padding.bin"))
    changed = replace(manifest, name="big", files={**manifest.files, "padding.bin": padding})
    (folder / FILE).write_bytes(sealed(changed))
    return folder


@pytest.fixture(autouse=True)
def store(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of its own, with the environment that a user of an own S3 store has."""
    monkeypatch.setenv(home.VARIABLE, str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    import boto3

    boto3.client("s3").create_bucket(Bucket="bucket")
    return tmp_path / "home" / "artifacts"


@pytest.fixture
def pushed(big: Path) -> Path:
    assert answer("push", big, PLACE)["address"] == PLACE
    return big


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "FSSPEC_S3_ENDPOINT_URL"])
def test_what_was_pushed_is_pulled_and_is_the_same(
    pushed: Path, store: Path, endpoint: str, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv(variable, endpoint)
    assert answer("pull", PLACE)["new"] is True
    assert answer("pull", PLACE)["new"] is False
    for path in pushed.iterdir():
        assert (store / "big" / path.name).read_bytes() == path.read_bytes()


def test_it_is_loaded_and_served_by_its_address(pushed: Path) -> None:
    import json
    import urllib.request

    with load(PLACE, threads=1) as model, load(pushed, threads=1) as original:
        assert (model.embed("a")[0].outputs.data == original.embed("a")[0].outputs.data).all()
    with served(Path("big")) as url, urllib.request.urlopen(f"{url}/v1/models") as response:
        assert [model["id"] for model in json.load(response)["data"]] == ["big"]


def test_killed_at_any_moment_the_next_pull_goes_on(pushed: Path, store: Path) -> None:
    for moment in range(1, 5):
        process = subprocess.Popen(command("pull", PLACE), env=environment(), stderr=subprocess.DEVNULL)
        parts, deadline = store / ".big.partial" / "parts", time.monotonic() + 120
        wanted = moment * PADDING // 6
        while sum(path.stat().st_size for path in parts.glob("*")) < wanted and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it was over before"
        assert answer("list")["artifacts"] == []
    last = run("pull", PLACE)
    assert last.returncode == 0, last.stderr
    assert "padding.bin: going on at" in last.stderr
    assert (store / "big" / "padding.bin").read_bytes() == (pushed / "padding.bin").read_bytes()


def test_what_is_wrong_is_said_in_a_line(pushed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import boto3

    def refused(*arguments: str | Path) -> str:
        done = run(*arguments)
        assert done.returncode == 2, done.stderr
        return done.stderr.splitlines()[-1]

    client = boto3.client("s3")
    client.put_object(Bucket="bucket", Key="models/big/padding.bin", Body=b"x" * PADDING)
    assert "its sha256 is not the manifest's" in refused("pull", PLACE)
    client.delete_object(Bucket="bucket", Key="models/big/padding.bin")
    assert "not there, though the manifest lists it" in refused("pull", PLACE)
    for arguments in (("pull", "s3://nowhere/x"), ("push", pushed, "s3://nowhere/x")):
        assert "there is no bucket 'nowhere'" in refused(*arguments)
    assert [bucket["Name"] for bucket in client.list_buckets()["Buckets"]] == ["bucket"]
    assert "no manifest.json there" in refused("pull", "s3://bucket/nothing")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "not reachable" in refused("pull", PLACE)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "access is refused (Unable to locate credentials; set AWS_PROFILE" in refused("pull", PLACE)

"""What is published: a source distribution that is whole, and a wheel that anybody can build again."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow
"""`make release` does the same, with what the index checks besides."""


def tracked() -> set[str]:
    """The files of the commit; those that were changed since are read as they are."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )  # fmt: skip
    if listed.returncode != 0:
        pytest.skip("no git checkout")
    return {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}


def copied(folder: Path) -> Path:
    """A copy of what is tracked: setuptools writes beside its sources."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
        (folder / name).chmod(0o755 if os.access(ROOT / name, os.X_OK) else 0o644)
    return folder


def built(kind: str, folder: Path) -> Path:
    """Builds `sdist` or `wheel` of a folder as a front end does, with the build system that is installed."""
    code = f"from setuptools.build_meta import build_{kind} as build; print(build('.'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | {"SOURCE_DATE_EPOCH": "1764000000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("sdist", copied(tmp_path_factory.mktemp("checkout")))


def test_the_source_distribution_is_the_checkout(sdist: Path):
    with tarfile.open(sdist) as archive:
        inside = {
            name.partition("/")[2]
            for name in archive.getnames()
            if not archive.getmember(name).isdir() and ".egg-info" not in name
        }
    assert tracked() - inside == set()
    assert inside - tracked() == {"PKG-INFO", "setup.cfg"}


def test_the_wheel_of_the_source_distribution_is_that_of_the_checkout_to_the_byte(
    sdist: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
):
    """Other folder, other times, a build from the archive: the same wheel."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = tmp_path.iterdir()
    checkout = copied(tmp_path_factory.mktemp("other"))
    first, second = built("wheel", checkout), built("wheel", unpacked)
    assert zipfile.ZipFile(first).namelist() == zipfile.ZipFile(second).namelist()
    assert first.read_bytes() == second.read_bytes()

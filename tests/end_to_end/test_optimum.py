"""`optimum-cli export poolrt` with the real optimum, and an environment in which it is absent.

`make optimum` runs it: optimum is no part of `dev`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import load

from tests.end_to_end.commands import environment
from tests.test_packaging import built

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs."""
    site = tmp_path_factory.mktemp("site")
    zipfile.ZipFile(built(tmp_path_factory.mktemp("source"))).extractall(site)
    return site


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, **environment(), "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env=variables, cwd=installed.parent,
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip


ONLY_THE_WHEEL = """
import runpy, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", "")]
sys.path = [path for path in sys.path if path and "__editable__" not in path]
sys.path_importer_cache.clear()
sys.argv[0] = "optimum-cli"
runpy.run_module("optimum.commands.optimum_cli", run_name="__main__")
"""
"""optimum-cli without this checkout: optimum would find its plug-in beside the wheel's."""


def optimum_cli(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("optimum.exporters", reason="make optimum installs it")
    return run(installed, "-c", ONLY_THE_WHEEL, *arguments)


def test_optimum_finds_it_in_an_environment_with_the_checkout(tmp_path: Path):
    pytest.importorskip("optimum.exporters", reason="make optimum installs it")
    done = run(tmp_path, "-m", "optimum.commands.optimum_cli", "export", "--help")
    assert "poolrt" in done.stdout, done.stderr


def test_optimum_lists_and_runs_the_export(
    installed: Path, checkpoints: Callable[[str], Path], artifacts: Callable[[str], Path], tmp_path: Path
):
    listed = optimum_cli(installed, "export", "--help")
    assert "poolrt" in listed.stdout, listed.stderr
    assert "--task" in optimum_cli(installed, "export", "poolrt", "--help").stdout
    out = tmp_path / "exported" / "mine"
    done = optimum_cli(
        installed, "export", "poolrt", "--model", str(checkpoints("minilm_like")), "--task",
        "sentence-similarity", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with load(out) as model, load(artifacts("minilm_like")) as ours:
        assert model.name == "mine"
        text = "a small text"
        first, second = (opened.embed(text)[0].outputs.embedding for opened in (model, ours))
        np.testing.assert_allclose(first, second, atol=1e-6)


def test_a_task_of_other_models_is_refused(installed: Path, tmp_path: Path):
    done = optimum_cli(installed, "export", "poolrt", "-m", "m", "--task", "causal-lm", str(tmp_path / "a"))
    assert done.returncode == 2
    assert "expected one of auto, feature-extraction" in done.stderr


def test_poolrts_exit_code_is_passed_on(installed: Path, tmp_path: Path):
    done = optimum_cli(installed, "export", "poolrt", "-m", str(tmp_path / "absent"), str(tmp_path / "a"))
    assert done.returncode == 2
    assert "absent" in done.stderr


WITHOUT = """
import importlib.util, sys
sys.path = [path for path in sys.path if path]
class Absent:  # optimum itself, where this environment has it
    def find_spec(self, name, path=None, target=None):
        if name == "optimum":
            from importlib.machinery import PathFinder
            return PathFinder.find_spec(name, [{site!r}])
sys.meta_path.insert(0, Absent())
import transformers, sentence_transformers
from transformers import BertConfig, AutoModel
AutoModel.from_config(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2))
assert importlib.util.find_spec("optimum.onnxruntime") is None
from poolrt.runtime.commands.cli import main
raise SystemExit(main(["export", {checkpoint!r}, "--name", "a", "--out", {out!r}]))
"""


def test_an_environment_without_optimum_works_as_before(
    installed: Path, checkpoints: Callable[[str], Path], tmp_path: Path
):
    code = WITHOUT.format(site=str(installed), checkpoint=str(checkpoints("minilm_like")), out=str(tmp_path))
    done = run(installed, "-c", code)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a" / "manifest.json").is_file()

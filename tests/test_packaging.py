"""What `pip install poolrt` puts on a machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from poolrt.runtime import load

ROOT = Path(__file__).parents[1]
AREAS = ("runtime", "exporter", "serve", "integrations", "recipes")
SHIPPED = ("package", *AREAS, "pyproject.toml", "README.md", "LICENSE")
MAX_INSTALLED_MIB = 250
SAME = 1e-6
"""Between two installations on one machine: the same engine, possibly another patch release of it."""
BLOCKED = ("torch", "transformers", "onnx", "starlette", "sentence_transformers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, from a copy, because setuptools writes beside its sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in SHIPPED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    code = "from setuptools.build_meta import build_wheel; print(build_wheel('.'))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / done.stdout.split()[-1]


def test_every_folder_of_modules_is_a_package() -> None:
    """setuptools takes the folders that pyproject.toml lists, and leaves any other out of a wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = [path.parent for area in AREAS for path in (ROOT / area).rglob("__init__.py")]
    expected = ["poolrt", *(".".join(("poolrt", *path.relative_to(ROOT).parts)) for path in folders)]
    assert sorted(settings["packages"]) == sorted(expected)
    # Every folder with a module has an __init__, and so is a package.
    modules = {path.parent for area in AREAS for path in (ROOT / area).rglob("*.py")}
    assert modules == set(folders)


@pytest.mark.parametrize(
    ("system", "machine", "compiled"),
    [
        ("linux", "x86_64", True), ("linux", "aarch64", True), ("linux", "riscv64", False),
        ("darwin", "arm64", True), ("darwin", "x86_64", True), ("win32", "AMD64", True),
        ("win32", "ARM64", False), ("freebsd14", "amd64", False),
    ],
)  # fmt: skip
def test_the_compiled_resize_is_asked_for_where_it_has_a_wheel(
    system: str, machine: str, compiled: bool
) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = {
        "sys_platform": system, "platform_machine": machine, "platform_python_implementation": "CPython",
    }  # fmt: skip
    names = {
        requirement.name
        for requirement in map(Requirement, project["optional-dependencies"]["images"])
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }
    assert names == {"pillow", *(["hf-processors-rs"] if compiled else [])}


def test_a_wheel_holds_every_module_recipe_and_template(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        f"poolrt/{path.relative_to(ROOT)}"
        for area in AREAS
        for path in (ROOT / area).rglob("*")
        if path.suffix in {".py", ".toml", ".jinja", ".html", ".css", ".js", ".txt"}
    }
    expected |= {f"poolrt/{path.name}" for path in (ROOT / "package").iterdir() if path.is_file()}
    assert {"poolrt/__init__.py", "poolrt/__main__.py", "poolrt/py.typed"} < expected
    assert not expected - inside


def test_a_wheel_holds_nothing_but_the_package_and_its_metadata(wheel):
    assert {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()} == {
        "poolrt",
        wheel.name.split("-py3")[0] + ".dist-info",
    }


def test_type_checkers_read_the_installed_package(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    script = tmp_path / "script.py"
    script.write_text("""
from typing import assert_type
import poolrt
from poolrt import LLM, Model, load
assert_type(load("a"), Model)
assert_type(poolrt.load("a").embed("a")[0].outputs, poolrt.EmbeddingOutput)
assert_type(poolrt.__version__, str)
load("a").embed("a", normalise=True)  # pyright: ignore[reportCallIssue]
poolrt.loda("a")  # pyright: ignore[reportAttributeAccessIssue]
LLM("a").score("a", top_n=1)  # pyright: ignore[reportCallIssue]
""")
    settings = {
        "include": ["script.py"],
        "extraPaths": [str(tmp_path / "site")],
        "typeCheckingMode": "standard",
        "reportUnnecessaryTypeIgnoreComment": True,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--pythonpath",
        sys.executable,
        "--project",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow  # installs from the package index
def test_the_smallest_install_loads_an_artifact_without_torch(
    wheel, artifacts: Callable[[str], Path], tmp_path
):
    home = tmp_path / "venv"
    venv.create(home, with_pip=True, symlinks=True)
    python = home / "bin" / "python"
    before = _mib(home)
    subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[cpu]"], check=True)
    assert _mib(home) - before < MAX_INSTALLED_MIB
    code = f"""
import importlib.util, json
from poolrt.runtime import load
present = [name for name in {BLOCKED} if importlib.util.find_spec(name)]
assert not present, present
with load({str(artifacts("minilm_like"))!r}) as model:
    print(json.dumps(model.embed("a small text")[0].outputs.embedding.tolist()))
"""
    alone = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with load(artifacts("minilm_like")) as model:
        np.testing.assert_allclose(
            json.loads(done.stdout), model.embed("a small text")[0].outputs.embedding, atol=SAME
        )
    helped = subprocess.run(
        [home / "bin" / "poolrt", "--help"], env=alone, capture_output=True, text=True, check=False
    )
    assert helped.returncode == 0, helped.stderr
    assert "export" in helped.stdout
    assert "serve" in helped.stdout


def _mib(folder: Path) -> float:
    return (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
        / 2**20
    )

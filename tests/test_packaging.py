"""What `pip install poolrt` puts on a machine."""

from __future__ import annotations

import email
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from poolrt.runtime import load

ROOT = Path(__file__).parents[1]
AREAS = ("runtime", "exporter", "serve", "recipes")
SHIPPED = ("package", *AREAS, "pyproject.toml", "README.md", "LICENSE")
MAX_INSTALLED_MIB = 250
SAME = 1e-6
"""Between two installations on one machine: the same engine, possibly another patch release of it."""
OPTIMUM = "optimum.commands.register"
"""A folder in another library's namespace; it has no __init__."""
BLOCKED = ("torch", "transformers", "onnx", "starlette", "sentence_transformers")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("wheel"))


def built(folder: Path) -> Path:
    """The wheel, built without a network in an empty folder from a copy, because setuptools writes beside its
    sources."""
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
    names = [".".join(("poolrt", *path.relative_to(ROOT).parts)) for path in folders]
    expected = ["poolrt", OPTIMUM, *names]
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
    expected |= {
        f"{OPTIMUM.replace('.', '/')}/{path.name}" for path in (ROOT / "package/optimum").glob("*.py")
    }
    assert {"poolrt/__init__.py", "poolrt/__main__.py", "poolrt/py.typed"} < expected
    assert not expected - inside


def test_a_wheel_holds_nothing_but_the_package_and_its_metadata(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names} == {
        "poolrt",
        "optimum",
        wheel.name.split("-py3")[0] + ".dist-info",
    }
    # A package there would hide optimum's own modules.
    assert [name for name in names if name.startswith("optimum/")] == [
        "optimum/commands/register/register_poolrt.py"
    ]


def test_the_index_is_told_what_the_package_is(wheel):
    text = zipfile.ZipFile(wheel).read(f"{wheel.name.split('-py3')[0]}.dist-info/METADATA").decode()
    metadata = email.message_from_string(text)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] == "The poolrt authors"
    assert "embeddings" in metadata["Keywords"].split(",")
    assert metadata["Description-Content-Type"] == "text/markdown"
    labels = [url.split(", ")[0] for url in metadata.get_all("Project-URL") or ()]
    assert labels == ["Source", "Documentation", "Changelog", "Issues"]
    classifiers = metadata.get_all("Classifier") or []
    assert "Typing :: Typed" in classifiers
    # A license classifier beside an expression is refused by the index.
    assert not [text for text in classifiers if text.startswith("License")]
    known = pytest.importorskip("trove_classifiers").classifiers
    assert set(classifiers) <= set(known)


def test_all_holds_every_extra_of_a_processor():
    extras = project()["optional-dependencies"]
    (everything,) = extras["all"]
    chosen = set(Requirement(everything).extras)
    apart = {"gpu", "tensorrt", "tensorrt-rtx"}
    """Engines of GPUs."""
    own = {"langchain", "llama-index", "haystack", "chroma", "qdrant", "ray", "s3", "optimum"}
    """Other people's frameworks, which who uses them has."""
    development = {"dev", "clients", "deploy", "docs", "site", "s3-server"}
    assert chosen == set(extras) - apart - own - development - {"all"}


def test_ci_tests_a_torch_of_the_range():
    requirements = map(Requirement, project()["optional-dependencies"]["export"])
    (torch,) = [requirement for requirement in requirements if requirement.name == "torch"]
    (tested,) = re.findall(r"torch==\$\{TORCH:-(.*?)\}", (ROOT / ".ci" / "venv").read_text(encoding="utf-8"))
    assert tested in torch.specifier
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (other,) = re.findall(r"^TORCH \?= (.*)$", makefile, re.MULTILINE)
    assert other in torch.specifier
    assert other != tested
    page = (ROOT / "docs" / "decisions" / "torch-pin.md").read_text(encoding="utf-8")
    (range_,) = re.findall(r"`torch(>=\S+?)`", page)
    assert SpecifierSet(range_) == torch.specifier
    assert tested in page
    assert other in page
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    versions = [row["torch"] for row in workflow["jobs"]["test"]["strategy"]["matrix"]["include"]]
    assert sorted(versions) == sorted({tested, other})
    names = {target.split()[0] for target in workflow["jobs"]["nightly"]["strategy"]["matrix"]["target"]}
    assert names <= set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))


def test_a_release_keeps_no_token_and_attests():
    workflow = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    build, publish = workflow["jobs"]["build"], workflow["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["needs"] == "build"
    assert "secrets." not in json.dumps(workflow)
    uses = [step.get("uses", "") for step in build["steps"]]
    assert any(use.startswith("actions/attest-build-provenance@") for use in uses)
    assert "make release" in [step.get("run") for step in build["steps"]]


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

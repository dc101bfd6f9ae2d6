"""Who may import whom, proved in fresh interpreters that refuse what an area must do without."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The rooms of each area from the bottom up: a room imports itself and the rooms that stand before it. A
# room is a folder, or a file that stands beside the folders. What an area's own `__init__` exports
# stands above all of them.
ROOMS = {
    "exporter": (
        "base", "files.pictures", "files", "families.modules", "families", "detection", "unread",
        "checkpoint", "heads.texts", "heads", "graph.onnx_files", "graph.attention", "graph.passes",
        "graph.quantisation", "graph", "profiles", "engine", "proof.pictures", "proof", "report_page",
        "precision", "pipeline", "triton", "cli",
    ),
    "runtime": (
        "errors", "version", "cancellation", "extras", "machine", "cache_folder", "outputs", "progress",
        "json_objects", "command_line", "artifact", "store", "inputs", "inputs.tilings",
        "inputs.videos", "inputs.media", "inputs.multimodal", "engines", "batching", "answers", "plugins",
        "statistics", "options", "intake", "model", "loader", "vllm", "dataset", "commands",
        "integrations",
    ),
    "serve": (
        "settings", "headers", "errors", "json_logs", "logs", "schema", "models",
        "metrics", "tracing", "http", "batches", "media", "encodings",
        "responses", "execution", "context", "prompts", "endpoints.batches", "endpoints", "pages", "lifespan",
        "app", "process", "cli", "ray",
    ),
}  # fmt: skip
OPENING = "integrations.opening"
"""What the modules of other libraries share. They import their libraries, which are not installed where these
tests run."""
MOST_FILES = 16
"""Files directly in a folder of an area beside `__init__`, families aside: more are a room to be parted."""
# README promises a quick import: 0.15 s of `import poolrt.runtime` with everything it names.
MOST_IMPORTS = 480

HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "optimum",
    "sentence_transformers",
    "huggingface_hub",
    "safetensors",
)
WEB = ("starlette", "uvicorn", "orjson", "prometheus_client")
SCREEN = ("click", "rich")
MEDIA = ("PIL", "av", "hf_processors_rs")
ENGINES = ("onnxruntime", "tensorrt", "tensorrt_rtx", "openvino")

BLOCKER = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if any(name == blocked or name.startswith(blocked + ".") for blocked in {blocked!r}):
            raise AssertionError(f"imported {{name}}")
sys.meta_path.insert(0, Blocker())
sys.path.insert(0, {root!r})
import conftest
"""


def modules(area: str) -> list[str]:
    """Every module of an area, as `poolrt.area.module`."""
    found = []
    for path in sorted((ROOT / area).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(("poolrt", *(parts[:-1] if parts[-1] == "__init__" else parts))))
    return found


def importable(area: str) -> list[str]:
    """Those that need no library of others."""
    others = {name for name in modules(area) if name.startswith("poolrt.runtime.integrations.")}
    return [name for name in modules(area) if name not in others - {f"poolrt.runtime.{OPENING}"}]


def run(code: str, *, blocked: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    text = BLOCKER.format(blocked=blocked, root=str(ROOT)) + code
    return subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, timeout=120, check=False
    )


def imported(names: list[str], *, blocked: tuple[str, ...]) -> None:
    code = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    done = run(code, blocked=blocked)
    assert done.returncode == 0, done.stderr[-2000:]


def test_runtime_imports_no_exporter_library_no_server_and_no_engine():
    imported(
        importable("runtime"),
        blocked=(*HEAVY, *WEB, *ENGINES, *MEDIA, "pydantic", "poolrt.exporter", "poolrt.serve"),
    )


def test_serve_imports_no_exporter_library():
    # Spans are written where traces are asked for only, and need an extra of their own.
    without_traces = [name for name in modules("serve") if name != "poolrt.serve.tracing.spans"]
    imported(without_traces, blocked=(*HEAVY, *ENGINES, *MEDIA, "opentelemetry", "poolrt.exporter"))


def test_exporter_imports_no_server():
    imported(modules("exporter"), blocked=(*WEB, "poolrt.serve"))


WITHOUT_POSIX = """
import asyncio, os, signal, subprocess, numpy  # branch on the system by themselves, so are not what is tried
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
for name in ("fork", "getuid", "geteuid", "getloadavg", "killpg", "mkfifo", "sched_getaffinity", "setsid", "sysconf"):
    delattr(os, name)
for name in ("SIGHUP", "SIGKILL", "SIGSTOP", "SIGUSR1", "SIGUSR2", "pthread_kill"):
    delattr(signal, name)
"""  # noqa: E501


@pytest.mark.parametrize("area", ["package", "runtime", "exporter", "serve"])
def test_every_module_is_imported_where_posix_is_missing(area: str) -> None:
    """As on Windows: no module may need what only Unix has before it is used."""
    names = ["poolrt"] if area == "package" else importable(area)
    imports = "import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names)
    done = run(WITHOUT_POSIX + imports, blocked=())
    assert done.returncode == 0, done.stderr[-2000:]


def test_help_imports_no_library_at_all():
    code = "from poolrt.runtime.commands.cli import main\nassert main(['--help']) == 0"
    done = run(
        code,
        blocked=(*HEAVY, *WEB, *ENGINES, "numpy", "tokenizers", "jinja2", "poolrt.exporter", "poolrt.serve"),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "rerank" in done.stdout


def test_the_public_names_import_few_modules():
    """What an import takes is the modules it loads: 403 when this was written, a third of a second. They are
    counted, because seconds would measure the machine."""
    code = "from poolrt.runtime import *\nprint(load, LLM)\nprint(len(sys.modules))"
    done = run("import sys\n" + code, blocked=(*HEAVY, *SCREEN))
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[-1]) < MOST_IMPORTS


def test_integrations_share_nothing_but_how_a_model_is_opened():
    """A module of a library imports no other library's, and is imported by none."""
    for module, others in imports("runtime").items():
        known = {other for other in others if other.startswith("integrations.")}
        assert known <= ({OPENING} if module.startswith("integrations.") else set()), module
    imported([f"poolrt.runtime.{OPENING}"], blocked=(*HEAVY, *WEB, *ENGINES, *MEDIA, "pydantic"))


@pytest.mark.parametrize("area", ["runtime", "exporter", "serve"])
def test_areas_import_each_other_relatively(area):
    """`import poolrt...` inside an area would work only where the package is installed, and could load
    a second copy of a class."""
    wrong = []
    for path in (ROOT / area).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            absolute = [] if isinstance(node, ast.ImportFrom) and node.level else [node]
            names = [
                alias.name for found in absolute if isinstance(found, ast.Import) for alias in found.names
            ]
            names += [found.module or "" for found in absolute if isinstance(found, ast.ImportFrom)]
            wrong += [
                f"{path.relative_to(ROOT)}:{node.lineno}: {name}"
                for name in names
                if name.split(".")[0] in ("poolrt", "runtime", "exporter", "serve")
            ]
    assert not wrong


@pytest.mark.parametrize(
    ("area", "other"),
    [
        ("exporter", "serve"),
        ("serve", "exporter"),
        ("runtime", "exporter"),
        ("runtime", "serve"),
    ],
)
def test_no_area_reaches_into_another_that_it_must_not_know(area, other):
    wrong = []
    for path in (ROOT / area).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level and (node.module or "").split(".")[0] == other:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def imports(area: str) -> dict[str, set[str]]:
    """Module -> the modules of its area that it imports, both within the area (`inputs.pairs`); in functions
    and under TYPE_CHECKING too."""
    paths = {name.removeprefix(f"poolrt.{area}").lstrip("."): path for name, path in files(area).items()}
    edges: dict[str, set[str]] = {}
    for name, path in paths.items():
        package = [area, *name.split(".")] if path.stem == "__init__" else [area, *name.split(".")][:-1]
        edges[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not node.level or node.level > len(package):
                continue
            base = [
                *package[: len(package) - node.level + 1],
                *(node.module.split(".") if node.module else ()),
            ]
            if base[0] == area:
                whole = [".".join([*base[1:], alias.name]) for alias in node.names]
                edges[name] |= {module if module in paths else ".".join(base[1:]) for module in whole}
        edges[name] -= {name, ""}
    return edges


def files(area: str) -> dict[str, Path]:
    return dict(zip(modules(area), sorted((ROOT / area).rglob("*.py")), strict=True))


def room(area: str, module: str) -> str:
    """The innermost room of a module. Raises KeyError for one that has none."""
    inside = [room for room in ROOMS[area] if f"{module}.".startswith(f"{room}.")]
    if not inside:
        raise KeyError(f"{area}/{module.replace('.', '/')} stands in no room of ROOMS")
    return max(inside, key=len)


@pytest.mark.parametrize("area", ROOMS)
def test_a_room_imports_only_rooms_above_it(area: str) -> None:
    order = {name: place for place, name in enumerate(ROOMS[area])}
    climbs = [
        f"{module} -> {other}"
        for module, others in imports(area).items()
        for other in others
        if module and order[room(area, other)] > order[room(area, module)]
    ]
    assert not climbs


def test_no_module_imports_itself_round_a_corner() -> None:
    for area in ROOMS:
        edges = imports(area)
        # What imports nothing that is left is no part of a circle.
        while leaves := {module for module, others in edges.items() if not others & edges.keys()}:
            edges = {module: others for module, others in edges.items() if module not in leaves}
        assert not edges, f"{area}: a circle among {', '.join(sorted(edges))}"


@pytest.mark.parametrize("area", ROOMS)
def test_every_folder_is_a_room_that_says_what_belongs_there(area: str) -> None:
    for folder in sorted({path.parent for path in (ROOT / area).rglob("*.py")}):
        python = [path for path in folder.glob("*.py") if path.stem != "__init__"]
        assert len(python) <= MOST_FILES or folder.name == "families", (
            f"{folder.relative_to(ROOT)} has {len(python)} files"
        )
        if folder == ROOT / area:
            continue
        text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
        assert len(re.findall(r"\.(?:\s|$)", text)) >= 3, (
            f"{folder.relative_to(ROOT)}/__init__.py: what belongs, what not, what it imports"
        )
        assert "It may import" in text

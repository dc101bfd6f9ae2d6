"""`python -m tests.mutants [PATHS]`: plants faults in a copy of this checkout and reports those that
the nearest tests let pass.

Every fault runs in a forked child that imports poolrt anew; what poolrt imports of other people is
imported once, before the fork.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.mutants.faults import Fault, faults, planted
from tests.mutants.nearest import AREAS, nearest

ROOT = Path(__file__).parent.parent.parent
LIBRARIES = (
    "pytest", "numpy", "hypothesis", "onnxruntime", "tokenizers", "jinja2", "starlette.testclient", "uvicorn",
    "httpx", "orjson",
    "prometheus_client",
)  # fmt: skip
REFERENCES = ("torch", "transformers", "sentence_transformers")
EXPORTING = ("onnx", "onnxscript", "onnx_ir", "safetensors", "torch.onnx")
SLACK_S = 10.0
"""A fault that makes tests run this long beyond five times their usual time is caught."""
MEMORY = 6 << 30
"""Private bytes that a child may map: a fault can ask for any number of them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    parser.add_argument(
        "paths", nargs="*", help="source files or folders; default: what changed since --base"
    )
    parser.add_argument("--base", default="main")
    parser.add_argument(
        "--sample",
        type=int,
        default=0,
        help="faults in all, drawn evenly over files by their size; 0: every one",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write every fault and what became of it")
    options = parser.parse_args()
    sources = chosen(options.paths, options.base)
    if not sources:
        print(
            f"no source file changed since {options.base}; name some: make mutants "
            "PATHS='runtime/batching/plan.py'"
        )
        return 0
    per_file = drawn(sources, options.sample, options.seed)
    areas = {source.split("/")[0] for source in per_file}
    for library in (
        *LIBRARIES,
        *(REFERENCES if areas != {"serve"} else ("torch",)),
        *(EXPORTING if "exporter" in areas else ()),
    ):
        importlib.import_module(library)
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory(prefix="poolrt-mutants-") as folder:
        copy = copied(Path(folder) / "checkout")
        for source, each in per_file.items():
            rows += tried(copy, Path(folder), source, each)
    total = Counter(str(row["end"]) for row in rows)
    print(f"{total['killed']} of {len(rows)} killed; survived {total['survived']}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


def chosen(paths: list[str], base: str) -> list[str]:
    if not paths:
        return [
            name
            for name in git("diff", "--name-only", base)
            if name.split("/")[0] in AREAS and name.endswith(".py") and (ROOT / name).is_file()
        ]
    files = [
        file
        for path in paths
        for file in (sorted((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else [ROOT / path])
    ]
    return [str(file.relative_to(ROOT)) for file in files]


def git(*arguments: str) -> list[str]:
    return subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def drawn(sources: list[str], sample: int, seed: int) -> dict[str, list[Fault]]:
    every = [
        (source, fault) for source in sources for fault in faults((ROOT / source).read_text(encoding="utf-8"))
    ]
    picked = random.Random(seed).sample(every, min(sample, len(every))) if sample else every
    found = {
        source: sorted((fault for name, fault in picked if name == source), key=lambda fault: fault.number)
        for source in sources
    }
    return {source: each for source, each in found.items() if each}


def copied(to: Path) -> Path:
    """What git knows or would add."""
    for name in git("ls-files", "-co", "--exclude-standard"):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)
    compileall.compile_dir(to, quiet=2)
    return to


def tried(copy: Path, home: Path, source: str, drawn: list[Fault]) -> list[dict[str, object]]:
    tests = nearest(copy, source)
    if not tests:
        print(f"{source}: no tests stand near it; put it into tests/mutants/nearest.py")
        return [{"source": source, "fault": str(fault), "end": "survived"} for fault in drawn]
    begun = time.monotonic()
    code, told = run(copy, tests, None, limit_s=600)
    usual = time.monotonic() - begun
    if code != 0:
        print(told[-3000:])
        print(f"{source}: its tests fail without any fault")
        return []
    path, rows = copy / source, []
    whole = path.read_text(encoding="utf-8")
    for fault in drawn:
        changed = planted(whole, fault.number)
        if changed is None:
            continue
        path.write_text(changed, encoding="utf-8")
        for old in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
            old.unlink()
        # The cache of exported artifacts keeps those of few states of the exporter.
        cache = home / "cache" if source.startswith("exporter") else None
        code, told = run(copy, tests, cache, limit_s=5 * usual + SLACK_S)
        if cache:
            shutil.rmtree(cache, ignore_errors=True)
        end = "survived" if code == 0 else "killed"
        rows.append({"source": source, "fault": str(fault), "end": end})
        if end == "survived":
            print(f"  survived {source}:{fault}", flush=True)
    path.write_text(whole, encoding="utf-8")
    killed = sum(row["end"] == "killed" for row in rows)
    print(f"{source}: {killed}/{len(rows)} ({usual:.1f} s a run)", flush=True)
    return rows


def run(copy: Path, tests: list[str], cache: Path | None, *, limit_s: float) -> tuple[int, str]:
    """pytest's exit code in a forked child, -1 when it took too long, and what it printed. `cache`: a folder
    of its own for artifacts that tests export; None: the usual one."""
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                os.chdir(copy)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
                if cache:
                    os.environ["POOLRT_TEST_CACHE"] = str(cache)
                # Plugins were imported before the fork, which pytest would warn about.
                os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
                sys.dont_write_bytecode = True
                for name in [name for name in sys.modules if name.partition(".")[0] in ("tests", "poolrt")]:
                    del sys.modules[name]
                sys.path[:] = [str(copy), *(path for path in sys.path if path not in ("", str(ROOT)))]
                import hypothesis
                import pytest

                # A failing example is enough, the least one takes long to find.
                phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
                hypothesis.settings.register_profile(
                    "mutants", phases=phases, database=None, derandomize=True, deadline=None
                )
                hypothesis.settings.load_profile("mutants")

                flags = [
                    "-x",
                    "-q",
                    "-p",
                    "no:cacheprovider",
                    "-m",
                    "not slow and not gpu",
                    f"--rootdir={copy}",
                ]
                code = int(pytest.main([*flags, *tests]))
                sys.stdout.flush()
                os._exit(code)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(99)
        code = waited(child, limit_s)
        output.seek(0)
        return code, output.read().decode(errors="replace")


def waited(child: int, limit_s: float) -> int:
    end = time.monotonic() + limit_s
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        late = not pid and time.monotonic() > end
        if pid or late:
            # Also what the tests started and did not end.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            if late:
                os.waitpid(child, 0)
            return -1 if late else os.waitstatus_to_exitcode(status)
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())

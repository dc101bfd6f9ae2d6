"""`python -m bench.gpu`: tests/gpu and the measurements on this machine's GPU, without network, in pieces of
less than ten minutes each. It imports the standard library alone; each piece is a process that finds the
wheels' packages in front of the machine's own."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import pieces, results, wheels

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build/gpu"
LIMIT_S = 590.0
NEEDED = ("facts",)
"""Pieces without which no other makes sense."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument(
        "--wheels", type=Path, help="folder of wheels (make gpu-wheels) that are installed without network"
    )
    parser.add_argument(
        "--pieces", default="", help="some, with spaces between; the others keep their results"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the pieces")
    parser.add_argument("--out", type=Path, default=ROOT / "bench/RESULTS-GPU.md")
    options = parser.parse_args(arguments)
    names = pieces.names()
    if options.list:
        print("\n".join(names))
        return 0
    wanted = options.pieces.split() or names
    unknown = [name for name in wanted if name not in names]
    if unknown:
        parser.error(f"no piece {', '.join(unknown)}; there are {', '.join(names)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    site = FOLDER / "site"
    if options.wheels is not None and not installed(options.wheels, site):
        return 1
    return run(wanted, names, FOLDER, options.out, environment(site))


def environment(site: Path) -> dict[str, str]:
    """Of the pieces: the wheels' packages first, then this checkout, then the machine's own. ONNX Runtime
    looks for CUDA's libraries where the system does, so those that Python packages brought are named."""
    path = [str(site), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    brought = [
        str(folder)
        for place in dict.fromkeys((str(site), *filter(None, sys.path)))
        for folder in sorted(Path(place).glob("nvidia/*/lib"))
    ]
    libraries = [*brought, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def installed(folder: Path, site: Path) -> bool:
    """Installs a folder's wheels, as they are, into `site`, once for each set of wheels."""
    files = wheels.joined(folder, FOLDER / "joined")
    if not files:
        print(
            f"{folder}: no wheels; fill it with `make gpu-wheels` on a machine with network", file=sys.stderr
        )
        return False
    names = "\n".join(sorted(wheel.name for wheel in files))
    stamp = site / ".wheels"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == names:
        return True
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile",
        "--upgrade", "--target", str(site), *map(str, files),
    ]  # fmt: skip
    if subprocess.run(command, check=False).returncode:
        return False
    stamp.write_text(names, encoding="utf-8")
    return True


def run(
    wanted: Sequence[str], names: Sequence[str], folder: Path, out: Path, variables: Mapping[str, str]
) -> int:
    """Runs pieces one after the other and writes the page after each. Returns 1 where one of them failed."""
    ended: dict[str, str] = {}
    for name in wanted:
        (folder / f"{name}.json").unlink(missing_ok=True)
        print(f"[{wanted.index(name) + 1}/{len(wanted)}] {name}", flush=True)
        command = [sys.executable, "-m", "bench.gpu.pieces", name, str(folder)]
        problem = limited(command, folder / f"{name}.log", variables, LIMIT_S)
        if problem:
            ended[name] = problem
            print(f"      {problem}; {folder / name}.log says more", flush=True)
            if name in NEEDED:
                return 1
        out.write_text(results.written(results.read(folder, names), ended, names), encoding="utf-8")
    print(f"written: {out}")
    return 1 if ended else 0


def limited(command: Sequence[str], log: Path, variables: Mapping[str, str], limit_s: float) -> str:
    """Runs a command, with all that it starts, for so long at most. Returns why it failed, "" where it did
    not."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=variables, start_new_session=True
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"stopped after {limit_s:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if not code:
        return ""
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"ended with {code}: {lines[-1].strip() if lines else 'no output'}"


if __name__ == "__main__":
    sys.exit(main())

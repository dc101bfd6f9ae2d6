"""`python -m bench.gpu.pieces NAME FOLDER`: one piece of `make gpu`, in a process of its own. It writes
FOLDER/NAME.json, which bench.gpu.results reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as Tree
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..texts import MIXES, Mix

ROOT = Path(__file__).resolve().parents[2]
HALF = {"minilm": "fp16", "base": "fp16", "long": "fp16", "decoder": "bf16"}
"""Works of the GPU half, and the type that each is commonly run in there."""
TORCH = {"fp16": "float16", "bf16": "bfloat16"}
BACKENDS = ("tensorrt", "tensorrt-rtx")
ROUNDS = 3
MANY: dict[str, tuple[Mix, ...]] = {
    "minilm": MIXES,
    "base": MIXES,
    "long": (Mix("long", 16, 1900, 2000, "about 2 048 tokens"),),
    "decoder": (Mix("passages", 64, 110, 130, "passages, about 120 tokens"),),
}
REFERENCE = "torch sdpa fp32"
COMPARED = 16
"""Texts whose vectors are compared."""
LIBRARIES = ("torch", "transformers", "sentence-transformers", "flash-attn", "onnxruntime-gpu")

Result = dict[str, Any]
"""`section`: text for the results; `notes`: sentences about what was left out."""


def names() -> list[str]:
    """Of all pieces, in order."""
    return [
        "facts",
        "tests",
        *(
            f"{step}-{work}"
            for work in HALF
            for step in ("export", *(f"build-{backend}" for backend in BACKENDS), "measure")
        ),
    ]


def function(name: str) -> Callable[[Path], Result]:
    """The piece of that name: folder of results -> result. Raises KeyError."""
    if name in ("facts", "tests"):
        return {"facts": facts, "tests": tests}[name]
    step, _, work = name.rpartition("-")
    if work not in HALF:
        raise KeyError(name)
    if step == "export":
        return lambda folder: export(work, folder)
    if step == "measure":
        return lambda folder: measure(work, folder)
    backend = step.removeprefix("build-")
    if backend not in BACKENDS:
        raise KeyError(name)
    return lambda folder: build(work, backend, folder)


def facts(_: Path) -> Result:
    """The card and the libraries."""
    from poolrt.runtime import machine
    from poolrt.runtime.engines.table import TABLE

    gpus = machine.gpus()
    if not gpus:
        raise SystemExit("no NVIDIA GPU (or its driver is too old) on this machine")
    gpu = gpus[0]
    lines = {"GPU": f"{gpu.name}, {gpu.device}, {gpu.memory_bytes / 2**30:.0f} GiB", "driver": _driver()}
    for library in LIBRARIES:
        lines[library] = _version(library)
    for backend in BACKENDS:
        lines[backend] = machine.version(*TABLE[backend][1]) or "not installed"
    lines["python"] = sys.version.split()[0]
    return {"lines": lines}


def tests(folder: Path) -> Result:
    """tests/gpu, and what they skipped and why."""
    report = folder / "tests.xml"
    command = [
        sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "-W", "ignore",
        f"--junitxml={report}", "tests/gpu",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=os.environ, check=False)
    if not report.exists():
        return {
            "section": f"pytest ended with {done.returncode} before any test; its messages stand in the log"
        }
    return {"section": counted(report)}


def counted(report: Path) -> str:
    """One line for each way in which tests ended, and a line for each that failed."""
    ways: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
    for case in Tree.parse(report).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}: {case.get('name')}"
        kinds = {child.tag for child in case}
        way = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        reason = next((child.get("message", "") for child in case if child.tag == "skipped"), "")
        ways[way].append(reason if way == "skipped" else name)
    lines = [", ".join(f"{len(cases)} {way}" for way, cases in ways.items()) + "."]
    lines += [f"- failed: {name}" for name in ways["failed"]]
    lines += [f"- skipped: {reason}" for reason in dict.fromkeys(ways["skipped"])]
    return "\n".join(lines)


def export(work: str, folder: Path) -> Result:
    """Artifacts in fp32 and in the work's half type."""
    from poolrt.exporter import pipeline

    source = _checkpoint(work, folder)
    for precision in ("fp32", HALF[work]):
        pipeline.export(source, name=f"{work}-{precision}", out=folder / "artifacts", precision=precision)
    return {}


def build(work: str, backend: str, folder: Path) -> Result:
    """An engine of the half type, for the card at hand."""
    from poolrt.exporter import engine, pipeline
    from poolrt.runtime import machine
    from poolrt.runtime.engines import trt_library
    from poolrt.runtime.errors import PoolrtError

    device = machine.gpus()[0].device
    try:
        if backend == "tensorrt-rtx":
            known = engine.families(trt_library.library(backend))
            if device not in known:
                return {"notes": [f"TensorRT-RTX does not build for {device}, only for {', '.join(known)}."]}
        pipeline.build(folder / "artifacts" / f"{work}-{HALF[work]}", target=[backend])
    except PoolrtError as error:
        return {"notes": [f"{backend}, {work}: {error}"]}
    return {}


def measure(work: str, folder: Path) -> Result:
    """Every contender on the same texts in turn, A B C A B C."""
    from .. import in_process, prepare, tables
    from ..texts import Source

    mixes = MANY[work]
    texts = prepare.text_file(folder / f"{work}.json", Source(), mixes, times=2 * (ROUNDS + 1))
    notes: list[str] = []
    peers: list[in_process.Peer] = []
    try:
        for label, kind, path, more in contenders(work, folder, notes):
            try:
                peers.append(
                    in_process.Peer(label, kind, path=path, texts=texts, threads=os.cpu_count() or 1, **more)
                )
            except RuntimeError:
                notes.append(f"{label} does not open; build/gpu/measure-{work}.log says why.")
        if not peers or peers[0].label != REFERENCE:
            return {"notes": [*notes, "Without the reference nothing is measured."]}
        counts = {mix.name: min(COMPARED, mix.count) for mix in mixes}
        scratch = folder / "vectors.npy"
        known = {mix: peers[0].vectors(mix, count, scratch) for mix, count in counts.items()}
        worst = {
            (peer.label, mix): float(in_process.cosines(peer.vectors(mix, count, scratch), known[mix]).min())
            for peer in peers
            for mix, count in counts.items()
        }
        cases = [in_process.Case(mix.name, False, mix.count, mix.says) for mix in mixes]
        first = mixes[0]
        alone = f"{first.says}, one call each"
        cases.append(in_process.Case(first.name, True, first.count, alone, first.count * (ROUNDS + 1)))
        measured = in_process.run(
            peers, cases, rounds=ROUNDS, say=lambda text: print(text, flush=True), missing=notes
        )
    finally:
        for peer in peers:
            peer.close()
    return {"section": tables.inside(peers, cases, measured, worst), "notes": notes}


Contender = tuple[str, str, Path, dict[str, str]]


def contenders(work: str, folder: Path, notes: list[str]) -> list[Contender]:
    """(label, kind of bench.peers, path, its settings), the reference first. Adds to `notes` what is left
    out and why."""
    half, source = HALF[work], _checkpoint(work, folder)
    artifacts = folder / "artifacts"
    torch = "sentence-transformers"
    rows: list[Contender] = [
        (f"torch sdpa {precision}", torch, source, {"device": "cuda", "dtype": dtype, "attention": "sdpa"})
        for precision, dtype in (("fp32", "float32"), (half, TORCH[half]))
    ]
    assert rows[0][0] == REFERENCE, "the first is the reference"
    if _version("flash-attn") == "not installed":
        notes.append("flash-attn is not installed: torch takes its own flash kernel through sdpa.")
    else:
        flash = {"device": "cuda", "dtype": TORCH[half], "attention": "flash_attention_2"}
        rows.append((f"torch flash-attn {half}", torch, source, flash))
    if _version("onnxruntime-gpu") == "not installed":
        notes.append("onnxruntime-gpu is not installed: no rows of ONNX Runtime.")
    else:
        for precision in ("fp32", half):
            path = artifacts / f"{work}-{precision}"
            if path.exists():
                engine = {"engine": f"onnxruntime-cuda:{precision}"}
                rows.append((f"poolrt onnxruntime-cuda {precision}", "poolrt", path, engine))
    path = artifacts / f"{work}-{half}"
    compiled = {engine["backend"] for engine in _manifest(path).get("engines", [])}
    for backend in BACKENDS:
        if backend in compiled:
            rows.append((f"poolrt {backend} {half}", "poolrt", path, {"engine": backend}))
        else:
            notes.append(f"no engine of {backend}.")
    return rows


def _manifest(path: Path) -> dict[str, Any]:
    file = path / "manifest.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _checkpoint(work: str, folder: Path) -> Path:
    from ..works import WORKS

    return WORKS[work].checkpoint(folder / "checkpoints")


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "not installed"


def _driver() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main(arguments: Sequence[str]) -> None:
    name, folder = arguments[0], Path(arguments[1])
    sys.path.insert(0, str(ROOT))
    import conftest  # noqa: F401  (makes a bare checkout importable)

    result = function(name)(folder)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])

"""`python -m bench`: poolrt beside sentence-transformers and fastembed in one process, and beside vLLM and
Infinity over HTTP."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import chart, conditions, contenders, in_process, over_http, prepare, report, stored, tables, works
from .in_process import Peer
from .servers import Server
from .texts import Source
from .works import Work

QUICK_SHARE = 8
VECTORS = 32
"""Most texts whose vectors are compared."""
FEW = 4
"""Likewise, of texts that take long."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--only", choices=("in-process", "http"), help="one half; then --out should be another file"
    )
    parser.add_argument(
        "--works",
        default="minilm",
        help=f"what to measure, with commas between: {', '.join(works.WORKS)}, or all (default minilm; "
        "decoder is both of Qwen3)",
    )
    parser.add_argument(
        "--engines",
        default="onnxruntime,auto",
        help="of poolrt's fp32 artifact, one row each",
    )
    parser.add_argument(
        "--precisions",
        default="",
        help="of poolrt's artifacts (default: those of the work in bench/works.py)",
    )
    parser.add_argument(
        "--dtypes", default="bfloat16", help="of sentence-transformers, beside float32 (default bfloat16)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="two narrow layers in the place of the published sizes"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="measured time of one HTTP case in one round (default 5)"
    )
    parser.add_argument(
        "--share",
        type=int,
        default=1,
        metavar="N",
        help="measure every Nth text in process alone, for a shorter run (default 1: all)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="few texts, 2 rounds of 2 seconds: to see that everything works",
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="for every contender (default: all cores)",
    )
    parser.add_argument(
        "--vllm",
        default=os.environ.get("POOLRT_VLLM"),
        help="path of the vllm command to compare with (or POOLRT_VLLM)",
    )
    parser.add_argument("--vllm-dtypes", default="bfloat16", help="one server each (default bfloat16)")
    parser.add_argument(
        "--infinity",
        default=os.environ.get("POOLRT_INFINITY"),
        help="path of the infinity_emb command (or POOLRT_INFINITY)",
    )
    parser.add_argument(
        "--peers",
        default=os.environ.get("POOLRT_PEERS"),
        help="a Python that has sentence-transformers with optimum-onnx and optimum-intel, and fastembed "
        "(or POOLRT_PEERS)",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(os.environ.get("POOLRT_BENCH") or "build/bench"),
        help="of checkpoints, artifacts and results (or POOLRT_BENCH; default build/bench)",
    )
    parser.add_argument(
        "--prepare", action="store_true", help="write what is missing or stale there, and measure nothing"
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep works that were measured to their end before"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args()
    options.works = works.chosen(options.works)
    if options.quick:
        options.rounds, options.seconds, options.share = 2, 2.0, QUICK_SHARE
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    folder: Path = options.folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / ("results-tiny" if options.tiny else "results")
    failed: list[str] = []
    for number, work in enumerate(options.works, 1):
        say(f"[{number}/{len(options.works)}] {work.title}")
        before = stored.read(kept, work.name)
        if options.resume and before is not None and before.is_complete:
            say("      measured before")
            continue
        try:
            _work(options, work, folder, kept)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(work.name)
            say(f"      failed: {error}")
        if not options.prepare:
            pieces = [stored.read(kept, name) for name in works.WORKS]
            stored.write(options.out, [piece for piece in pieces if piece is not None])
    if not options.prepare:
        say(f"written: {options.out}")
    if failed:
        raise SystemExit(f"bench: these works failed, their messages stand above: {', '.join(failed)}")


def _work(options: argparse.Namespace, work: Work, folder: Path, kept: Path) -> None:
    """Prepares a work, and measures it. Each section is kept as soon as it is there."""
    checkpoint = work.checkpoint(folder / "checkpoints", tiny=options.tiny)
    piece = stored.Piece(work.name, work.title, work.says, _facts(options))
    name = prepare.MODEL if checkpoint == prepare.minilm() else checkpoint.name
    artifacts: dict[str, Path] = {}
    for precision in options.precisions.split(",") if options.precisions else work.precisions:
        say(f"      the artifact in {precision}")
        try:
            artifacts[precision] = prepare.artifact(
                checkpoint, precision, folder, name=name, overrides=work.overrides
            )
        except RuntimeError as error:
            piece.missing.append(f"poolrt {precision} ({' '.join(str(error).split())[-300:]})")
    if options.prepare and work.mixes and work.tower is None and options.peers is not None:
        for backend in contenders.BACKENDS:
            say(f"      sentence-transformers' export for {backend}")
            try:
                prepare.library_folder(checkpoint, backend, folder, name=name, python=options.peers)
            except RuntimeError as error:
                say(f"      {error}")
    if options.prepare:
        return
    with tempfile.TemporaryDirectory(prefix="poolrt-bench-") as scratch:
        for part, bars in _measured(options, work, checkpoint, artifacts, Path(scratch), piece.missing):
            piece.parts.append(part)
            piece.bars += bars
            piece.keep(kept)
    piece.is_complete = True
    piece.keep(kept)


def _measured(
    options: argparse.Namespace,
    work: Work,
    checkpoint: Path,
    artifacts: Mapping[str, Path],
    scratch: Path,
    missing: list[str],
) -> Iterator[tuple[str, list[chart.Bar]]]:
    """The sections of one work, as they are measured, and the bars of what was asked over HTTP."""
    share, source = options.share, Source()
    # One more round warms up, and short queries are asked one by one as well.
    file = prepare.text_file(
        scratch / "texts.json", source, work.mixes, times=2 * (options.rounds + 1), share=share
    )
    setup = contenders.Setup(
        work, checkpoint, artifacts, options.engines.split(","), options.dtypes.split(","), file,
        options.threads, scratch, options.folder.absolute(), options.peers, say, missing,
    )  # fmt: skip
    vectors: NDArray[np.float32] | None = None
    if work.mixes:
        say("      reference vectors: PyTorch, float32, one text at a time")
        torch = contenders.reference(setup)
        try:
            counts = {mix.name: min(VECTORS, max(1, mix.count // share)) for mix in work.mixes}
            known = {
                mix: torch.vectors(mix, count, scratch / "reference.npy") for mix, count in counts.items()
            }
            vectors = known[work.mixes[-1].name]
            if options.only != "http":
                say("      in process")
                yield _inside(options, setup, torch, known, share=share), []
        finally:
            torch.close()
    if options.only != "in-process" and work.cases:
        say("      over HTTP")
        yield _outside(options, setup, source, vectors)


def _facts(options: argparse.Namespace) -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "poolrt": conditions.commit(),
        "processor": (
            f"{conditions.processor()}, {os.cpu_count()} cores, {conditions.memory_gib():.0f} GiB; "
            f"{conditions.instructions()}"
        ),
        "threads": f"{options.threads} for every contender",
        "load average before": f"{conditions.load_average():.2f}{conditions.warning()}",
        "rounds": f"{options.rounds}, over HTTP {options.seconds:.0f} s each",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "models": "the same weights for all" + (", of toy size" if options.tiny else ""),
    }


def _inside(
    options: argparse.Namespace,
    setup: contenders.Setup,
    torch: Peer,
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    share: int,
) -> str:
    peers = [torch]
    mixes = setup.work.mixes
    try:
        peers += contenders.libraries(setup)
        opened = list(peers)
        worst: dict[tuple[str, str], float] = {}
        for peer in opened:
            try:
                for mix in mixes:
                    rows = peer.vectors(mix.name, len(vectors[mix.name]), setup.scratch / "vectors.npy")
                    worst[peer.label, mix.name] = float(in_process.cosines(rows, vectors[mix.name]).min())
            except (RuntimeError, OSError) as error:
                setup.missing.append(f"{peer.label} failed on its first texts ({error})")
                peers.remove(peer)
        counts = {mix.name: max(1, mix.count // share) for mix in mixes}
        cases = [in_process.Case(mix.name, False, counts[mix.name], mix.says) for mix in mixes]
        if mixes[0].name == "queries":
            behind = counts["queries"] * (options.rounds + 1)
            cases.append(
                in_process.Case("queries", True, counts["queries"], "short queries, one call each", behind)
            )
        measured = in_process.run(
            peers,
            cases,
            rounds=options.rounds,
            say=lambda text: say("      " + text),
            missing=setup.missing,
        )
    finally:
        for peer in peers[1:]:
            peer.close()
    return tables.inside(peers, cases, measured, worst)


def _outside(
    options: argparse.Namespace, setup: contenders.Setup, source: Source, vectors: NDArray[np.float32] | None
) -> tuple[str, list[chart.Bar]]:
    work = setup.work
    started: list[Server] = []
    compared = [source.text(case.mix) for case in work.cases[:1] for _ in range(FEW)]
    if vectors is not None:
        texts = json.loads(setup.texts.read_text(encoding="utf-8"))[work.mixes[-1].name]
        compared = texts[: len(vectors)]
    base: NDArray[np.float64] | None = None
    listed = contenders.servers(
        setup, vllm=options.vllm, vllm_dtypes=options.vllm_dtypes.split(","), infinity=options.infinity
    )
    try:
        for server in listed:
            say(f"      starting {server.label}")
            try:
                _start(server)
                if vectors is not None:
                    cosines = in_process.cosines(over_http.vectors(server, compared), vectors)
                    server.accuracy = report.cosine(float(cosines.min()))
                elif (scores := over_http.scores(server, compared)) is not None:
                    base = scores if base is None else base
                    server.accuracy = f"{float(np.abs(scores - base).max()):.1e}"
                server.freeze()
                started.append(server)
            except (RuntimeError, OSError, ValueError) as error:
                setup.missing.append(f"{server.label} ({' '.join(str(error).split())[-300:]})")
                server.stop()
        seconds = options.seconds * (1 if options.quick else work.seconds)
        measured = over_http.run(
            started,
            work.cases,
            rounds=options.rounds,
            seconds=seconds,
            warm_s=seconds / 4,
            source=source,
            say=lambda text: say("      " + text),
            missing=setup.missing,
        )
    finally:
        for server in started:
            server.stop()
    if not started:
        raise RuntimeError("no server started")
    return tables.outside(started, work.cases, measured), tables.ratios(started, work.cases, measured)


def _start(server: Server) -> None:
    """Starts it; poolrt twice, because the first start of an artifact chooses an engine and compiles."""
    server.start()
    if server.label.startswith("poolrt"):
        server.first_ready_s = server.ready_s
        server.stop()
        server.start()


if __name__ == "__main__":
    main()

"""`python -m bench`: poolrt beside sentence-transformers and fastembed in one process, and beside vLLM and
Infinity over HTTP."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import chart, conditions, contenders, in_process, over_http, prepare, report, tables, works
from .in_process import Peer
from .servers import Server
from .texts import Source
from .works import Work

QUICK_SHARE = 8
HEAD = """# Results

Written by `make bench`; not edited by hand. Every line was measured in the same run, the contenders taking turns (A B C A B C ...), so
that whatever else the machine did met all of them. Values are medians of the rounds, with the extremes in brackets.
Each speed stands beside its accuracy: the smallest cosine of any text to PyTorch in float32, both computed one text at a time.
No text is measured twice: equal texts may be computed once. Random weights answer nothing, and compute as fast as others.
Pictures are measured apart: [PICTURES.md](PICTURES.md)."""  # noqa: E501
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
        default="onnxruntime,openvino:bf16,auto",
        help="of poolrt's fp32 artifact, one row each",
    )
    parser.add_argument(
        "--precisions", default="fp32,int8", help="of poolrt's artifacts (default fp32,int8; reranker: fp32)"
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
    parser.add_argument(
        "--vllm-dtypes", default="float32,bfloat16", help="one server each (default float32,bfloat16)"
    )
    parser.add_argument(
        "--infinity",
        default=os.environ.get("POOLRT_INFINITY"),
        help="path of the infinity_emb command (or POOLRT_INFINITY)",
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    options = parser.parse_args()
    options.works = works.chosen(options.works)
    if options.quick:
        options.rounds, options.seconds = 2, 2.0
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEAD + conditions.warning(), report.lines(_facts(options)), tables.HTTP_NOTE]
    sections: list[tuple[str, list[chart.Bar]]] = []
    for number, work in enumerate(options.works, 1):
        say(f"[{number}/{len(options.works)}] {work.title}")
        with tempfile.TemporaryDirectory(prefix="poolrt-bench-") as scratch:
            parts.append(f"## {work.title}\n\n{work.says[0].upper()}{work.says[1:]}.")
            for part, bars in _measured(options, work, folder, Path(scratch)):
                parts.append(part)
                if bars:
                    sections.append((work.title, bars))
                _write(options.out, parts, sections)
    say(f"written: {options.out}")


def _measured(
    options: argparse.Namespace, work: Work, folder: Path, scratch: Path
) -> Iterator[tuple[str, list[chart.Bar]]]:
    """The sections of one work, as they are measured, and the bars of what was asked over HTTP."""
    share, source = QUICK_SHARE if options.quick else 1, Source()
    checkpoint = work.checkpoint(folder / "checkpoints", tiny=options.tiny)
    name = prepare.MODEL if work.shape is None else checkpoint.name
    wanted = options.precisions.split(",") if work.overrides is None else ["fp32"]
    say(f"      exporting in {' and '.join(wanted)}")
    artifacts = {
        precision: prepare.artifact(checkpoint, precision, folder, name=name, overrides=work.overrides)
        for precision in wanted
    }
    # One more round warms up, and short queries are asked one by one as well.
    file = prepare.text_file(
        scratch / "texts.json", source, work.mixes, times=2 * (options.rounds + 1), share=share
    )
    setup = contenders.Setup(
        work, checkpoint, artifacts, options.engines.split(","), options.dtypes.split(","), file,
        options.threads, scratch, say,
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
    if options.only != "in-process":
        say("      over HTTP")
        yield _outside(options, setup, source, vectors)


def _write(out: Path, parts: list[str], sections: list[tuple[str, list[chart.Bar]]]) -> None:
    picture: list[str] = []
    if sections:
        title = "Texts per second over HTTP, of those of the server at 1.00×"
        out.with_suffix(".svg").write_text(chart.drawn(title, sections), encoding="utf-8")
        picture = [f"![{title}]({out.with_suffix('.svg').name})"]
    out.write_text("\n\n".join([*parts[:3], *picture, *parts[3:]]) + "\n", encoding="utf-8")


def _facts(options: argparse.Namespace) -> dict[str, str]:
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "poolrt": conditions.commit(),
        "processor": (
            f"{conditions.processor()}, {os.cpu_count()} cores, {conditions.memory_gib():.0f} GiB; "
            f"{conditions.instructions()}"
        ),
        "threads": f"{options.threads} for every contender",
        "load average before the run": f"{conditions.load_average():.2f}",
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
        worst = {
            (peer.label, mix.name): float(
                in_process.cosines(
                    peer.vectors(mix.name, len(vectors[mix.name]), setup.scratch / "vectors.npy"),
                    vectors[mix.name],
                ).min()
            )
            for peer in peers
            for mix in mixes
        }
        counts = {mix.name: max(1, mix.count // share) for mix in mixes}
        cases = [in_process.Case(mix.name, False, counts[mix.name], mix.says) for mix in mixes]
        if mixes[0].name == "queries":
            behind = counts["queries"] * (options.rounds + 1)
            cases.append(
                in_process.Case("queries", True, counts["queries"], "short queries, one call each", behind)
            )
        measured = in_process.run(peers, cases, rounds=options.rounds, say=lambda text: say("      " + text))
    finally:
        for peer in peers[1:]:
            peer.close()
    return tables.inside(peers, cases, measured, worst)


def _outside(
    options: argparse.Namespace, setup: contenders.Setup, source: Source, vectors: NDArray[np.float32] | None
) -> tuple[str, list[chart.Bar]]:
    work = setup.work
    listed = contenders.servers(
        setup, vllm=options.vllm, vllm_dtypes=options.vllm_dtypes.split(","), infinity=options.infinity
    )
    started: list[Server] = []
    compared = [source.text(case.mix) for case in work.cases[:1] for _ in range(FEW)]
    if vectors is not None:
        texts = json.loads(setup.texts.read_text(encoding="utf-8"))[work.mixes[-1].name]
        compared = texts[: len(vectors)]
    base: NDArray[np.float64] | None = None
    try:
        for server in listed:
            say(f"      starting {server.label}")
            server.start()
            started.append(server)
            if vectors is not None:
                cosines = in_process.cosines(over_http.vectors(server, compared), vectors)
                server.accuracy = report.cosine(float(cosines.min()))
            elif (scores := over_http.scores(server, compared)) is not None:
                base = scores if base is None else base
                server.accuracy = f"{float(np.abs(scores - base).max()):.1e}"
            server.freeze()
        seconds = options.seconds * (1 if options.quick else work.seconds)
        measured = over_http.run(
            started,
            work.cases,
            rounds=options.rounds,
            seconds=seconds,
            warm_s=seconds / 4,
            source=source,
            say=lambda text: say("      " + text),
        )
    finally:
        for server in started:
            server.stop()
    return tables.outside(started, work.cases, measured), tables.ratios(started, work.cases, measured)


if __name__ == "__main__":
    main()

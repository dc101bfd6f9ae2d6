"""`python -m bench`: poolrt beside sentence-transformers and fastembed in one process, and beside vLLM and
Infinity over HTTP."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import conditions, contenders, in_process, over_http, prepare, report, tables
from .in_process import Peer
from .servers import Server
from .texts import MIXES, texts

QUICK_SHARE = 8
HEAD = """# Results

Written by `make bench`; not edited by hand. Every line was measured in the same run, the contenders taking turns (A B C A B C ...), so
that whatever else the machine did met all of them. Values are medians of the rounds, with the extremes in brackets.
Each speed stands beside its accuracy: the smallest cosine of any text to PyTorch in float32, both computed one text at a time.
Pictures are measured apart: [PICTURES.md](PICTURES.md)."""  # noqa: E501


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--only", choices=("in-process", "http"), help="one half; then --out should be another file"
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
    if options.quick:
        options.rounds, options.seconds = 2, 2.0
    return options


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    options = arguments()
    head, facts = HEAD + conditions.warning(), _facts(options)
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    share = QUICK_SHARE if options.quick else 1
    say("[1/4] exporting the model in fp32 and int8")
    source = prepare.checkpoint()
    artifacts = {precision: prepare.artifact(source, precision, folder) for precision in ("fp32", "int8")}
    parts = [head, report.lines(facts)]
    with tempfile.TemporaryDirectory(prefix="poolrt-bench-") as scratch:
        file = prepare.text_file(folder, share=share)
        setup = contenders.Setup(source, artifacts, file, options.threads, Path(scratch), say)
        say("[2/4] reference vectors: PyTorch, float32, one text at a time")
        torch = contenders.reference(setup)
        vectors = {mix.name: torch.vectors(mix.name, setup.scratch / "reference.npy") for mix in MIXES}
        if options.only != "http":
            say("[3/4] in process")
            parts.append(_inside(options, setup, torch, vectors, share=share))
            _write(options.out, parts)
        torch.close()
        if options.only != "in-process":
            say("[4/4] over HTTP")
            parts.append(_outside(options, setup, vectors["mixed"]))
            _write(options.out, parts)
    say(f"written: {options.out}")


def _write(out: Path, parts: list[str]) -> None:
    out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


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
        "model": f"{prepare.MODEL} (22.7 million parameters), the same weights for all",
    }


def _inside(
    options: argparse.Namespace,
    setup: contenders.Setup,
    torch: Peer,
    vectors: Mapping[str, NDArray[np.float32]],
    *,
    share: int,
) -> str:
    peers = [torch, *contenders.libraries(setup)]
    try:
        worst = {
            (peer.label, mix.name): float(
                in_process.cosines(
                    peer.vectors(mix.name, setup.scratch / "vectors.npy"), vectors[mix.name]
                ).min()
            )
            for peer in peers
            for mix in MIXES
        }
        cases = [in_process.Case(mix.name, False, mix.count // share, mix.says) for mix in MIXES]
        cases.append(
            in_process.Case("queries", True, MIXES[0].count // share, "short queries, one call each")
        )
        measured = in_process.run(peers, cases, rounds=options.rounds, say=lambda text: say("      " + text))
    finally:
        for peer in peers[1:]:
            peer.close()
    return tables.inside(peers, cases, measured, worst)


def _outside(options: argparse.Namespace, setup: contenders.Setup, vectors: NDArray[np.float32]) -> str:
    listed = contenders.servers(
        setup, vllm=options.vllm, vllm_dtypes=options.vllm_dtypes.split(","), infinity=options.infinity
    )
    compared = texts(MIXES[-1], count=len(vectors))
    started: list[Server] = []
    try:
        for server in listed:
            say(f"      starting {server.label}")
            server.start()
            started.append(server)
            server.worst_cosine = float(
                in_process.cosines(over_http.vectors(server, compared), vectors).min()
            )
            server.freeze()
        cases = over_http.cases()
        measured = over_http.run(
            started,
            cases,
            rounds=options.rounds,
            seconds=options.seconds,
            warm_s=options.seconds / 4,
            say=lambda text: say("      " + text),
        )
    finally:
        for server in started:
            server.stop()
    return tables.outside(started, cases, measured)


if __name__ == "__main__":
    main()

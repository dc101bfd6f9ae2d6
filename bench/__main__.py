"""`python -m bench`: poolrt beside sentence-transformers and fastembed in process, beside vLLM and Infinity over HTTP."""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from . import conditions, in_process, over_http, prepare, report
from .servers import Server
from .texts import MIXES, texts

REFERENCE = "sentence-transformers"
HEAD = """# Results

Written by `make bench`; not edited by hand. Every line was measured in the same run, the libraries taking turns (A B C A B C ...),
so that whatever else the machine did met all of them. Values are medians of the rounds, with the extremes beside them.
Each speed stands beside its accuracy: the worst cosine of any text to PyTorch in float32, one text at a time.
"""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=("in-process", "http"), help="one half; then --out should be another file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of one HTTP case in one round (default 8)")
    parser.add_argument("--quick", action="store_true", help="2 rounds of 3 seconds: to see that everything works")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="for every library (default: all cores)")
    parser.add_argument("--vllm", default=os.environ.get("POOLRT_VLLM"), help="path of the vllm command to compare with (or POOLRT_VLLM)")
    parser.add_argument("--vllm-dtypes", default="float32,bfloat16", help="one server each (default float32,bfloat16)")
    parser.add_argument(
        "--infinity", default=os.environ.get("POOLRT_INFINITY"), help="path of the infinity_emb command (or POOLRT_INFINITY)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("RESULTS.md"))
    asked = parser.parse_args()
    if asked.quick:
        asked.rounds, asked.seconds = 2, 3.0
    return asked


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    asked = arguments()
    load = conditions.load_average()
    folder = Path("build/bench")
    folder.mkdir(parents=True, exist_ok=True)
    say("[1/4] exporting the model in fp32 and int8")
    source = prepare.checkpoint()
    artifacts = {precision: prepare.artifact(source, precision, folder) for precision in ("fp32", "int8")}
    facts = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "poolrt": conditions.commit(),
        "processor": f"{conditions.processor()}, {os.cpu_count()} cores, {conditions.memory_gib():.0f} GiB; {conditions.instructions()}",
        "threads": f"{asked.threads} for every library",
        "load average before the run": f"{load:.2f}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "model": f"{prepare.MODEL} (22.7 million parameters), the same weights for all",
    }
    parts = [HEAD, report.lines(facts)]
    with tempfile.TemporaryDirectory(prefix="poolrt-bench-") as scratch:
        say("[2/4] reference vectors: PyTorch, float32, one text at a time")
        settings = {"path": source, "texts": prepare.text_file(folder), "threads": asked.threads}
        torch = in_process.Peer(REFERENCE, "sentence-transformers", **settings)
        reference = {mix.name: torch.vectors(f"{mix.name}", Path(scratch) / "reference.npy") for mix in MIXES}
        if asked.only != "http":
            say("[3/4] in process")
            parts.append(inside(asked, torch, artifacts, settings, reference, Path(scratch)))
        torch.close()
        if asked.only != "in-process":
            say("[4/4] over HTTP")
            parts.append(outside(asked, source, artifacts, reference, Path(scratch)))
    asked.out.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    say(f"written: {asked.out}")


def inside(asked: argparse.Namespace, torch: in_process.Peer, artifacts: Mapping[str, Path], settings, reference, scratch: Path) -> str:
    peers = [torch]
    try:
        importlib.metadata.version("fastembed")
    except importlib.metadata.PackageNotFoundError:
        say("      fastembed is left out: pip install fastembed")
    else:
        plain = prepare.plain_onnx(settings["path"], Path("build/bench/plain"))
        peers.append(in_process.Peer("fastembed", "fastembed", **{**settings, "path": plain}))
    peers += [in_process.Peer(f"poolrt {name}", "poolrt", **{**settings, "path": path}) for name, path in artifacts.items()]
    listed = [in_process.Case(mix.name, False, mix.count, mix.says) for mix in MIXES]
    listed.append(in_process.Case("queries", True, MIXES[0].count, "short queries, one call each"))
    worst = {
        (peer.label, mix.name): in_process.cosines(peer.vectors(mix.name, scratch / "vectors.npy"), reference[mix.name]).min()
        for peer in peers
        for mix in MIXES
    }
    measured = in_process.run(peers, listed, rounds=asked.rounds, say=lambda text: say("      " + text))
    rows = []
    for index, case in enumerate(listed):
        base = report.middle(measured[REFERENCE, index].seconds)
        for peer in peers:
            found = measured[peer.label, index]
            rows.append([
                case.says if peer is peers[0] else "", peer.label, report.spread([case.texts / seconds for seconds in found.seconds]),
                f"{base / report.middle(found.seconds):.2f}×", report.number(report.middle(found.cpu_s) / case.texts * 1000),
                report.cosine(float(worst[peer.label, case.mix])),
            ])  # fmt: skip
    header = ["texts", "library", "texts/s", f"of {REFERENCE}", "CPU s per 1000", "worst cosine"]
    versions = {peer.label: f"{peer.version}; ready in {peer.ready_s:.1f} s" for peer in peers}
    for peer in peers[1:]:
        peer.close()
    return f"## In one process\n\n{report.lines(versions)}\n\n{report.table(header, rows)}"


def outside(asked: argparse.Namespace, source: Path, artifacts: Mapping[str, Path], reference, scratch: Path) -> str:
    listed = over_http.cases()
    started: list[Server] = []
    try:
        for server in servers(asked, source, artifacts, scratch):
            say(f"      starting {server.label}")
            server.start()
            started.append(server)
            server.worst_cosine = float(in_process.cosines(over_http.vectors(server, texts(MIXES[-1])), reference["mixed"]).min())
            server.freeze()
        measured = over_http.run(
            started, listed, rounds=asked.rounds, seconds=asked.seconds, warm_s=asked.seconds / 4, say=lambda text: say("      " + text)
        )
    finally:
        for server in started:
            server.stop()
    base = next((server for server in started if server.label.startswith("vLLM")), started[0])
    rows = []
    for index, case in enumerate(listed):
        for server in started:
            found = measured[server.label, index]
            if not found.texts_per_s:
                rows.append([case.says if server is started[0] else "", server.label, "not offered", *[""] * 6])
                continue
            ratio = report.middle(found.texts_per_s) / report.middle(measured[base.label, index].texts_per_s)
            rows.append([
                case.says if server is started[0] else "", server.label, report.spread(found.texts_per_s), f"{ratio:.2f}×",
                report.number(report.middle(found.p50_s) * 1000), report.number(report.middle(found.p99_s) * 1000),
                report.number(report.middle(found.cpu_s_per_1000)), report.number(report.middle(found.client_cpu_s_per_1000)),
                report.cosine(server.worst_cosine),
            ])  # fmt: skip
    header = [
        "requests", "server", "texts/s", f"of {base.label}", "p50 ms", "p99 ms", "server CPU s per 1000 texts",
        "client CPU s per 1000 requests", "worst cosine",
    ]  # fmt: skip
    versions = {
        server.label: f"{server.version}; ready in {server.ready_s:.1f} s; "
        f"{max(measured[server.label, index].resident_mib for index in range(len(listed))):.0f} MiB; "
        f"{sum(measured[server.label, index].failures for index in range(len(listed)))} failed requests"
        for server in started
    }
    note = (
        "Closed loop: that many connections, each sends its next request when the answer has come. The client runs on the same cores and "
        "its CPU time stands beside the server's. Vectors are answered as JSON floats. While one server is measured the others are stopped."
    )
    return f"## Over HTTP\n\n{note}\n\n{report.lines(versions)}\n\n{report.table(header, rows)}"


def servers(asked: argparse.Namespace, source: Path, artifacts: Mapping[str, Path], scratch: Path) -> list[Server]:
    environment = conditions.environment(asked.threads)
    listed = [
        Server(
            f"poolrt {precision}",
            [str(prepare.POOLRT), "serve", str(path), "--port", "{port}", "--threads", str(asked.threads)],
            model=path.name, version=f"poolrt {importlib.metadata.version('poolrt')}", log=scratch / f"{precision}.log",
            variables=environment, ready="/ready",
        )
        for precision, path in artifacts.items()
    ]  # fmt: skip
    if asked.vllm:
        version = version_of(asked.vllm, "vllm")
        quiet = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
        for dtype in asked.vllm_dtypes.split(","):
            command = [asked.vllm, "serve", str(source), "--runner", "pooling", "--dtype", dtype]
            command += ["--served-model-name", prepare.MODEL, "--host", "127.0.0.1", "--port", "{port}", "--disable-uvicorn-access-log"]
            listed.append(
                Server(f"vLLM {dtype}", command, model=prepare.MODEL, version=f"vllm {version}", log=scratch / f"vllm-{dtype}.log",
                       variables={**environment, **quiet})
            )  # fmt: skip
    else:
        say("      vLLM is left out: set POOLRT_VLLM to the vllm command of an environment that has it (CONTRIBUTING.md says how)")
    if asked.infinity:
        command = [
            str(Path(asked.infinity).with_name("infinity_emb")),
            "v2",
            "--model-id",
            str(source),
            "--served-model-name",
            prepare.MODEL,
        ]
        command += [
            "--engine",
            "torch",
            "--device",
            "cpu",
            "--dtype",
            "float32",
            "--no-bettertransformer",
            "--no-compile",
            "--log-level",
            "warning",
        ]
        command += ["--host", "127.0.0.1", "--port", "{port}"]
        listed.append(
            Server("Infinity", command, model=prepare.MODEL, version=f"infinity-emb {version_of(asked.infinity, 'infinity-emb')}",
                   log=scratch / "infinity.log", variables={**environment, "DO_NOT_TRACK": "1"}, embeddings="/embeddings",
                   rerank=None)
        )  # fmt: skip
    return listed


def version_of(command: str, package: str) -> str:
    """Of a package in the environment that the command belongs to."""
    code = f"import importlib.metadata as m; print(m.version({package!r}))"
    asked = subprocess.run([Path(command).with_name("python"), "-c", code], capture_output=True, text=True, check=False)
    if asked.returncode:
        raise SystemExit(f"bench: the environment of {command} has no {package}")
    return asked.stdout.strip()


if __name__ == "__main__":
    main()

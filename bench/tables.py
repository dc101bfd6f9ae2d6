"""What was measured, as the two sections of bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import in_process, over_http, report
from .chart import Bar
from .in_process import Peer
from .servers import Server
from .works import Case

HTTP_NOTE = """\
Closed loop: that many connections, each of which sends its next request when the answer has come. The client runs on the same cores;
its own CPU time stands beside the server's, of which all processes are counted. Vectors are answered as JSON floats. While one server is
measured the others are stopped. No server gets a text twice. Accuracy is the smallest cosine to PyTorch of texts sent in one request; of
a reranker the largest distance of a score to the first server's, whose export compared it with PyTorch."""  # noqa: E501


def inside(
    peers: Sequence[Peer],
    cases: Sequence[in_process.Case],
    measured: Mapping,
    worst: Mapping[tuple[str, str], float],
) -> str:
    """The section about libraries in one process. The others are compared with the first peer.

    `measured`: (label, index of the case) -> Measured. `worst`: (label, mix) -> smallest cosine.
    """
    base = peers[0].label
    rows = []
    for index, case in enumerate(cases):
        base_s = report.middle(measured[base, index].seconds)
        for peer in peers:
            values = measured[peer.label, index]
            rows.append(
                [
                    case.says if peer is peers[0] else "",
                    peer.label,
                    report.spread([case.texts / seconds for seconds in values.seconds]),
                    f"{base_s / report.middle(values.seconds):.2f}×",
                    report.number(report.middle(values.cpu_s) / case.texts * 1000),
                    report.number(values.resident_mib),
                    report.cosine(worst[peer.label, case.mix]),
                ]
            )
    header = ["inputs", "library", "per s", f"of {base}", "CPU s per 1000", "MiB", "worst cosine"]
    versions = {
        peer.label: f"{peer.version}; first answer {peer.ready_s:.1f} s after its start{_first(peer)}, "
        f"of which its modules take {peer.import_s:.1f} s"
        for peer in peers
    }
    return f"### In one process\n\n{report.lines(versions)}\n\n{report.table(header, rows)}"


def outside(
    servers: Sequence[Server],
    cases: Sequence[Case],
    measured: Mapping[tuple[str, int], over_http.Measured],
) -> str:
    base = basis(servers)
    rows = []
    for index, case in enumerate(cases):
        for server in servers:
            rows.append(
                [
                    case.says if server is servers[0] else "",
                    server.label,
                    *_row(measured, server, base, index),
                ]
            )
    header = [
        "requests",
        "server",
        "texts/s",
        f"of {base.label}",
        "p50 ms",
        "p99 ms",
        "server CPU s per 1000 texts",
        "client CPU s per 1000 requests",
        "accuracy",
    ]
    versions = {}
    for server in servers:
        all_cases = [measured[server.label, index] for index in range(len(cases))]
        largest = max(values.resident_mib for values in all_cases)
        failures = sum(values.failures for values in all_cases)
        problems = [values.problem for values in all_cases if values.failures and values.problem]
        versions[server.label] = (
            f"{server.version}; ready in {server.ready_s:.1f} s{_first(server)}; {largest:.0f} MiB; "
            f"{failures} failed requests" + (f" (the last: {problems[-1]})" if problems else "")
        )
    return f"### Over HTTP\n\n{report.lines(versions)}\n\n{report.table(header, rows)}"


def _first(started: Server | Peer) -> str:
    return "" if started.first_ready_s is None else f" (the first time {started.first_ready_s:.1f} s)"


def basis(servers: Sequence[Server]) -> Server:
    """The server that the others are compared with: vLLM in the type that it takes for most models, bf16."""
    peers = [server for server in servers if server.label.startswith("vLLM")]
    halves = [server for server in peers if server.label.endswith("bfloat16")]
    return [*halves, *peers, *servers][0]


def ratios(
    servers: Sequence[Server],
    cases: Sequence[Case],
    measured: Mapping[tuple[str, int], over_http.Measured],
) -> list[Bar]:
    """How many times the basis' rate each server has, of each kind of request."""
    base, bars = basis(servers), []
    for index, case in enumerate(cases):
        slow = measured[base.label, index].texts_per_s
        for server in servers:
            rates = measured[server.label, index].texts_per_s
            if rates and slow:
                bars.append(Bar(case.says, server.label, report.middle(rates) / report.middle(slow)))
    return bars


def _row(
    measured: Mapping[tuple[str, int], over_http.Measured], server: Server, base: Server, index: int
) -> list[str]:
    values, base_values = measured[server.label, index], measured[base.label, index]
    if not values.texts_per_s or not base_values.texts_per_s:
        return ["not offered", *[""] * 6]
    ratio = report.middle(values.texts_per_s) / report.middle(base_values.texts_per_s)
    return [
        report.spread(values.texts_per_s),
        f"{ratio:.2f}×",
        report.number(report.middle(values.p50_s) * 1000),
        report.number(report.middle(values.p99_s) * 1000),
        report.number(report.middle(values.cpu_s_per_1000)),
        report.number(report.middle(values.client_cpu_s_per_1000)),
        server.accuracy,
    ]

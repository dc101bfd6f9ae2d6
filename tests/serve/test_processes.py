"""Several processes behind one port: where they compute, what they report together, and how one dies."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
from poolrt.runtime.errors import InputError
from poolrt.serve.cli import parse, processes_of
from poolrt.serve.metrics.merging import Total, summed
from poolrt.serve.process import placement
from poolrt.serve.process.listening import check_free, listening, unix_socket
from poolrt.serve.process.placement import Place, places
from poolrt.serve.process.signals import on_hangup
from poolrt.serve.settings import Settings
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from tests.end_to_end.commands import command, environment

LONGEST_S = 120.0
HEADERS = {"Content-Type": "application/json"}


def machine_of(folder: Path, nodes: list[str], siblings: dict[int, str]) -> Path:
    """A /sys/devices/system with these processors in its nodes."""
    for number, cpus in enumerate(nodes):
        (folder / "node" / f"node{number}").mkdir(parents=True)
        (folder / "node" / f"node{number}" / "cpulist").write_text(f"{cpus}\n")
    for cpu, threads in siblings.items():
        (folder / "cpu" / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (folder / "cpu" / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(threads)
    return folder


@pytest.mark.parametrize(
    ("count", "shares"),
    [
        (1, [{0, 1, 2, 3, 4, 5, 6, 7}]),
        (2, [{0, 1, 4, 5}, {2, 3, 6, 7}]),
        (3, [{0, 4}, {2, 3, 6, 7}, {1, 5}]),
        (4, [{0, 4}, {2, 6}, {1, 5}, {3, 7}]),
        (8, [{0}, {2}, {4}, {6}, {1}, {3}, {5}, {7}]),
    ],
)
def test_shares_stay_in_a_node_and_keep_the_threads_of_a_core_together(
    count: int, shares: list[set[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of two cores of two threads, numbered as Intel numbers them."""
    system = machine_of(
        tmp_path, ["0-1,4-5", "2-3,6-7"], {cpu: f"{cpu % 4},{cpu % 4 + 4}" for cpu in range(8)}
    )
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    assert [set(share) for share in placement.split(count, system)] == shares


def test_shares_are_of_what_the_system_grants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = machine_of(tmp_path, ["0-3", "4-7"], {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 2, 9})
    assert placement.split(2, system) == [(1, 2), (9,)]
    assert placement.split(4, system) == [(1,), (9,), (1,), (2,)]  # more shares than processors overlap
    monkeypatch.delattr(os, "sched_getaffinity")
    assert placement.split(2, system) == []


@pytest.mark.parametrize(
    ("nodes", "count", "sizes"),
    [
        (["0-29", "30-31"], 2, [15, 15]),  # a container with two processors of another node
        (["0-29", "30-31"], 4, [7, 8, 7, 8]),
        (["0-7", "8-11"], 3, [4, 4, 4]),
        (["0-7", "8-15", "16-23", "24-31"], 3, [16, 8, 8]),
        (["0-3", "4-7"], 2, [4, 4]),
    ],
)
def test_shares_are_as_equal_as_nodes_allow(
    nodes: list[str], count: int, sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = machine_of(tmp_path, nodes, {})
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(32)) & cpus_of(nodes))
    shares = placement.split(count, system)
    assert [len(share) for share in shares] == sizes
    assert len({cpu for share in shares for cpu in share}) == sum(sizes)


def cpus_of(nodes: list[str]) -> set[int]:
    ends = [tuple(map(int, node.split("-"))) for node in nodes]
    return {cpu for first, last in ends for cpu in range(first, last + 1)}


@pytest.mark.parametrize(("cpus", "threads"), [(12, [8, 4]), (6, [4, 2]), (1, [1, 1])])
def test_threads_are_those_of_the_share_within_the_quota(
    cpus: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placement, "split", lambda count: [tuple(range(8)), tuple(range(8, 12))])
    assert [place.threads for place in places(2, 2, "cpu", None, cpus=cpus, gpus=0)] == threads
    assert [place.threads for place in places(2, 2, "cpu", 3, cpus=cpus, gpus=0)] == [3, 3]


@pytest.mark.parametrize(("variable", "count"), [("5", 1), ("", 0), ("3,-1,4", 1)])
def test_a_hidden_gpu_is_not_taken(variable: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    with pytest.raises(InputError, match=f"CUDA_VISIBLE_DEVICES shows {count} GPUs"):
        placement.gpu_of("cuda:1")


def test_each_rank_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def gpus_of(count: int, ranks: int, device: str) -> list[str | None]:
        return [place.gpu for place in places(count, ranks, device, None, cpus=8, gpus=4)]

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus_of(4, 4, "auto") == ["0", "1", "2", "3"]
    assert gpus_of(4, 2, "cuda:1,cuda:3") == ["1", "3", "1", "3"]
    assert gpus_of(1, 1, "cuda:2") == ["2"]
    assert gpus_of(2, 2, "cpu") == ["", ""]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-b, 6,7")
    assert gpus_of(2, 2, "cuda") == ["5", "GPU-b"]
    assert places(2, 2, "auto", None, cpus=8, gpus=4)[0].threads == 4
    assert places(1, 1, "cpu", None, cpus=8, gpus=0) == [Place(None, None, "")]
    assert [placement.gpu_of(device) for device in ("auto", "cuda", "cpu", "cuda:1")] == [
        None, None, "", "GPU-b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("ranks", "device", "words"),
    [
        (2, "cuda:0", "--data-parallel-size 2: --device cuda:0 names 1"),
        (1, "cuda:4", "the driver shows 4 GPUs"),
        (1, "gpu", "expected auto, cpu, cuda"),
    ],
)
def test_a_device_that_is_none_is_refused(ranks: int, device: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        places(ranks, ranks, device, None, cpus=8, gpus=4)
    with pytest.raises(InputError, match="the driver shows no GPU"):
        places(1, 1, "cuda", None, cpus=8, gpus=0)


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ([], 1),
        (["--api-server-count", "3"], 3),
        (["--dp", "2"], 2),
        (["--data-parallel-size=4", "--asc", "2"], 4),
    ],
)
def test_there_are_as_many_processes_as_the_larger_flag_says(flags: list[str], count: int) -> None:
    assert processes_of(parse(["artifact", *flags])[0]) == count


def reported(requests: float, memory: float, ratio: float, started: float) -> bytes:
    """What a process reports, written by prometheus_client itself."""
    registry = CollectorRegistry()
    Counter("requests", "Requests.", ["path"], registry=registry).labels("/a").inc(requests)
    Histogram("seconds", "Time.", buckets=(1, 10), registry=registry).observe(requests)
    Gauge("poolrt_padding_ratio", "Padding.", registry=registry).set(ratio)
    Gauge("memory_bytes", "Memory.", registry=registry).set(memory)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(started)
    return generate_latest(registry)


def values(text: bytes) -> dict[str, float]:
    lines = [line for line in text.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_metrics_of_processes_are_summed_and_those_of_dead_ones_stay() -> None:
    one, two = reported(3, 100, 0.2, 50), reported(20, 11, 0.4, 40)
    both = values(summed([one, two]))
    assert both['requests_total{path="/a"}'] == 23
    assert (both['seconds_bucket{le="10.0"}'], both['seconds_bucket{le="+Inf"}']) == (1, 2)
    assert (both["seconds_count"], both["seconds_sum"], both["memory_bytes"]) == (2, 23, 111)
    assert both["poolrt_padding_ratio"] == pytest.approx(0.3)
    assert both["process_start_time_seconds"] == 40
    total = Total()
    for _ in range(2):  # two processes died, one after the other
        total.add(two)
    after = values(summed([one], total, [GaugeMetricFamily("workers", "Alive.", 1)]))
    assert (after['requests_total{path="/a"}'], after["seconds_sum"]) == (43, 43)
    assert (after["memory_bytes"], after["workers"]) == (100, 1)


def test_the_sum_of_one_process_is_what_it_reports() -> None:
    text = reported(3, 100, 0.2, 50)
    assert values(summed([text])) == values(text)
    types = {line for line in text.decode().splitlines() if line.startswith("# TYPE")}
    assert types == {line for line in summed([text]).decode().splitlines() if line.startswith("# TYPE")}


class Server:
    """`poolrt serve` with two processes."""

    def __init__(self, artifact: Path, log: Path, *flags: str, count: str = "--api-server-count") -> None:
        self._log = log.open("w+")
        self.process = subprocess.Popen(
            [*command("serve", artifact, count, "2", "--port", "0", "--json"), *flags],
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=environment() | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, log.read_text()[-2000:]
        self.ready = json.loads(line)

    def children(self) -> set[int]:
        """The processes that serve; the third child of the supervisor is Python's own."""
        pid = self.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return {int(pid) for pid in pids if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()}

    def ask(self, path: str, body: Any = None) -> tuple[int, bytes]:
        request = urllib.request.Request(
            self.ready["url"] + path,
            None if body is None else json.dumps(body).encode(),
            HEADERS,
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def counted(self) -> dict[str, float]:
        return values(self.ask("/metrics")[1])

    def close(self, sign: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(sign)
        code = self.process.wait(LONGEST_S)
        self._log.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST_S
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_dead_process_is_started_again_and_nothing_counted_is_lost(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    server = Server(artifacts("minilm_like"), tmp_path / "log")
    series = 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="minilm_like"}'
    try:
        assert server.ask("/ready")[0] == 200  # the line is printed when both are ready
        before = server.children()
        assert len(before) == 2
        for _ in range(8):
            assert server.ask("/v1/embeddings", {"input": "hello"})[0] == 200
        # A scrape that a busy process does not reply to in time has its last report.
        until(lambda: server.counted().get(series) == 8)
        until(lambda: server.counted().get("poolrt_workers") == 2)
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(server.children()) == 2 and server.children() != before)
        until(lambda: server.counted().get("poolrt_worker_restarts_total") == 1)
        for _ in range(4):
            assert server.ask("/v1/embeddings", {"input": "hello"})[0] == 200
        until(lambda: server.counted().get(series) == 12)
        assert server.ask("/ready")[0] == 200
        status, body = server.ask("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "b"})
        assert status == 409
        assert b"would reach one of 2 processes" in body
    finally:
        # nohup has it ignored, by the server too.
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        code = server.close(signal.SIGTERM if ignored else signal.SIGHUP)
    assert code == 0


class Clients:
    """Threads that ask without a pause, each request on a connection of its own. When the server ends, they
    end with the port."""

    def __init__(self, server: Server, count: int = 4) -> None:
        self.statuses: list[int] = []
        self.failures: list[OSError | http.client.HTTPException] = []
        self.ending = False
        self._url = urllib.parse.urlsplit(server.ready["url"])
        self._threads = ThreadPoolExecutor(count)
        self._ended = [self._threads.submit(self._ask) for _ in range(count)]

    def _ask(self) -> None:
        while True:
            client = http.client.HTTPConnection(str(self._url.hostname), self._url.port, timeout=LONGEST_S)
            try:
                client.connect()
            except OSError as error:
                if self.ending and isinstance(error, ConnectionRefusedError):
                    return
                self.failures.append(error)
                continue
            try:
                client.request("POST", "/v1/embeddings", '{"input": "hello"}', HEADERS)
                response = client.getresponse()
                response.read()
                self.statuses.append(response.status)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            finally:
                client.close()

    def more(self, count: int) -> None:
        """Waits for that many answers."""
        wanted = len(self.statuses) + count
        until(lambda: len(self.statuses) >= wanted)

    def join(self) -> None:
        for ended in self._ended:
            ended.result(LONGEST_S)
        self._threads.shutdown()


def test_a_killed_process_loses_its_own_requests_and_changes_and_a_stop_lose_none(
    artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    first, second = artifacts("minilm_like"), artifacts("bge_m3")
    log = tmp_path / "log"
    server = Server(first, log, "--allow-artifact-loading", count="--data-parallel-size")
    clients = Clients(server)

    def listed() -> set[tuple[str, ...]]:
        """The names that the processes list; each request goes to any of them."""
        bodies = [json.loads(server.ask("/v1/models")[1]) for _ in range(20)]
        return {tuple(model["id"] for model in body["data"]) for body in bodies}

    try:
        before = server.children()
        clients.more(20)
        for folder in (second, first, second):
            body = {"path": str(folder), "name": "minilm_like"}
            assert server.ask("/v1/artifacts/load", body)[0] == 200
            clients.more(8)
        assert server.ask("/v1/artifacts/load", {"path": str(first), "name": "other"})[0] == 200
        assert server.ask("/v1/artifacts/load", {"path": str(tmp_path), "name": "other"})[0] == 400
        assert listed() == {("minilm_like", "other")}
        assert clients.failures == []
        os.kill(min(before), signal.SIGKILL)
        until(lambda: len(server.children()) == 2 and server.children() != before)
        clients.more(5)
        # The system still gives connections to a process that is being ended.
        assert all(isinstance(error, ConnectionError) for error in clients.failures)
        clients.failures.clear()
        clients.more(20)
        until(lambda: log.read_text().count("ready in") == 3)
        assert listed() == {("minilm_like", "other")}
        assert server.ask("/v1/artifacts/unload", {"name": "other"})[0] == 200
        assert listed() == {("minilm_like",)}
        assert clients.failures == []
    finally:
        clients.ending = True
        code = server.close()
    clients.join()
    assert code == 0
    assert set(clients.statuses) == {200}
    assert clients.failures == []


def test_a_port_is_not_shared_with_another_server() -> None:
    settings = Settings(port=0)
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(sock) for sock in listening(settings, shared=True)]
        for sock in sockets:
            sock.listen()
        check_free(settings)
        with pytest.raises(InputError, match="is in use"):
            check_free(replace(settings, port=sockets[0].getsockname()[1]))


def test_a_unix_socket_takes_the_place_of_an_old_one_and_leaves_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(path)
    with unix_socket(path) as sock, socket.socket(socket.AF_UNIX) as client:
        sock.listen()
        client.connect(path)
    assert not os.path.exists(path)
    (tmp_path / "socket").write_text("a file of somebody")
    with pytest.raises(InputError, match="give another path"), unix_socket(path):
        pass
    assert os.path.exists(path)


@pytest.mark.slow
def test_processes_share_a_unix_socket(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    server = Server(artifacts("minilm_like"), tmp_path / "log", "--uds", path)
    transport = httpx.HTTPTransport(uds=path)
    with httpx.Client(transport=transport, base_url="http://server", timeout=LONGEST_S) as client:
        for _ in range(8):
            assert client.post("/v1/embeddings", json={"input": "hello"}).status_code == 200
        assert values(client.get("/metrics").content)["poolrt_workers"] == 2
    assert server.close() == 0
    assert not os.path.exists(path)


def test_a_hangup_is_handled_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    hangups: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        hangups.append(number)

    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup has it
        on_hangup(handler)
        signal.raise_signal(signal.SIGHUP)
        assert hangups == []
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        on_hangup(handler)
        signal.raise_signal(signal.SIGHUP)
        assert hangups == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_what_cannot_start_ends_the_server_with_its_code(tmp_path: Path) -> None:
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "manifest.json").write_text("{}")
    ended = subprocess.run(
        command("serve", tmp_path / "artifact", "--dp", "2", "--port", "0"),
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 2
    assert "manifest" in ended.stderr

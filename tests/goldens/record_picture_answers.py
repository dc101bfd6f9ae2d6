"""Records what the real vLLM answers to tests/serve/picture_cases.py, one JSON file per server.

Arguments are recordings, all of them by default. `colpali:tokenize,score` records those of its cases that
begin so, and keeps its others. The environment variable POOLRT_VLLM names the `vllm` program, in an
environment that has torchvision too.
Numbers are rounded to DIGITS, far below the tolerance that they are compared with.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from tests.serve.cases import Case

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
DIGITS = 6


def main() -> None:
    from tests.serve.picture_cases import SERVERS

    for index, argument in enumerate(sys.argv[1:] or list(SERVERS)):
        name, _, starts = argument.partition(":")
        server = SERVERS[name]
        path = Path(__file__).parent / "http_pictures" / f"{name}.json"
        with tempfile.TemporaryDirectory() as folder:
            family = importlib.import_module(f"tests.families.{server.module}")
            getattr(family, server.checkpoint)(Path(folder), **server.options)
            cases = [case for case in server.cases if case[0].startswith(tuple(starts.split(",")))]
            recorded = record(folder, 18300 + index, server.flags, cases)
        if starts:
            known = json.loads(path.read_text(encoding="utf-8"))
            answers = known["answers"] | recorded["answers"]
            ended = {*known["fatal"], *recorded["fatal"]}
            recorded["fatal"] = [case[0] for case in server.cases if case[0] in ended]
            recorded["answers"] = {case[0]: answers[case[0]] for case in server.cases if case[0] in answers}
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(rounded(recorded), separators=(",", ":")) + "\n", encoding="utf-8")
        print(f"{name}: {len(recorded['answers'])} answers, {path.stat().st_size} bytes", flush=True)


def record(folder: str, port: int, flags: Sequence[str], cases: Sequence[Case]) -> dict[str, Any]:
    """The answers to all cases, on as many servers as it takes. vLLM ends itself after some of its errors
    with status 500, whose names are in `fatal`."""
    from tests.goldens.record_http import answer, send, vllm

    answers: dict[str, Any] = {}
    fatal: list[str] = []
    version, left = "", list(cases)
    while left:
        with vllm(folder, port, *flags) as client:
            version = client.get("/version").json()["version"]
            while left:
                name, method, path, body = left[0]
                try:
                    answers[name] = answer(send(client, method, path, body))
                except httpx.TransportError:
                    if alive(client):  # a connection that was idle for too long
                        continue
                    failed = [case for case in answers if answers[case]["status"] >= 500]
                    assert failed, f"vLLM ended at {name}"
                    fatal.append(failed[-1])
                    break
                left.pop(0)
    return {"vllm": version, "fatal": fatal, "answers": answers}


def alive(client: httpx.Client) -> bool:
    time.sleep(1)
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()

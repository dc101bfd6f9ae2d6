"""Records what the real vLLM answers to tests/serve/cases.py, one JSON file per server: `make goldens`.

The environment variable POOLRT_VLLM names the `vllm` program to run. Checkpoints are the tiny ones
of tests/checkpoints.py.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}  # fmt: skip
KEPT_HEADERS = ("content-type", "metadata")


def main() -> None:
    from tests.checkpoints import ALL
    from tests.serve.cases import SERVERS, TEMPLATES

    wanted = sys.argv[1:] or list(SERVERS)
    for index, name in enumerate(wanted):
        checkpoint, cases = SERVERS[name]
        with tempfile.TemporaryDirectory() as folder:
            ALL[checkpoint](Path(folder))
            flags = (
                ["--chat-template", TEMPLATES[name], "--trust-request-chat-template"]
                if name in TEMPLATES
                else []
            )
            with vllm(folder, 18200 + index, *flags) as client:
                recorded = record(client, cases)
        path = Path(__file__).parent / "http" / f"{name}.json"
        path.write_text(json.dumps(recorded, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
        print(f"{name}: {len(recorded['answers'])} answers")


@contextlib.contextmanager
def vllm(folder: str, port: int, *flags: str, **variables: str) -> Iterator[httpx.Client]:
    """A client of a real vLLM that serves the checkpoint in `folder` as the model `m`."""
    command = [
        os.environ["POOLRT_VLLM"], "serve", folder, "--served-model-name", "m", "--runner", "pooling",
        "--dtype", "float32",
        "--enforce-eager", "--host", "127.0.0.1", "--port", str(port), *flags,
    ]  # fmt: skip
    with (
        subprocess.Popen(
            command, env=os.environ | SETTINGS | variables, stdout=subprocess.DEVNULL, start_new_session=True
        ) as server,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            for _ in range(300):
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    assert server.poll() is None, f"{command[0]} ended before it served"
                    time.sleep(1)
            yield client
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)


def record(client: httpx.Client, cases: list[Any]) -> dict[str, Any]:
    answers = {name: answer(send(client, method, path, body)) for name, method, path, body in cases}
    return {"vllm": client.get("/version").json()["version"], "answers": answers}


def send(client: httpx.Client, method: str, path: str, body: Any) -> httpx.Response:
    if method == "GET":
        return client.get(path)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(path, content=content, headers={"content-type": "application/json"})


def answer(got: httpx.Response) -> dict[str, Any]:
    made: dict[str, Any] = {
        "status": got.status_code,
        "headers": {key: got.headers[key] for key in KEPT_HEADERS if key in got.headers},
    }
    if got.headers.get("content-type", "").startswith("application/json"):
        made["json"] = got.json()
    else:
        made["bytes"] = base64.b64encode(got.content).decode()
    return made


if __name__ == "__main__":
    main()

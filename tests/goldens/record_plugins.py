"""Records what the real vLLM answers with its reference IO processors, one JSON file per
checkpoint: `make goldens`.

POOLRT_VLLM names the `vllm` program. POOLRT_VLLM_PLUGINS names a folder of packages (`pip install --target
FOLDER`) with the two plugins of vLLM's repository, tests/plugins/bge_m3_sparse_plugin and
colbert_query_plugin, which its wheel does not have; without it nothing is recorded.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def main() -> None:
    import conftest  # noqa: F401
    from tests.goldens.record_http import vllm
    from tests.serve.plugin_cases import CHECKPOINTS, SERVERS

    plugins = os.environ.get("POOLRT_VLLM_PLUGINS")
    if plugins is None:
        print("POOLRT_VLLM_PLUGINS is not set: the answers of vLLM's IO processors stay as they are")
        return
    for port, (name, server) in enumerate(SERVERS.items(), 18250):
        with tempfile.TemporaryDirectory() as folder:
            CHECKPOINTS[name](Path(folder))
            overrides = json.dumps({"architectures": [server.architecture]})
            flags = ["--io-processor-plugin", server.plugin, "--hf-overrides", overrides]
            with vllm(folder, port, *flags, PYTHONPATH=plugins) as client:
                recorded = record(client, server.cases)
        path = Path(__file__).parent / "plugins" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(written(recorded), encoding="utf-8")
        print(f"{name}: {len(recorded['answers'])} answers")


def record(client: httpx.Client, cases: list[Any]) -> dict[str, Any]:
    answers = {}
    for name, path, body in cases:
        got = client.post(path, json=body)
        answers[name] = {"status": got.status_code, "json": rounded(got.json())}
    return {"vllm": client.get("/version").json()["version"], "answers": answers}


def rounded(value: Any) -> Any:
    """Six digits say what float32 can, and keep the files small."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def written(recorded: dict[str, Any]) -> str:
    """One answer a line."""
    lines = [f"  {json.dumps(name)}: {json.dumps(answer)}" for name, answer in recorded["answers"].items()]
    return f'{{\n "vllm": {json.dumps(recorded["vllm"])},\n "answers": {{\n' + ",\n".join(lines) + "\n }\n}\n"


if __name__ == "__main__":
    main()

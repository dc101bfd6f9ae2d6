"""Models of 4B to 8B, random but of published sizes, two of them with pictures, exported within a fraction of
24 GB. Minutes, and 35 GB of disk each.

`pytest -m slow tests/exporter/test_large.py -s` prints the lines of docs/large-checkpoints.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.families import large

ROOT = Path(__file__).parents[2]
MEMORY = 12e9
"""Bytes a process may hold besides mapped files; the worst measured is in docs/large-checkpoints.md."""
DISK = 40e9
EXPORT = """
import json, sys
import conftest
from poolrt.exporter import pipeline
from poolrt.runtime.artifact.records import to_plain
source, out, precision = sys.argv[1:]
report = pipeline.export(source, name="large", out=out, precision=precision, recipe=None)
print(json.dumps(to_plain(report)))
"""


def held(process: int) -> tuple[int, int]:
    """(private, resident) bytes of a process; resident counts mapped files that the system
    may take back at any time."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    return tuple(1024 * int(status[key].split()[0]) if key in status else 0 for key in ("RssAnon", "VmRSS"))  # pyright: ignore[reportReturnType]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize(
    ("name", "precision"),
    [("qwen3_4b", "bf16"), ("e5_mistral_7b", "fp16"), ("colqwen3_4b", "bf16"), ("e5_v_8b", "bf16")],
)
def test_a_large_checkpoint_exports_within_memory(
    name: str, precision: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    if shutil.disk_usage(tmp_path).free < DISK:
        pytest.skip(f"needs {DISK / 1e9:.0f} GB of disk in {tmp_path}")
    try:
        source = large.LARGE[name](tmp_path / name)
        command = [sys.executable, "-c", EXPORT, str(source), str(tmp_path / "out"), precision]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            private = resident = 0
            while process.poll() is None:
                now = held(process.pid)
                private, resident = max(private, now[0]), max(resident, now[1])
                time.sleep(0.5)
            assert process.stdout is not None
            report = json.loads(process.stdout.read())
        assert process.returncode == 0
        assert private < MEMORY
        assert sum(report["sizes"].values()) > 1.9 * 4e9
        tasks = {"token_embed"} if name == "colqwen3_4b" else {"embed", "token_embed"}
        assert {one["task"] for one in report["evidence"]} == tasks
        with capsys.disabled():
            steps = ", ".join(f"{step} {seconds:.0f} s" for step, seconds in report["seconds"].items())
            print(
                f"\n{name} {precision}: {private / 1e9:.1f} GB private, "
                f"{resident / 1e9:.1f} GB resident; {steps}"
            )
    finally:
        shutil.rmtree(tmp_path, ignore_errors=True)

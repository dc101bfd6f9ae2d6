"""Bulk jobs with Ray Data."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import load
from poolrt.runtime.dataset.ray_data import in_flight

pytest.importorskip("ray")
pq = pytest.importorskip("pyarrow.parquet")

TEXTS = [f"text number {row}, " + "and so on " * (row % 9) for row in range(2000)]
SAME = 1e-6


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": row, "text": text}) + "\n" for row, text in enumerate(TEXTS)))
    return path


def command(rows: Path, artifact: Path, out: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "poolrt", "embed-dataset", str(rows), "--model", str(artifact),
        "--out", str(out), "--rows-per-shard", "50", "--json", *more,
    ]  # fmt: skip


def finished(*arguments: Any) -> dict[str, Any]:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_a_job_killed_on_ray_is_ended_without_it(
    artifacts: Callable[[str], Path], rows: Path, tmp_path: Path
) -> None:
    artifact, out = artifacts("minilm_like"), tmp_path / "out"
    killed = subprocess.Popen(
        command(rows, artifact, out, "--ray", "--ray-workers", "2"), stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 300
    while len(list(out.glob("part-*"))) < 3 and time.monotonic() < until:
        assert killed.poll() is None
        time.sleep(0.02)
    killed.kill()
    killed.wait()
    there = len(list(out.glob("part-*")))
    assert 3 <= there < 40
    summary = finished(rows, artifact, out)
    assert 0 < summary["computed_shards"] <= 40 - there
    assert summary["rows"] == len(TEXTS)
    output = pq.read_table(out)
    assert output["id"].to_pylist() == list(range(len(TEXTS)))
    with load(artifact) as model:
        expected = np.asarray(model.embed(TEXTS))
    np.testing.assert_allclose(np.stack(output["embedding"].to_numpy()), expected, atol=SAME)


def test_workers_of_a_long_job_have_the_next_shard_before_they_are_done_with_one() -> None:
    assert [in_flight(shards, 4) for shards in (1, 31, 32, 1000)] == [1, 1, 2, 2]


def test_a_job_begun_without_ray_is_ended_on_it_and_a_wrong_row_is_named(
    artifacts: Callable[[str], Path], rows: Path, tmp_path: Path
) -> None:
    artifact, out = artifacts("minilm_like"), tmp_path / "out"
    finished(rows, artifact, out)
    for shard in (3, 4, 39):
        (out / f"part-{shard:05}.parquet").unlink()
    assert finished(rows, artifact, out, "--ray", "--ray-workers", "2")["computed_shards"] == 3
    assert pq.read_table(out)["id"].to_pylist() == list(range(len(TEXTS)))
    with rows.open("a") as file:
        file.write('{"id": 2000, "text": null}\n')
    failed = subprocess.run(
        command(rows, artifact, tmp_path / "other", "--ray", "--ray-workers", "1"),
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert failed.returncode == 2
    assert f"{rows}, row 2001: there is no value" in failed.stderr

"""What an export says while it runs and when it is done."""

from __future__ import annotations

import pytest
from poolrt.exporter.base.report import ExportSteps, Report, size, table
from poolrt.runtime.artifact.manifest import Evidence


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0.0 bytes"),
        (999, "999.0 bytes"),
        (1000, "1.0 kB"),
        (999_999, "1000.0 kB"),
        (1_000_000, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
    ],
)
def test_sizes_have_the_largest_unit_that_fits(count: int, text: str):
    assert size(count) == text


def test_steps_are_announced_numbered_and_timed():
    told: list[str] = []
    steps = ExportSteps(("read", "write"), told.append)
    assert told == ["plan:", "  1. read", "  2. write"]
    with steps("read"):
        pass
    steps.insert("check", after="read")
    with steps("check"):
        pass
    with steps("write"):
        pass
    assert steps.titles == ("read", "check", "write")
    assert [line.split(":")[0] for line in told[3:]] == [
        "[1/2] read ...", "[1/2] read", "[2/3] check ...", "[2/3] check", "[3/3] write ...", "[3/3] write",
    ]  # fmt: skip
    assert list(steps.seconds) == ["read", "check", "write"]
    assert all(0 <= seconds < 10 for seconds in steps.seconds.values())


def report(**facts: object) -> Report:
    plain: dict[str, object] = {
        "name": "m", "path": "/a/m", "architecture": "BertModel", "tasks": ("embed", "token_embed"),
        "scoring": "bi-encoder",
        "precision": "fp32", "engines": (), "sizes": {"model.onnx": 3_000_000, "tokenizer.json": 1000},
        "evidence": (),
    }  # fmt: skip
    return Report(**(plain | facts))  # pyright: ignore[reportArgumentType]


def test_a_table_shows_the_largest_files_first():
    sizes = {f"file{number}": number * 1000 for number in range(8)}
    lines = table(report(sizes=sizes)).splitlines()
    assert lines[0] == "m: BertModel, fp32, tasks embed, token_embed (bi-encoder)"
    assert lines[1].split() == ["/a/m", "28.0", "kB", "in", "8", "files"]
    assert [line.split()[0] for line in lines[2:]] == ["file7", "file6", "file5", "file4", "file3"]
    assert "(" not in table(report(scoring=None)).splitlines()[0]


def test_a_table_shows_evidence_beside_what_is_allowed():
    near = Evidence(
        engine="onnx",
        task="embed",
        shape="s",
        texts=3,
        worst_cosine=0.9999999,
        worst_difference=1e-6,
        tolerance=0.999,
    )
    score = Evidence(
        engine="onnx",
        task="classify",
        shape="s",
        texts=2,
        worst_difference=0.01,
        rank_agreement=0.5,
        tolerance=0.05,
    )
    text = table(
        report(evidence=(near, score), notes=("slow",), seconds={"read": 1.25}, next=("poolrt serve m",))
    )
    rows = [line.split() for line in text.splitlines()]
    assert ["onnx", "embed", "s", "3", "0.9999999", "1.0e-06", ">=", "0.999"] in rows
    assert ["onnx", "classify", "s", "2", "1.0e-02", "50%", "<=", "0.05"] in rows
    assert "  note: slow" in text
    assert "  read 1.2 s" in text
    assert text.splitlines()[-1] == "    poolrt serve m"

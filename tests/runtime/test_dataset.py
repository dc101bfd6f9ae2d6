"""Bulk jobs: every row once, whatever the input, whatever happens meanwhile."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from poolrt.runtime import ArtifactError, InputError, load
from poolrt.runtime.answers.sparse import token_weights
from poolrt.runtime.commands.cli import main
from poolrt.runtime.dataset import plan as plans
from poolrt.runtime.dataset.job import Summary, embed_dataset
from poolrt.runtime.dataset.meter import Meter, span
from poolrt.runtime.dataset.settings import Settings

from tests.conftest import ROOT
from tests.runtime import picture_models

ROWS = 300
TEXTS = [f"text number {row}, " + "and so on " * (row % 9) for row in range(ROWS)]
SAME = 1e-6  # the largest difference between batches of other neighbours; measured 9e-8


@pytest.fixture(scope="module")
def tiny(artifacts: Callable[[str], Path]) -> Path:
    return artifacts("minilm_like")


@pytest.fixture(scope="module")
def vectors(tiny: Path) -> Any:
    with load(tiny) as model:
        return np.asarray(model.embed(TEXTS, truncate_prompt_tokens=-1))


def job(source: Path | str, tiny: Path, out: Path, **settings: Any) -> Summary:
    return embed_dataset(
        str(source), tiny, out, replace(Settings(rows_per_shard=64), **settings), progress=None
    )


def rows_of(out: Path) -> list[dict[str, Any]]:
    return pq.read_table(out).to_pylist()


def table() -> pa.Table:
    return pa.table({"id": pa.array(range(ROWS), pa.int32()), "text": TEXTS, "tag": [["a"]] * ROWS})


def parquet(folder: Path) -> Path:
    pq.write_table(table(), folder / "rows.parquet", row_group_size=70)
    return folder / "rows.parquet"


def jsonl(folder: Path) -> Path:
    path = folder / "rows.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        for row in table().to_pylist():
            file.write(json.dumps(row) + "\n" + ("\n" if row["id"] % 7 == 0 else ""))
    return path


def comma(folder: Path) -> Path:
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "tag"])
        # Line ends and quotes in a field, and a number that is none.
        writer.writerows([row, text.replace(", ", ',\r\n"x" ', 1), "007"] for row, text in enumerate(TEXTS))
    return path


def several(folder: Path) -> Path:
    (folder / "parts").mkdir()
    for begin in range(0, ROWS, 45):
        pq.write_table(table().slice(begin, 45), folder / "parts" / f"{begin:03}.parquet")
    (folder / "parts" / "_SUCCESS").touch()
    return folder / "parts"


@pytest.mark.parametrize("write", [parquet, jsonl, several], ids=["parquet", "jsonl.gz", "folder"])
@pytest.mark.parametrize("fixed_size", [False, True], ids=["list", "fixed-size list"])
def test_every_row_has_the_vector_that_embed_returns(
    write: Callable[[Path], Path], fixed_size: bool, tiny: Path, vectors: Any, tmp_path: Path
) -> None:
    summary = job(write(tmp_path), tiny, tmp_path / "out", fixed_size=fixed_size)
    output = pq.read_table(tmp_path / "out")
    assert output.drop(["embedding"]).to_pylist() == table().to_pylist()
    np.testing.assert_allclose(np.stack(output["embedding"].to_numpy()), vectors, atol=SAME)
    assert pa.types.is_fixed_size_list(output.schema.field("embedding").type) == fixed_size
    assert (summary.counts.rows, summary.counts.written, summary.shards) == (ROWS, ROWS, 5)


def test_csv_keeps_what_is_written(tiny: Path, tmp_path: Path) -> None:
    job(comma(tmp_path), tiny, tmp_path / "out")
    output = rows_of(tmp_path / "out")
    texts = [text.replace(", ", ',\r\n"x" ', 1) for text in TEXTS]
    assert [(row["id"], row["text"], row["tag"]) for row in output] == [
        (row, text, "007") for row, text in enumerate(texts)
    ]
    with load(tiny) as model:
        np.testing.assert_allclose(
            [row["embedding"] for row in output], np.asarray(model.embed(texts)), atol=SAME
        )


def test_reading_begins_anywhere_in_a_long_file(tmp_path: Path) -> None:
    """More rows than between two marks of a text file, and than a row group."""
    long = [{"text": f"{row}\n{'x' * (row % 50)}", "n": row} for row in range(3000)]
    with (tmp_path / "a.jsonl").open("w") as lines, (tmp_path / "a.csv").open("w", newline="") as file:
        lines.writelines(json.dumps(row) + "\n" for row in long)
        writer = csv.DictWriter(file, ["text", "n"])
        writer.writeheader()
        writer.writerows(long)
    pq.write_table(pa.Table.from_pylist(long), tmp_path / "a.parquet", row_group_size=999)
    for name in ("a.jsonl", "a.csv", "a.parquet"):
        plan = plans.made(str(tmp_path / name), "m", "", Settings(rows_per_shard=701))
        values = [
            [value for piece in plan.pieces(shard) for value in piece.values] for shard in range(plan.shards)
        ]
        assert [len(shard) for shard in values] == [701, 701, 701, 701, 196]
        assert [value for shard in values for value in shard] == [row["text"] for row in long]
        where = [
            place for shard in range(plan.shards) for piece in plan.pieces(shard) for place in piece.where
        ]
        assert where == [f"{tmp_path / name}, row {row + 1}" for row in range(3000)]


def wrong_rows(folder: Path) -> Path:
    path = folder / "wrong.jsonl"
    lines = [
        {"text": "good"},
        {"text": None},
        {"text": 5},
        {"text": "long " * 400},
        {"other": 1},
        {"text": "end"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    return path


def test_wrong_rows_are_left_out_or_have_no_vector_and_are_counted(tiny: Path, tmp_path: Path) -> None:
    path = wrong_rows(tmp_path)
    skipped = job(path, tiny, tmp_path / "skip", on_error="skip", truncate=False)
    assert skipped.plain()["wrong"] == {"null": 2, "not_text": 1, "unreadable": 1, "refused": 1}
    assert [row["text"] for row in rows_of(tmp_path / "skip")] == ["good", "end"]
    for fixed_size in (False, True):
        out = tmp_path / f"null{fixed_size}"
        summary = job(path, tiny, out, on_error="null", fixed_size=fixed_size)
        rows = rows_of(out)
        assert [row["embedding"] is None for row in rows] == [False, True, True, False, True, False, True]
        assert [row["text"] for row in rows[:3]] == ["good", None, "5"]
        assert (summary.counts.truncated, summary.counts.written) == (1, 7)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"text": None}, "row 2: there is no value"),
        ({"text": [1]}, "row 2: expected a text, found list"),
        ({"text": "long " * 400}, "row 2: "),
    ],
    ids=["null", "not text", "too long"],
)
def test_a_wrong_row_ends_the_job_and_is_named(line: object, words: str, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "good"}}\n{json.dumps(line)}\n')
    with pytest.raises(InputError, match=words) as error:
        job(path, tiny, tmp_path / "out", truncate=False, rows_per_shard=1)
    assert "--on-error skip or null" in str(error.value)
    # What is finished stays, and the rest goes on by another rule.
    assert job(path, tiny, tmp_path / "out", truncate=False, rows_per_shard=1, on_error="skip").computed == 1
    assert [row["text"] for row in rows_of(tmp_path / "out")] == ["good"]


def test_a_second_call_computes_what_is_missing_and_nothing_else(tiny: Path, tmp_path: Path) -> None:
    source, out = parquet(tmp_path), tmp_path / "out"
    job(source, tiny, out)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert job(source, tiny, out).computed == 0
    (out / "part-00002.parquet").unlink()
    (out / ".part-00002.parquet.0.partial").write_bytes(b"half")
    summary = job(source, tiny, out)
    assert (summary.computed, summary.counts.rows) == (1, ROWS)
    after = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert {name for name in after if after[name] != before[name]} == {"part-00002.parquet"}
    assert [row["id"] for row in rows_of(out)] == list(range(ROWS))


def test_what_changed_in_between_is_refused_by_name(
    tiny: Path, artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    source, out = several(tmp_path), tmp_path / "out"
    job(source, tiny, out)
    pq.write_table(table().slice(0, 44), source / "000.parquet")
    (source / "045.parquet").unlink()
    pq.write_table(table().slice(0, 1), source / "new.parquet")
    with pytest.raises(InputError) as error:
        job(source, tiny, out, numbers="float16")
    for words in (
        "000.parquet has ", "045.parquet is gone", "new.parquet is new",
        "--dtype was float32, and is float16", "--overwrite",
    ):  # fmt: skip
        assert words in str(error.value)
    assert embed_dataset(str(source), tiny, out, overwrite=True, progress=None).counts.rows == ROWS - 45
    with pytest.raises(InputError, match="the model is another than minilm_like was"):
        embed_dataset(str(source), artifacts("bert_plain"), out, progress=None)


def test_files_of_others_are_never_mixed_with_shards(tiny: Path, tmp_path: Path) -> None:
    source, out = parquet(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "part-00000.parquet").write_bytes(source.read_bytes())
    with pytest.raises(InputError, match="has files already"):
        job(source, tiny, out)
    with pytest.raises(InputError, match="has files already"):
        embed_dataset(str(source), tiny, out, overwrite=True, progress=None)
    job(source, tiny, tmp_path / "other")
    shutil.copy(source, tmp_path / "other" / "part-00001.parquet")
    with pytest.raises(InputError, match="not the shard that poolrt wrote"):
        job(source, tiny, tmp_path / "other")


def test_a_file_that_changes_while_it_is_read_is_refused(tiny: Path, tmp_path: Path) -> None:
    source, out = parquet(tmp_path), tmp_path / "out"

    class Changing:
        def __call__(self, plan: Any, missing: Any, out: Any, done: Any) -> Any:
            from poolrt.runtime.dataset.job import InProcess

            pq.write_table(table().slice(0, 299), source)
            return InProcess(tiny)(plan, missing, out, done)

    with pytest.raises(InputError, match=r"rows.parquet has .* while it was read"):
        embed_dataset(str(source), tiny, out, workers=Changing(), progress=None)
    assert not list(out.glob("part-*"))


def test_two_jobs_in_one_folder_are_refused(tiny: Path, tmp_path: Path) -> None:
    source, out = parquet(tmp_path), tmp_path / "out"

    class Second:
        def __call__(self, plan: Any, missing: Any, out: Any, done: Any) -> Any:
            with pytest.raises(InputError, match="another job writes there now"):
                job(source, tiny, out)
            return iter(())

    embed_dataset(str(source), tiny, out, Settings(rows_per_shard=64), workers=Second(), progress=None)
    assert job(source, tiny, out).computed == 5


FORKING = """
import os, sys
sys.path.insert(0, {root!r})
import conftest
from poolrt.runtime.dataset.job import embed_dataset
from poolrt.runtime.dataset.settings import Settings
import poolrt.runtime.loader, poolrt.runtime.engines.ort, onnxruntime, pyarrow.parquet, filelock
while sys.stdin.readline():
    child = os.fork()
    if child == 0:
        embed_dataset({source!r}, {artifact!r}, {out!r}, Settings(rows_per_shard=100), progress=None)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def killed_ten_times(start: Callable[[], Any], out: Path, longest_s: float) -> None:
    """Kills a job ten times, each time at a random moment of its work, and lets the eleventh call end.

    Args:
        start: starts the job; it returns (kill, wait), and wait the exit code.
    """
    moments = random.Random(os.environ.get("POOLRT_TEST_SEED", "0"))
    kills = 0
    while kills < 10:
        kill, wait = start()
        try:
            code = wait(moments.uniform(0, longest_s))
        except TimeoutError:
            kill()
            code = wait(None)
        if code == -signal.SIGKILL:
            kills += 1
        else:  # it was quicker than the kill: some of its work is taken away again
            assert code == 0
            for path in moments.sample(sorted(out.glob("part-*")), 3):
                path.unlink()
    _, wait = start()
    assert wait(None) == 0


def check_every_row(out: Path, texts: Sequence[str], artifact: Path) -> None:
    output = pq.read_table(out)
    assert output["id"].to_pylist() == list(range(len(texts)))
    assert output["text"].to_pylist() == list(texts)
    with load(artifact) as model:
        expected = np.asarray(model.embed(list(texts), truncate_prompt_tokens=-1))
    np.testing.assert_allclose(np.stack(output["embedding"].to_numpy()), expected, atol=SAME)
    assert sorted(path.name for path in out.iterdir() if not path.name.startswith("part-")) == [
        "_inputs.jsonl",
        "_plan.json",
    ]


def test_a_job_killed_at_ten_moments_has_every_row_once(tiny: Path, tmp_path: Path) -> None:
    """In processes that are forked with everything imported, so that kills meet the work itself."""
    texts = TEXTS * 10
    source, out = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), source)
    code = FORKING.format(root=str(ROOT), source=str(source), artifact=str(tiny), out=str(out))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as forking:
        assert forking.stdin is not None
        assert forking.stdout is not None
        stdin, stdout = forking.stdin, forking.stdout

        def start() -> tuple[Callable[[], None], Callable[[float | None], int]]:
            print(file=stdin, flush=True)
            child = int(stdout.readline())

            def wait(seconds: float | None) -> int:
                import select

                if seconds is not None and not select.select([stdout], [], [], seconds)[0]:
                    raise TimeoutError
                return int(stdout.readline())

            return lambda: os.kill(child, signal.SIGKILL), wait

        killed_ten_times(start, out, 0.3)
        stdin.close()
    check_every_row(out, texts, tiny)


@pytest.mark.slow
def test_the_command_killed_at_ten_moments_has_every_row_once(minilm: Path, tmp_path: Path) -> None:
    texts = TEXTS * 10
    source, out = tmp_path / "rows.jsonl", tmp_path / "out"
    source.write_text("".join(json.dumps({"id": row, "text": text}) + "\n" for row, text in enumerate(texts)))
    command = [
        sys.executable, "-m", "poolrt", "embed-dataset", str(source), "--model", str(minilm),
        "--out", str(out), "--rows-per-shard", "100", "--json",
    ]  # fmt: skip

    def start() -> tuple[Callable[[], None], Callable[[float | None], int]]:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

        def wait(seconds: float | None) -> int:
            try:
                return process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise TimeoutError from None

        return process.kill, wait

    killed_ten_times(start, out, 6.0)
    check_every_row(out, texts, minilm)


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    """A row group of all rows is decoded a batch at a time."""
    text = "x" * 2000
    pq.write_table(pa.table({"text": [f"{row} {text}" for row in range(20_000)]}), tmp_path / "a.parquet")
    plan = plans.made(str(tmp_path / "a.parquet"), "m", "", Settings(rows_per_shard=100_000))
    largest = rows = 0
    for piece in plan.pieces(0):
        rows += len(piece.values)
        largest = max(largest, sum(len(str(value)) for value in piece.values))
    assert rows == 20_000
    assert largest < 6 << 20, "of 40 MB"


@pytest.mark.parametrize("fixed_size", [False, True], ids=["list", "fixed-size list"])
def test_token_vectors_are_lists_of_vectors(
    fixed_size: bool, artifacts: Callable[[str], Path], tmp_path: Path
) -> None:
    source, artifact = parquet(tmp_path), artifacts("colbert")
    job(
        source,
        artifact,
        tmp_path / "out",
        task="token_embed",
        role="document",
        fixed_size=fixed_size,
        keep=(),
    )
    column = pq.read_table(tmp_path / "out")["token_embeddings"]
    with load(artifact) as model:
        expected = model.token_embed(TEXTS, role="document", truncate_prompt_tokens=-1).arrays
    for row, vectors in zip(column.to_pylist(), expected, strict=True):
        np.testing.assert_allclose(row, vectors, atol=SAME)


def test_sparse_weights_are_two_lists(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    source, artifact = parquet(tmp_path), artifacts("bge_m3")
    job(source, artifact, tmp_path / "out", task="sparse", keep=("id",), numbers="float16")
    output = pq.read_table(tmp_path / "out")
    assert output.schema.names == ["id", "sparse_indices", "sparse_values"]
    assert output.schema.field("sparse_values").type == pa.list_(pa.float16())
    with load(artifact) as model:
        head, encoder = model.manifest.heads["token_classify"], model.preparation.encoder
        for row, result in zip(
            output.to_pylist(), model.encode(TEXTS, pooling_task="token_classify"), strict=True
        ):
            weights = token_weights(result, head, encoder)
            assert row["sparse_indices"] == list(weights)
            np.testing.assert_allclose(row["sparse_values"], list(weights.values()), rtol=1e-3)


def test_classes_have_their_label_and_scores(artifacts: Callable[[str], Path], tmp_path: Path) -> None:
    artifact = artifacts("bert_classifier")
    job(parquet(tmp_path), artifact, tmp_path / "out", task="classify", keep=())
    with load(artifact) as model:
        for row, result in zip(rows_of(tmp_path / "out"), model.classify(TEXTS), strict=True):
            assert row["label"] == result.outputs.label
            np.testing.assert_allclose(row["scores"], result.outputs.probs, atol=SAME)


def test_a_folder_of_pictures_has_their_paths(tmp_path: Path) -> None:
    from PIL import Image

    artifact = picture_models.write(tmp_path / "artifacts")
    photos = tmp_path / "photos"
    (photos / "more").mkdir(parents=True)
    names = ["a.png", "b.jpg", "more/c.png"]
    for shade, name in enumerate(names):
        Image.new("RGB", (40, 30), (shade * 90, 20, 200)).save(photos / name)
    (photos / "d.png").write_bytes(b"no picture")
    summary = embed_dataset(
        str(photos), artifact, tmp_path / "out", Settings(column="path", on_error="skip"), progress=None
    )
    assert summary.counts.refused == 1
    output = rows_of(tmp_path / "out")
    assert [row["path"] for row in output] == names
    with load(artifact) as model:
        expected = np.asarray(model.embed([{"image": photos / name} for name in names]))
    np.testing.assert_allclose([row["embedding"] for row in output], expected, atol=SAME)
    # The same pictures as bytes in a column, as Hugging Face's data sets have them.
    data = [{"image": {"bytes": (photos / name).read_bytes(), "path": name}} for name in names]
    pq.write_table(pa.Table.from_pylist(data), tmp_path / "photos.parquet")
    job(tmp_path / "photos.parquet", artifact, tmp_path / "columns", column="image", keep=())
    np.testing.assert_allclose(
        [row["embedding"] for row in rows_of(tmp_path / "columns")], expected, atol=SAME
    )


def test_an_input_without_rows_has_one_shard_with_its_columns(tiny: Path, tmp_path: Path) -> None:
    pq.write_table(table().slice(0, 0), tmp_path / "a.parquet")
    summary = job(tmp_path / "a.parquet", tiny, tmp_path / "out")
    assert (summary.shards, summary.counts.rows) == (1, 0)
    assert pq.read_table(tmp_path / "out").schema.names == ["id", "text", "tag", "embedding"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/none.parquet"], "no file of Parquet, JSONL"),
        (["{folder}"], "files of several kinds"),
        (["{folder}/a.parquet", "--column", "body"], "it has id, text, tag"),
        (["{folder}/a.parquet", "--column", "id"], "int32 there, expected text"),
        (["{folder}/a.parquet", "--keep", "id,nothing"], "--keep nothing: no such column"),
        (["{folder}/a.parquet", "--task", "sparse"], "--task sparse: minilm_like has none"),
        (["{folder}/a.parquet", "--dimensions", "5"], "dimensions"),
        (["{folder}/taken.parquet"], "has a column embedding already"),
        (["{folder}/broken.parquet"], "not readable as Parquet"),
    ],
    ids=["nothing", "kinds", "column", "type", "keep", "task", "dimensions", "taken", "broken"],
)
def test_the_command_refuses_in_one_line(
    arguments: list[str], words: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(table(), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["a"], "embedding": [1]}), tmp_path / "taken.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR0")
    (tmp_path / "b.csv").write_text("text\na\n")
    filled = [argument.format(folder=tmp_path) for argument in arguments]
    code = main(["embed-dataset", *filled, "--model", str(tiny), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr()
    assert code == 2
    assert words in printed.err
    assert printed.err.count("\n") == 1


def test_the_command_prints_a_summary(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["embed-dataset", str(parquet(tmp_path)), "--model", str(tiny), "--out", str(tmp_path / "out")]
    assert main([*command, "--json", "--rows-per-shard", "100"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["written"], summary["shards"]) == (ROWS, ROWS, 3)
    assert main(command) == 0  # the number of rows of a shard is that of the plan
    assert "300 of 300 rows are in 3 shards" in capsys.readouterr().out


def test_progress_says_rows_per_second_and_what_is_left() -> None:
    now = [0.0]
    file = io.StringIO()
    meter = Meter(1000, 200, file=file, clock=lambda: now[0])
    now[0] = 40.0
    meter.add(200)
    meter.close()
    assert file.getvalue() == "400 of 1,000 rows (40.0 %), 5.0 rows/s, 2 min 0 s left\n"
    assert [span(seconds) for seconds in (59.4, 60, 7300)] == ["59 s", "1 min 0 s", "2 h 1 min"]


def test_an_artifact_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        embed_dataset(str(parquet(tmp_path)), tmp_path, tmp_path / "out", progress=None)

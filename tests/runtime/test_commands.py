"""The `poolrt` command as a user meets it: one clear line and an exit code for everything that goes wrong."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime import cli, commands, errors
from poolrt.runtime.manifest import FILE, Manifest
from poolrt.runtime.records import from_plain

ROOT = Path(__file__).parent.parent.parent
TEXTS = ["the cat sat on the mat", "stocks fell again", "a kitten"]


def poolrt(capsys, *arguments):
    """(exit code, stdout, stderr) of one command."""
    code = cli.main(list(map(str, arguments)))
    return code, *capsys.readouterr()


@pytest.fixture
def folder(artifacts):
    return artifacts("minilm_like")


def test_help_lists_every_command_in_one_line(capsys):
    code, out, _ = poolrt(capsys, "--help")
    assert code == 0
    for name, (what, _, _) in cli.COMMANDS.items():
        (line,) = [line for line in out.splitlines() if line.split()[:1] == [name]]
        assert what in line


def test_the_table_is_the_one_that_is_installed():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][cli.GROUP]
    assert declared == {name: f"poolrt.{place}" for name, (_, place, _) in cli.COMMANDS.items()}


def test_version_is_told(capsys):
    code, out, _ = poolrt(capsys, "--version")
    assert code == 0
    assert out.startswith("poolrt ")


def test_inspect_reads_as_prose_and_as_json(capsys, folder):
    code, out, _ = poolrt(capsys, "inspect", folder)
    assert code == 0
    for part in ("minilm_like: BertModel", "embed: mean pooling", "bi-encoder", "onnxruntime:", "evidence"):
        assert part in out
    code, out, _ = poolrt(capsys, "inspect", folder, "--json", "--quick")
    assert from_plain(Manifest, json.loads(out)) == from_plain(Manifest, json.loads((folder / FILE).read_bytes()))


def test_embed_prints_vectors(capsys, folder, tmp_path):
    code, out, _ = poolrt(capsys, "embed", folder, *TEXTS, "--json")
    assert code == 0
    found = json.loads(out)
    vectors = np.array([one["embedding"] for one in found["data"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    code, out, _ = poolrt(capsys, "embed", folder, *TEXTS, "--out", tmp_path / "vectors.npy")
    np.testing.assert_allclose(np.load(tmp_path / "vectors.npy"), vectors, atol=1e-6)
    assert "3 vectors of" in out
    poolrt(capsys, "embed", folder, *TEXTS, "--out", tmp_path / "vectors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors", "vectors.npy"]
    code, _, err = poolrt(capsys, "embed", folder, "a", "--out", tmp_path / "nowhere" / "vectors.npy")
    assert code == 2
    assert "cannot be written (No such file or directory)" in err
    code, out, _ = poolrt(capsys, "embed", folder, *TEXTS[:2])
    assert f"cosine {vectors[0] @ vectors[1]:.4f}" in out


def test_score_and_rerank_agree(capsys, folder):
    _, out, _ = poolrt(capsys, "score", folder, "a cat", *TEXTS, "--json")
    scores = [one["score"] for one in json.loads(out)["data"]]
    _, out, _ = poolrt(capsys, "rerank", folder, "a cat", *TEXTS, "--json", "--top-n", "2")
    ranked = json.loads(out)["results"]
    assert [one["index"] for one in ranked] == np.argsort(-np.array(scores), kind="stable")[:2].tolist()
    assert ranked[0]["document"]["text"] == TEXTS[ranked[0]["index"]]
    _, out, _ = poolrt(capsys, "rerank", folder, "a cat", *TEXTS)
    assert len(out.splitlines()) == 3


def test_texts_come_from_a_file_or_stdin(capsys, folder, tmp_path, monkeypatch):
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeff".encode() + "\n".join([*TEXTS[:2], "", TEXTS[2]]).encode())
    _, from_file, _ = poolrt(capsys, "embed", folder, "--file", file, "--json")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    _, from_stdin, _ = poolrt(capsys, "embed", folder, "--json")
    assert json.loads(from_file) == json.loads(from_stdin)
    assert len(json.loads(from_file)["data"]) == 3


def test_bench_measures_every_line(capsys, folder):
    code, out, _ = poolrt(capsys, "bench", folder, "--seconds", "0.01", "--json")
    assert code == 0
    lines = json.loads(out)["lines"]
    assert {"1 of ~16 words", "32 of mixed lengths"} <= {line["texts"] for line in lines}
    assert all(line["texts_per_s"] > 0 and line["padding"] >= 0 for line in lines)


def test_doctor_says_what_it_found(capsys):
    code, out, _ = poolrt(capsys, "doctor", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["threads"] == min(found["threads"], len(os.sched_getaffinity(0)))
    assert found["libraries"]["numpy"] == np.__version__
    _, out, _ = poolrt(capsys, "doctor")
    assert f"threads     {found['threads']}" in out


def test_what_is_wrong_is_told_in_one_line(capsys, folder, tmp_path):
    (tmp_path / "latin.txt").write_bytes("Zürich".encode("latin-1"))
    (tmp_path / "empty.txt").write_bytes(b"\n\n")
    for arguments, told in [
        (("nonsense",), "no such command"),
        (("embed", tmp_path / "nowhere", "a"), "no such folder"),
        (("embed", tmp_path, "a"), "no manifest.json"),
        (("embed", folder, "--file", tmp_path / "latin.txt"), "byte 1 is not valid UTF-8"),
        (("embed", folder, "--file", tmp_path / "empty.txt"), "no line with text"),
        (("embed", folder, "--file", tmp_path / "nowhere.txt"), "cannot be read"),
        (("embed", folder, "a", "--file", tmp_path / "empty.txt"), "give one of them"),
        (("embed", folder, "a", "--dimensions", "7"), "does not support matryoshka"),
        (("embed", folder, "word " * 500, "--no-truncate"), "Please reduce the length"),
        (("rerank", folder, "a", "b", "--top-n", "-1"), "top_n"),
        (("bench", folder, "--seconds", "0"), "more than 0"),
    ]:
        code, out, err = poolrt(capsys, *arguments)
        assert (code, out) == (errors.EXIT_INPUT, ""), arguments
        assert told in err
        assert len(err.splitlines()) == 1
    code, _, err = poolrt(capsys, "embed", folder, "a", "--engine", "tensorrt")
    assert code == errors.EXIT_ENGINE
    assert "has no engine" in err


def test_long_texts_are_cut_unless_refused(capsys, folder):
    code, out, _ = poolrt(capsys, "embed", folder, "word " * 500)
    assert code == 0
    assert "(cut)" in out


def test_a_fault_of_ours_says_how_to_report_it(capsys, monkeypatch):
    def broken(_):
        raise KeyError("inner")

    monkeypatch.setattr(commands, "doctor", broken)
    code, _, err = poolrt(capsys, "doctor")
    assert code == errors.EXIT_INTERNAL
    assert "internal error, KeyError" in err
    assert "POOLRT_DEBUG=1" in err
    monkeypatch.setenv("POOLRT_DEBUG", "1")
    with pytest.raises(KeyError):
        cli.main(["doctor"])


def test_an_interrupt_ends_quietly(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "doctor", interrupted)
    code, _, err = poolrt(capsys, "doctor")
    assert code == errors.EXIT_INTERRUPTED
    assert err == "poolrt doctor: interrupted\n"


def test_a_missing_library_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    from poolrt.runtime.backends import ort

    with pytest.raises(errors.EngineError, match=r"pip install 'poolrt\[cpu\]'"):
        ort._library()


def test_a_reader_that_leaves_is_no_fault():
    code = "import conftest, sys; from poolrt.runtime.cli import main; sys.exit(main(['doctor']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""

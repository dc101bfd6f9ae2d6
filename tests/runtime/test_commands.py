"""The `poolrt` command as a user meets it: one clear line and an exit code for everything that goes wrong."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.shell_completion import BashComplete
from poolrt.runtime import errors, extras, load
from poolrt.runtime.artifact.manifest import FILE, Manifest, Role
from poolrt.runtime.artifact.records import from_plain
from poolrt.runtime.command_line.command import Command
from poolrt.runtime.command_line.flags import Flag
from poolrt.runtime.commands import cli, inspection, model_commands

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
    assert from_plain(Manifest, json.loads(out)) == from_plain(
        Manifest, json.loads((folder / FILE).read_bytes())
    )


@pytest.mark.parametrize(
    ("template", "line"),
    [
        ("<s>{{ text }}", "template '<s>{text}'"),
        ("<s>{{ media }}{{ text }}", "template '<s>{picture}{text}'"),
        ("{{ media ~ 'See it.' if images else text }}", "template '{text}', or '{picture}See it.'"),
        ("{{ messages[0].content }}", "template"),
    ],
)
def test_inspect_shows_what_the_template_of_a_role_writes(template: str, line: str):
    assert inspection._role(Role(template=template)) == line


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


def test_flags_stand_anywhere_and_in_both_spellings(capsys, folder):
    _, plain, _ = poolrt(capsys, "embed", folder, "hello", "--json")
    for arguments in (
        (folder, "--dimensions", "64", "hello", "--json"),
        ("--json", folder, "hello"),
        ("--json", "--", folder, "hello"),
        (folder, "--no_truncate", "hello", "--json"),
    ):
        code, out, err = poolrt(capsys, "embed", *arguments)
        assert (code, out) == (0, plain), err
    _, out, _ = poolrt(capsys, "embed", folder, "--json", "--", "--json", "-x")
    assert len(json.loads(out)["data"]) == 2
    _, first, _ = poolrt(capsys, "rerank", folder, "--top_n", "1", "a cat", "--json", *TEXTS)
    _, second, _ = poolrt(capsys, "rerank", folder, "a cat", *TEXTS, "--top-n=1", "--json")
    assert json.loads(first) == json.loads(second)


def test_help_of_a_command_is_its_own(capsys):
    for arguments in (("help", "serve"), ("serve", "--help")):
        assert cli.main(list(arguments)) == 0
        assert capsys.readouterr().out.startswith("usage: poolrt serve ")
    assert cli.main(["help"]) == 0


def test_the_package_runs_as_a_module_and_knows_its_version():
    code = (
        "import conftest, poolrt, runpy, sys; print(poolrt.__version__); sys.argv[1:] = ['--version']; "
        "runpy.run_module('poolrt')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    version, told = done.stdout.splitlines()
    assert told == f"poolrt {version}"


@pytest.fixture
def lines(tmp_path, monkeypatch):
    """A file of ten lines, which `embed --out` computes in four pieces."""
    monkeypatch.setattr(model_commands, "PIECE", 3)
    file = tmp_path / "lines.txt"
    file.write_text("".join(f"line {index} of the planet\n" for index in range(10)))
    return file


def interrupt(monkeypatch, after: int) -> None:
    """Ctrl-C while a later piece is computed."""
    from poolrt.runtime.model import Model

    plain, calls = Model.embed, []

    def embed(self, *arguments, **options):
        calls.append(1)
        if len(calls) > after:
            raise KeyboardInterrupt
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Model, "embed", embed)


def test_an_interrupted_embed_keeps_what_is_done(capsys, folder, lines, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.npy", tmp_path / "vectors.npy"
    assert poolrt(capsys, "embed", folder, "--file", lines, "--out", whole)[0] == 0
    expected = np.load(whole)
    assert len(expected) == 10
    with monkeypatch.context() as patched:
        interrupt(patched, after=2)
        code, _, err = poolrt(capsys, "embed", folder, "--file", lines, "--out", out)
    assert code == errors.EXIT_INTERRUPTED
    assert f"6 of 10 vectors are in {out}; the same command with --resume" in err
    np.testing.assert_allclose(np.load(out), expected[:6], atol=1e-6)
    code, told, _ = poolrt(capsys, "embed", folder, "--file", lines, "--out", out, "--resume", "--json")
    assert [one["index"] for one in json.loads(told)["data"]] == [6, 7, 8, 9]
    np.testing.assert_allclose(np.load(out), expected, atol=1e-6)
    assert poolrt(capsys, "embed", folder, "--file", lines, "--out", out, "--resume")[:2] == (
        0,
        f"10 vectors of 64 dims -> {out}\n",
    )
    assert poolrt(capsys, "embed", folder, "a", "--out", out)[0] == 0  # without --resume it begins anew
    assert np.load(out).shape == (1, 64)


def test_rows_that_were_not_counted_yet_are_written_again(capsys, folder, lines, tmp_path):
    """Killed between a piece's rows and the head that counts them."""
    whole, out = tmp_path / "whole.npy", tmp_path / "vectors.npy"
    poolrt(capsys, "embed", folder, "--file", lines, "--out", whole)
    six = tmp_path / "six.txt"
    six.write_text("".join(lines.read_text().splitlines(keepends=True)[:6]))
    poolrt(capsys, "embed", folder, "--file", six, "--out", out)
    with out.open("ab") as file:
        file.write(b"x" * 1000)
    poolrt(capsys, "embed", folder, "--file", lines, "--out", out, "--resume")
    assert out.read_bytes() == whole.read_bytes()


def test_a_file_of_other_texts_is_not_gone_on_with(capsys, folder, lines, tmp_path):
    out = tmp_path / "vectors.npy"
    poolrt(capsys, "embed", folder, "stocks fell again", "--out", out)
    for arguments, told in [
        (("--file", lines, "--out", out, "--resume"), "row 1 of"),
        (("a", "--resume"), "--resume goes with --out"),
        (("--file", lines, "--out", lines, "--resume"), "holds no vectors"),
    ]:
        code, _, err = poolrt(capsys, "embed", folder, *arguments)
        assert code == errors.EXIT_INPUT
        assert told in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("command", "missing", "told"),
    [
        ("serve", "starlette", "pip install 'poolrt[serve]'"),
        ("serve", "orjson", "pip install 'poolrt[serve]'"),
        ("export", "torch", "pip install 'poolrt[export]'"),
        ("export", "huggingface_hub", "pip install 'poolrt[export]'"),
        ("export", "onnx_ir", "pip install 'poolrt[export]'"),
    ],
)
def test_a_missing_extra_is_named_before_any_work(capsys, monkeypatch, command, missing, told):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == missing else find(name, *more)
    )
    code, _, err = poolrt(capsys, command, "org/a-model-that-would-be-downloaded")
    assert code == errors.EXIT_ENGINE
    assert err.splitlines()[-1].endswith(told)
    assert missing in err
    assert len(err.splitlines()) == 1


def test_a_library_that_turns_out_to_be_missing_is_no_fault_of_ours(capsys, monkeypatch):
    def needing(_):
        raise ModuleNotFoundError("No module named 'starlette.routing'", name="starlette.routing")

    monkeypatch.setattr(model_commands, "doctor", needing)
    code, _, err = poolrt(capsys, "doctor")
    assert (code, err) == (
        errors.EXIT_ENGINE,
        "poolrt doctor: needs starlette, which is not installed: pip install 'poolrt[serve]'\n",
    )


def test_extras_name_modules_that_they_install():
    import tomllib

    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, modules in extras.MODULES.items():
        names = {
            re.split(r"[>=;\[ ]", requirement)[0].replace("-", "_").lower() for requirement in declared[extra]
        }
        assert {
            {"yaml": "pyyaml", "PIL": "pillow"}.get(module, module.replace(".", "_")) for module in modules
        } <= names


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
        (("embed", folder.with_name("minilm_likes"), "a"), f"did you mean {folder}?"),
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

    monkeypatch.setattr(model_commands, "doctor", broken)
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

    monkeypatch.setattr(model_commands, "doctor", interrupted)
    code, _, err = poolrt(capsys, "doctor")
    assert code == errors.EXIT_INTERRUPTED
    assert err == "poolrt doctor: interrupted\n"


def test_a_missing_library_names_the_extra(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    from poolrt.runtime.engines import ort

    with pytest.raises(errors.EngineError, match=r"pip install 'poolrt\[cpu\]'"):
        ort.library()


def test_a_reader_that_leaves_is_no_fault():
    code = "import conftest, sys; from poolrt.runtime.commands.cli import main; sys.exit(main(['doctor']))"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_a_variable_means_the_same_to_every_command():
    """`POOLRT_ENGINE` of a container is read by all commands in it."""
    read: dict[str, set[tuple[str, tuple[str, ...]]]] = {}
    for name in cli.COMMANDS:
        command = cli._command(name)
        assert isinstance(command, Command)
        assert command.name == name
        for value in command.values:
            if isinstance(value.declaration, Flag) and not value.declaration.own:
                for variable in value.variables(name)[1:]:
                    read.setdefault(variable, set()).add((value.kind, value.choices))
    assert {variable: kinds for variable, kinds in read.items() if len(kinds) > 1} == {}


def test_every_command_takes_json_and_says_examples():
    for name in cli.COMMANDS:
        command = cli._command(name)
        assert isinstance(command, Command)
        assert {"json", "config"} <= {value.key for value in command.values}, name
        assert command.examples, name
        assert all(f"poolrt {name}" in example for example in command.examples)


def test_doctor_says_which_variables_and_files_act(capsys, monkeypatch, tmp_path):
    (tmp_path / "good.yaml").write_text("port: 80\nmodel: m\n")
    (tmp_path / "bad.yaml").write_text("port: 80x\n")
    for name, text in {
        "POOLRT_PORT": "1k0", "POOLRT_MAX_ITMES": "3", "POOLRT_API_KEY": "secret", "POOLRT_HOME": "/h",
        "POOLRT_SERVE_CONFIG": str(tmp_path / "good.yaml"), "POOLRT_EMBED_CONFIG": str(tmp_path / "bad.yaml"),
        "POOLRT_THREADS": "2", "POOLRT_SERVICE_HOST": "10.0.0.1", "VLLM_API_KEY": "theirs", "POOLRT_JSON": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, text)
    code, out, _ = poolrt(capsys, "doctor", "--json")
    report = json.loads(out)
    acts = {variable["name"]: variable for variable in report["environment"]}
    assert code == 0
    assert "secret" not in out
    assert acts["POOLRT_PORT"]["problem"].startswith("POOLRT_PORT: expected a whole number")
    assert acts["POOLRT_MAX_ITMES"]["problem"].endswith("did you mean POOLRT_MAX_ITEMS?")
    assert acts["POOLRT_API_KEY"]["value"] == "(6 characters)"
    assert (acts["VLLM_API_KEY"]["sets"], acts["VLLM_API_KEY"]["problem"]) == ("--api-key of serve", "")
    assert acts["POOLRT_THREADS"]["sets"].startswith("--threads of ")
    assert {"bench", "serve"} <= set(re.split(r"[ ,]+", acts["POOLRT_THREADS"]["sets"]))
    assert acts["POOLRT_HOME"]["sets"] == "folder of stored artifacts"
    assert not {"POOLRT_JSON", "POOLRT_SERVICE_HOST"} & acts.keys()
    good, bad = sorted(report["config"], key=lambda file: file["command"], reverse=True)
    assert (good["command"], good["sets"], good["problem"]) == ("serve", ["port", "artifacts"], "")
    assert bad["problem"].endswith("bad.yaml: port is no flag")
    _, out, _ = poolrt(capsys, "doctor")
    assert re.search(r"^variable +POOLRT_PORT=1k0 +not used: ", out, re.MULTILINE)


def completed(words: str, incomplete: str) -> list[str]:
    """What click's protocol has of a shell for the last word of a line."""
    shell = BashComplete(cli.Commands("poolrt"), {}, "poolrt", cli.COMPLETE)
    return [item.value for item in shell.get_completions(words.split(), incomplete)]


def test_a_shell_completes_commands_flags_choices_and_artifacts(folder, monkeypatch, tmp_path):
    assert completed("", "re") == ["rerank", "recipes"]
    assert completed("serve", "--max-m") == ["--max-model-len", "--max-media-bytes"]
    assert completed("serve --scheduling-policy", "") == ["fcfs", "priority"]
    assert completed("embed --role", "q") == ["query"]
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "mine").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POOLRT_HOME", str(tmp_path))
    for words in ("inspect", "serve --port 1", "verify"):
        assert completed(words, "artifacts/m")[:1] == ["artifacts/mine"]
        assert completed(words, "mi")[:1] == ["mine"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_answers_every_shell(shell: str):
    """As the line of README does it, in processes of their own."""

    def run(**variables: str) -> str:
        code = "import conftest, sys; from poolrt.runtime.commands.cli import main; sys.exit(main())"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=os.environ | variables
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert f"_POOLRT_COMPLETE={shell}_complete" in run(_POOLRT_COMPLETE=f"{shell}_source")
    words = {"COMP_WORDS": "poolrt doc", "COMP_CWORD": "1" if shell != "fish" else "doc"}
    assert "doctor" in run(_POOLRT_COMPLETE=f"{shell}_complete", **words)


def test_a_terminal_has_colours_and_a_pipe_has_none(folder):
    """In a pseudo-terminal, as people see it."""
    pty = pytest.importorskip("pty")
    code = "import conftest, sys; from poolrt.runtime.commands.cli import main; sys.exit(main(sys.argv[1:]))"

    def shown(*arguments: str, **variables: str) -> str:
        ours, theirs = pty.openpty()
        environment = {key: text for key, text in os.environ.items() if key != "NO_COLOR"}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT,
            env=environment | {"TERM": "xterm-256color"} | variables,
        )  # fmt: skip
        os.close(theirs)
        text = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the end, on Linux
                break
            if not data:
                break
            text += data
        process.wait()
        os.close(ours)
        return text.decode()

    assert "\x1b[1;36mserve" in shown("--help")
    assert "\x1b[1;31mpoolrt embed: " in shown("embed", "nowhere/at/all", "a")
    assert "\x1b[3" not in shown("--help", NO_COLOR="1")
    drawn = shown("embed", str(folder), "a", "b")
    assert re.search(r"2/2", drawn)
    assert "cosine" in drawn
    done = subprocess.run([sys.executable, "-c", code, "doctor"], capture_output=True, cwd=ROOT, check=True)
    assert b"\x1b" not in done.stdout + done.stderr


def test_classify_prints_the_likeliest_labels(capsys, artifacts):
    folder = artifacts("bert_classifier")
    with load(folder) as model:
        expected = [output.outputs for output in model.classify(TEXTS)]
        labels = model.manifest.heads["classify"].labels
    code, out, _ = poolrt(capsys, "classify", folder, *TEXTS, "--top-k", "2")
    assert code == 0
    for line, text, output in zip(out.splitlines(), TEXTS, expected, strict=True):
        first, second = np.argsort(output.probs)[::-1][:2]
        assert line.split()[:4] == [
            f"{output.probs[first]:.5f}", labels[first], f"{output.probs[second]:.5f}", labels[second],
        ]  # fmt: skip
        assert line.endswith(text)
    _, out, _ = poolrt(capsys, "classify", folder, *TEXTS, "--json")
    answer = json.loads(out)
    assert answer["labels"] == list(labels)
    assert [row["label"] for row in answer["data"]] == [output.label for output in expected]
    assert [row["probs"] for row in answer["data"]] == [output.probs.tolist() for output in expected]


def test_classify_labels_tokens_where_the_model_does(capsys, artifacts):
    folder = artifacts("bert_tokens")
    with load(folder) as model:
        (expected,) = model.token_classify(TEXTS[0])
    code, out, _ = poolrt(capsys, "classify", folder, TEXTS[0], "--json")
    assert code == 0
    (row,) = json.loads(out)["data"]
    assert [token["probs"] for token in row["tokens"]] == expected.outputs.data.tolist()
    code, out, _ = poolrt(capsys, "classify", folder, TEXTS[0])
    text, *lines = out.splitlines()
    assert text == TEXTS[0]
    assert [line.split()[0] for line in lines] == [token["token"].split()[0] for token in row["tokens"]]


def test_classify_refuses_a_model_without_labels(capsys, folder):
    code, out, err = poolrt(capsys, "classify", folder, "a")
    assert (code, out) == (2, "")
    assert "Classification API is not supported by this model" in err

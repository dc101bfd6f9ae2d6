"""From a checkpoint to its artifact in the cache: which export belongs to which state of the folder, and
what goes wrong on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from poolrt.runtime.artifact import checkpoints
from poolrt.runtime.artifact.manifest import FILE
from poolrt.runtime.errors import EXIT_INPUT, ArtifactError, CheckpointError, EngineError, InputError


class Exporter:
    """Stands in for `poolrt export`: writes a manifest where it was told to, and remembers its arguments."""

    def __init__(self, code: int = 0, *, writes: bool = True) -> None:
        self.code, self.writes, self.programs = code, writes, list[Sequence[str]]()

    def __call__(self, program: Sequence[str]) -> tuple[int, str]:
        self.programs.append(program)
        if self.writes:
            folder = Path(program[program.index("--out") + 1]) / program[program.index("--name") + 1]
            folder.mkdir(parents=True)
            (folder / FILE).write_text("{}")
        return self.code, "because of this"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "1_Pooling" / "config.json").write_text("{}")
    return folder


def test_the_same_state_is_exported_once_and_another_one_again(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, cache, source = Exporter(), tmp_path / "cache", str(checkpoint)

    def artifact(*options: str) -> Path:
        return checkpoints.artifact_of(source, options, cache=cache, run=run)

    first = artifact()
    assert first.parent == cache
    assert first.name.startswith("model-")
    assert len(first.name) == len("model-") + 12
    assert artifact() == first
    assert len(run.programs) == 1
    program = run.programs[0]
    assert program[:3] == [sys.executable, "-c", checkpoints.BOOTSTRAP]
    assert (Path(program[3]) / "runtime" / "artifact" / "checkpoints.py").is_file()
    assert program[4:] == ["export", source, "--name", first.name, "--out", str(cache)]
    with_options = artifact("--precision", "int8")
    assert run.programs[1][-2:] == ["--precision", "int8"]
    assert artifact("--precision", "fp16") not in (first, with_options)
    states = {first}
    inner = checkpoint / "1_Pooling" / "config.json"
    inner.write_text("{ }")
    states.add(artifact())
    os.utime(inner, ns=(1, 1))
    states.add(artifact())
    inner.rename(inner.with_name("other.json"))
    states.add(artifact())
    monkeypatch.setattr(checkpoints, "version", lambda name: "another release")
    states.add(artifact())
    monkeypatch.setattr(checkpoints, "FORMAT", 99)
    states.add(artifact())
    assert len(states) == 6
    (tmp_path / "elsewhere").mkdir()
    source = str(checkpoint.rename(tmp_path / "elsewhere" / "model"))
    assert artifact() not in states


def test_an_adapter_s_state_counts_too(checkpoint: Path, tmp_path: Path):
    adapter, run, cache = tmp_path / "adapter", Exporter(), tmp_path / "cache"
    adapter.mkdir()
    found = []
    for content in ("1", "22"):
        (adapter / "adapter_config.json").write_text(content)
        found.append(checkpoints.exported(str(checkpoint), ["--lora", str(adapter)], cache=cache, run=run))
    assert found[0] != found[1]
    assert run.programs[0][-2:] == ["--lora", str(adapter)]
    assert checkpoints.identity("org/name") == ["org/name"]


def test_an_artifact_is_returned_and_what_is_neither_refused(checkpoint: Path, tmp_path: Path):
    run = Exporter()
    done = tmp_path / "done"
    done.mkdir()
    (done / FILE).write_text("{}")
    assert checkpoints.artifact_of(str(done), [], cache=tmp_path, run=run) == done
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"neither an artifact .* nor a checkpoint"):
        checkpoints.artifact_of(str(tmp_path / "empty"), [], cache=tmp_path, run=run)
    inner = tmp_path / "empty" / "v1"
    inner.mkdir()
    (inner / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"folders inside it hold one; give --subfolder v1$"):
        checkpoints.artifact_of(str(tmp_path / "empty"), [], cache=tmp_path, run=run)
    options = ["--subfolder", "v1"]
    assert checkpoints.artifact_of(str(tmp_path / "empty"), options, cache=tmp_path / "c", run=run).is_dir()
    assert run.programs.pop()[-2:] == options
    for name in ("./nowhere", "/nowhere", "~/nowhere", "a/b/c"):
        with pytest.raises(ArtifactError, match="no such folder"):
            checkpoints.artifact_of(name, [], cache=tmp_path, run=run)
    assert not run.programs
    (checkpoint / "config.json").rename(checkpoint / "modules.json")
    checkpoints.artifact_of(str(checkpoint), [], cache=tmp_path / "cache", run=run)
    for name in ("intfloat/e5-small", "bert"):  # hub ids
        assert checkpoints.artifact_of(name, [], cache=tmp_path / "cache", run=run).name.startswith(
            name.split("/")[-1]
        )
    assert len(run.programs) == 3


@pytest.mark.parametrize(
    ("code", "writes", "exit_code"), [(3, False, 3), (4, True, 4), (0, False, EXIT_INPUT)]
)
def test_an_export_that_failed_keeps_its_exit_code(
    checkpoint: Path, tmp_path: Path, code: int, writes: bool, exit_code: int
):
    with pytest.raises(
        CheckpointError, match=rf"exporting it failed \(exit code {code}\): " r"because of this"
    ) as error:
        checkpoints.exported(str(checkpoint), [], cache=tmp_path / "cache", run=Exporter(code, writes=writes))
    assert error.value.exit_code == exit_code


def test_without_the_exporter_nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = Exporter()
    monkeypatch.setitem(checkpoints.MODULES, "export", ("json", "no_such_library", "nor_this"))
    with pytest.raises(
        EngineError,
        match=r"bert is a checkpoint, and exporting it needs no_such_library, " r"nor_this: pip install",
    ):
        checkpoints.exported("bert", [], cache=tmp_path, run=run)
    assert not run.programs


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert checkpoints.default_cache() == tmp_path / "x" / "poolrt" / "artifacts"
    run = Exporter()
    assert checkpoints.exported("bert", [], run=run).parent == tmp_path / "x" / "poolrt" / "artifacts"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert checkpoints.default_cache() == tmp_path / "h" / ".cache" / "poolrt" / "artifacts"

    def homeless() -> Path:
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(InputError, match="set HOME or XDG_CACHE_HOME"):
        checkpoints.default_cache()


def test_options_are_arguments_of_the_export():
    values = {
        "hf_overrides": {"b": 1, "a": None},
        "convert": "embed",
        "pooler_config": {},
        "dtype": None,
        "max_len": 8,
        "on": False,
    }
    wanted = [
        "--hf-overrides",
        '{"a": null, "b": 1}',
        "--convert",
        "embed",
        "--max-len",
        "8",
        "--on",
        "false",
    ]
    assert checkpoints.options_of(values) == wanted
    assert {word: checkpoints.CONVERSIONS[word] for word in ("auto", "embedding", "score", "reward")} == {
        "auto": None, "embedding": "embed", "score": "classify", "reward": "reward",
    }  # fmt: skip


def test_a_program_writes_to_the_log_and_not_to_the_caller_s_output(capfd: pytest.CaptureFixture[str]):
    assert checkpoints.call([sys.executable, "-c", "print('progress'); raise SystemExit(3)"]) == (
        3,
        "see above",
    )
    assert capfd.readouterr() == ("", "progress\n")

"""`poolrt serve` on the command line: vLLM's flags, files, the environment, exports on the way, exit codes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from poolrt.runtime.checkpoints import default_cache
from poolrt.runtime.errors import EXIT_INPUT, EXIT_OK, ArtifactError, InputError
from poolrt.serve.cli import parse, parser_of, serve, settings_of, template_of
from poolrt.serve.flags import IGNORED, normalised
from poolrt.serve.listening import listening
from poolrt.serve.opening import artifact_of, export_options, registry_of
from poolrt.serve.positionals import FLAGS
from poolrt.serve.settings import Settings

from tests.serve.conftest import serving

ROOT = Path(__file__).parent.parent.parent
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest; from poolrt.runtime.cli import main; sys.exit(main(sys.argv[1:]))"
)
SOON_S = 60.0

# A command line of `vllm serve`, with flags of every kind.
VLLM = (
    "m --runner pooling --dtype float16 --trust-remote-code --max_model_len 512 --served-model-name a b --hf_overrides.num_labels 1 "
    "--hf-overrides {\"architectures\":[\"X\"]} --pooler-config.pooling_type CLS --enforce-eager --gpu-memory-utilization=0.5 "
    "--no-enable-prefix-caching --api-key k1 k2 --port 1234 --enable-request-id-headers --no-enable-flash-late-interaction --seed 0"
)  # fmt: skip


def test_a_command_line_of_vllm_is_read():
    asked, notes = parse(VLLM.split())
    settings = settings_of(asked)
    assert asked.artifacts == ["m"]
    assert asked.served_model_name == ["a", "b"]
    assert (settings.port, settings.api_keys, settings.request_id_headers) == (1234, ("k1", "k2"), True)
    options = export_options(asked)
    assert options[options.index("--hf-overrides") + 1] == '{"architectures": ["X"], "num_labels": 1}'
    assert options[options.index("--pooler-config") + 1] == '{"pooling_type": "CLS"}'
    assert options[options.index("--runner") + 1] == "pooling"
    told = " ".join(notes)
    assert all(f"--{name} " in told for name in ("dtype", "trust-remote-code", "enforce-eager", "seed"))
    assert asked.max_model_len == 512


@pytest.mark.parametrize("name", IGNORED)
def test_flags_without_meaning_are_noted(name):
    _, notes = parse(["m", f"--{name}", *(["x"] if IGNORED[name] else [])])
    assert notes == [f"--{name} has no effect here: an artifact fixes it, or poolrt does without"]


@pytest.mark.parametrize("flag", ["--override-pooler-config", "--override_pooler_config.pooling_type"])
def test_the_older_name_of_the_pooler_config_is_read(flag):
    asked, _ = parse(["m", flag, "CLS" if "." in flag else '{"pooling_type": "CLS"}'])
    assert export_options(asked) == ["--pooler-config", '{"pooling_type": "CLS"}']


def test_an_artifact_may_follow_any_flag_of_one_value():
    assert parse(["--dtype", "float16", "m"])[0].artifacts == parse(["--seed=1", "m"])[0].artifacts == ["m"]


@pytest.mark.parametrize(
    ("arguments", "field", "values"),
    [
        ("--api-key k1 A", "api_key", ["k1"]),
        ("--api-key k1 k2 A --port 1", "api_key", ["k1", "k2"]),
        ("--served-model-name a b A", "served_model_name", ["a", "b"]),
        ("--port 1 --lora-modules x=y A", "lora_modules", ["x=y"]),
        ("--api-key k1 --served-model-name a A", "served_model_name", ["a"]),
        ("--io-processor-plugin p A", "io_processor_plugin", ["p"]),
        ("A --api-key k1 k2", "api_key", ["k1", "k2"]),
        ("--port 1 A --api-key k1", "api_key", ["k1"]),
        ("--api-key k1 --port 1 -- A", "api_key", ["k1"]),
        ("--api_key=k1 A", "api_key", ["k1"]),
    ],
)
def test_no_flag_eats_the_artifact(arguments, field, values):
    asked, _ = parse(arguments.split())
    assert (asked.artifacts, getattr(asked, field)) == (["A"], values)


def test_every_flag_of_several_values_gives_back_what_it_ate():
    several = [action.option_strings[0][2:] for action in parser_of()._actions if action.nargs == "+"]
    assert sorted(several) == sorted(FLAGS)


def test_a_name_given_twice_stays_once():
    asked, _ = parse(["--served-model-name", "a", "a"])
    assert (asked.artifacts, asked.served_model_name) == (["a"], ["a"])


def test_flags_may_stand_between_artifacts(artifacts: Callable[[str], Path]):
    first, second = str(artifacts("minilm_like")), str(artifacts("bert_classifier"))
    assert parse([first, "--port", "1", second])[0].artifacts == [first, second]
    # What is an artifact on this disk is no key.
    asked, _ = parse([first, "--api-key", "k1", second])
    assert (asked.artifacts, asked.api_key) == ([first, second], ["k1"])


@pytest.mark.parametrize(("text", "tokens"), [("1k", 1000), ("1K", 1024), ("25.6k", 25600), ("auto", None), ("-1", None), ("512", 512)])
def test_a_length_is_read_as_vllm_reads_it(text, tokens):
    assert parse(["m", "--max-model-len", text])[0].max_model_len == tokens


@pytest.mark.parametrize("text", ["1.5", "1.5K", "k", "1x", "0", "-2", "1_0k"])
def test_a_length_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="--max-model-len"):
        parse(["m", "--max-model-len", text])


def test_connections_outlive_those_of_proxies(monkeypatch):
    monkeypatch.delenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", raising=False)
    assert 65 <= settings_of(parse(["m"])[0]).keep_alive_s <= 75
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "30")
    assert settings_of(parse(["m"])[0]).keep_alive_s == 30
    assert settings_of(parse(["m", "--timeout-keep-alive", "620"])[0]).keep_alive_s == 620
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "5s")
    with pytest.raises(InputError, match="VLLM_HTTP_TIMEOUT_KEEP_ALIVE"):
        settings_of(parse(["m"])[0])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--port {used}", r"port \d+ is in use on 127\.0\.0\.1: choose another with --port"),
        ("--host no-such-host.invalid --insecure-no-auth", "no address of that name is known"),
        ("--host 203.0.113.7 --insecure-no-auth", "is no address of this machine"),
    ],
)
def test_an_address_that_cannot_be_had_is_told_before_anything_is_opened(flags, told, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        used = taken.getsockname()[1]
        assert serve(["no-such-artifact", *flags.format(used=used).split(), "--json"]) == EXIT_INPUT
    out, err = capsys.readouterr()
    assert re.search(told, err)
    assert len(err.splitlines()) == 1
    assert json.loads(out)["error"]["exit_code"] == EXIT_INPUT


def test_a_port_without_the_rights_for_it_is_told(monkeypatch):
    def bind(self, address):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", bind)
    with pytest.raises(InputError, match="port 80 needs rights"):
        listening(Settings(port=80))


def test_a_user_without_a_home_is_told_what_to_set(checkpoints: Callable[[str], Path], monkeypatch, capsys):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory.")))
    assert serve([str(checkpoints("minilm_like")), "--port", "0"]) == EXIT_INPUT
    told = capsys.readouterr().err.splitlines()[-1]
    assert "set HOME or XDG_CACHE_HOME" in told
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/poolrt/artifacts")


def test_an_artifact_may_follow_a_flag_with_values():
    asked, _ = parse(["--served-model-name", "a", "--port", "1", "--", "m"])
    assert asked.artifacts == ["m"]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--tokenizer other", "a copy of the checkpoint"),
        ("--tokenizer-revision v2", "one --revision"),
        ("--quantization fp8", "--precision int8"),
        ("--task generate", "invalid choice: 'generate'"),
    ],
)
def test_flags_that_would_change_the_answers_are_refused(flags, told):
    with pytest.raises(InputError, match=told):
        parse(["m", *flags.split()])


def test_flags_that_repeat_what_holds_are_taken():
    asked, notes = parse(["m", "--tokenizer", "m", "--revision", "v2", "--tokenizer-revision", "v2"])
    assert not notes
    assert export_options(asked) == ["--revision", "v2"]


@pytest.mark.parametrize(("task", "convert"), [("embed", "embed"), ("score", "classify"), ("reward", "reward")])
def test_older_tasks_say_what_to_convert_to(task, convert):
    assert export_options(parse(["m", "--task", task])[0]) == ["--convert", convert]
    assert export_options(parse(["m", "--task", task, "--convert", "none"])[0]) == ["--convert", "none"]


IN_FILE = {"model": "m", "port": 99, "served_model_name": ["a", "b"], "enable_request_id_headers": True, "hf_overrides": {"x": 1}}
YAML = """# a comment
model: m
port: 99
served_model_name:
  - a
  - b
enable-request-id-headers: true
hf-overrides: {"x": 1}
"""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.yaml", YAML),
        ("c.json", json.dumps(IN_FILE)),
        ("c.toml", "model = 'm'\nport = 99\nserved_model_name = ['a', 'b']\nenable_request_id_headers = true\nhf_overrides = {x = 1}\n"),
    ],
    ids=["yaml", "json", "toml"],
)  # fmt: skip
def test_a_file_holds_flags(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    asked, _ = parse(["--config", str(path), "--port", "100"])
    settings = settings_of(asked)
    assert (asked.artifacts, asked.served_model_name, settings.port) == (["m"], ["a", "b"], 100)
    assert (settings.request_id_headers, asked.hf_overrides) == (True, [{"x": 1}])


NESTED = """
model: m  # a comment
served-model-name: ["a # b", 'c']   # two names
api_key:
- "k#1"
hf_overrides:
  architectures: [X]
  text_config: {layers: 2}
pooler-config:
  pooling_type: "MEAN"
chat-template: |
  {{ messages[0].content }}
  # not a comment
max_model_len: 1k
trust-remote-code: yes
"""


def test_a_file_of_nested_yaml_is_read_as_yaml_is(tmp_path):
    (tmp_path / "c.yaml").write_text(NESTED)
    for arguments in (["--config", "FILE"], ["--config", "FILE", "--port", "1"]):
        asked, _ = parse([str(tmp_path / "c.yaml") if part == "FILE" else part for part in arguments])
        assert (asked.artifacts, asked.served_model_name, asked.api_key, asked.max_model_len) == (["m"], ["a # b", "c"], ["k#1"], 1000)
        assert asked.hf_overrides == [{"architectures": ["X"], "text_config": {"layers": 2}}]
        assert asked.pooler_config == [{"pooling_type": "MEAN"}]
        assert asked.chat_template == "{{ messages[0].content }}\n# not a comment\n"


def test_an_artifact_behind_a_files_list_is_none_of_its_values(tmp_path):
    (tmp_path / "c.yaml").write_text("api-key: [k1, k2]\n")
    asked, _ = parse(["--config", str(tmp_path / "c.yaml"), "m"])
    assert (asked.artifacts, asked.api_key) == (["m"], ["k1", "k2"])


@pytest.mark.parametrize("text", ["a\n", "a: {b\n", "- a\n", "a: b: c\n", "a: *x\n", "!!python/object/apply:os.system ['true']\n"])
def test_a_file_that_is_no_yaml_of_flags_costs_one_line(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^--config c.yaml: (line \d+: not YAML|expected `name: value` lines|not YAML)") as caught:
        parse(["--config", str(tmp_path / "c.yaml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [[], ["m", "--colour", "red"], ["m", "--port", "x"], ["m", "--port", "70000"], ["m", "--hf-overrides", "x"],
     ["m", "--max-body-bytes", "0"], ["m", "--ssl-keyfile", "k"], ["m", "--config", "/nonexistent.yaml"], ["m", "--hf-overrides.x"],
     ["m", "--host", "0.0.0.0"], ["m", "--chat-template", "nothing.jinja"]],
)  # fmt: skip
def test_a_bad_command_line_costs_one_clear_line(arguments, capsys, monkeypatch):
    monkeypatch.delenv("POOLRT_API_KEY", raising=False)
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    assert serve(arguments) == EXIT_INPUT
    told = capsys.readouterr().err
    assert told.startswith("poolrt serve: ")
    assert "Traceback" not in told


def test_keys_come_from_the_environment_too(monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert settings_of(parse(["m"])[0]).api_keys == ("secret",)
    assert settings_of(parse(["m", "--api-key", "other"])[0]).api_keys == ("other",)


def test_underscores_and_dots_are_one_spelling():
    assert normalised(["--max_num_seqs", "1", "--hf_overrides.a.b=2", "a_b"]) == [
        "--max-num-seqs",
        "1",
        "--hf-overrides",
        '{"a": {"b": 2}}',
        "a_b",
    ]


def test_a_template_is_a_file_or_text(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ a }}\n\n")
    assert template_of(str(tmp_path / "t.jinja")) == "{{ a }}\n\n"
    assert template_of("{{ b }}") == "{{ b }}"
    assert template_of(None) is None


def test_what_is_neither_artifact_nor_checkpoint_is_told(tmp_path):
    asked, _ = parse(["m"])
    with pytest.raises(ArtifactError, match="neither an artifact"):
        artifact_of(str(tmp_path), asked)
    with pytest.raises(ArtifactError, match="no such folder"):
        artifact_of(str(tmp_path / "missing"), asked)


def test_two_models_of_one_name_are_refused(artifacts: Callable[[str], Path]):
    folder = str(artifacts("minilm_like"))
    other = str(artifacts("bert_classifier"))
    for given in ([folder, folder], [folder, other, "--served-model-name", "a", f"a={other}"]):
        asked, _ = parse(given)
        with pytest.raises(InputError, match=r"two models would be called .* --served-model-name NAME=ARTIFACT"):
            registry_of(asked, settings_of(asked))
    asked, _ = parse([folder, other, "--served-model-name", "a", "a", f"b={other}"])
    assert [served.name for served in registry_of(asked, settings_of(asked))] == ["a", "b"]


def test_overrides_of_a_finished_artifact_are_refused(artifacts: Callable[[str], Path]):
    asked, _ = parse(["m", "--convert", "classify"])
    with pytest.raises(InputError, match="--convert"):
        artifact_of(str(artifacts("minilm_like")), asked)


def test_a_finished_artifact_takes_flags_that_override_nothing(artifacts: Callable[[str], Path]):
    asked, _ = parse(["m", "--runner", "pooling", "--convert", "auto", "--task", "embed"])
    assert artifact_of(str(artifacts("minilm_like")), asked) == artifacts("minilm_like")


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def started(*arguments: str) -> tuple[subprocess.Popen[str], str]:
    port = free_port()
    command = [sys.executable, "-c", START, str(ROOT), "serve", *arguments, "--port", str(port)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ), f"http://127.0.0.1:{port}"


def wait_until_ready(process: subprocess.Popen[str], url: str, limit_s: float = SOON_S) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        try:
            if httpx.get(f"{url}/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    process.kill()
    raise AssertionError("not ready in time")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_it_is_told_to_stop(artifacts: Callable[[str], Path], sign):
    arguments = ("--served-model-name", "first", "--max-model-len", "32", "--disable-access-log-for-endpoints", "/ready")
    process, url = started(str(artifacts("minilm_like")), str(artifacts("bert_classifier")), *arguments)
    try:
        wait_until_ready(process, url)
        listed = httpx.get(f"{url}/v1/models").json()["data"]
        assert [(one["id"], one["max_model_len"]) for one in listed] == [("first", 32), ("bert_classifier", 32)]
        assert httpx.post(f"{url}/v1/embeddings", json={"model": "minilm_like", "input": "a"}).json()["model"] == "first"
        process.send_signal(sign)
        _, told = process.communicate(timeout=SOON_S)
        assert process.returncode == EXIT_OK, told
        assert "serving at" in told
        assert "GET /v1/models" in told
        assert "GET /ready" not in told
        assert "Traceback" not in told
    finally:
        process.kill()


def test_with_json_a_program_reads_where_it_is_served(artifacts: Callable[[str], Path]):
    command = [sys.executable, "-c", START, str(ROOT), "serve", str(artifacts("minilm_like")), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert (ready["event"], ready["models"][0]["names"]) == ("ready", ["minilm_like"])
        assert httpx.get(f"{ready['url']}/health").status_code == 200
        process.terminate()
        out, log = process.communicate(timeout=SOON_S)
    assert (process.returncode, out) == (EXIT_OK, "")
    lines = [json.loads(line) for line in log.splitlines()]
    assert {"time", "level", "logger", "message"} <= set(lines[0])
    assert any("serving at" in line["message"] for line in lines)
    assert any("GET /health" in line["message"] for line in lines)


def test_errors_call_a_model_as_it_is_served(artifacts: Callable[[str], Path]):
    asked, _ = parse([str(artifacts("minilm_like")), "--served-model-name", "org/m"])
    settings = settings_of(asked)
    registry = registry_of(asked, settings)
    registry.open()
    with serving(registry, settings, owns_models=True) as server:
        told = server.refused("/v1/embeddings", {"model": "minilm_like", "input": "a", "dimensions": 8})["message"]
    assert told.startswith('Model "org/m" does not support matryoshka representation')


def test_a_broken_artifact_ends_the_command(artifacts: Callable[[str], Path], tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(artifacts("minilm_like"), broken)
    tokenizer = broken / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes()[:-1] + b"x")
    command = [sys.executable, "-c", START, str(ROOT), "serve", str(broken), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, told = process.communicate(timeout=SOON_S)
    assert json.loads(out)["error"]["exit_code"] == EXIT_INPUT
    assert process.returncode == EXIT_INPUT, told
    assert "tokenizer.json" in told
    assert "Traceback" not in told


def test_a_checkpoint_is_exported_once_and_served(checkpoints: Callable[[str], Path], tmp_path):
    arguments = [str(checkpoints("minilm_like")), "--runner", "pooling", "--cache", str(tmp_path), "--served-model-name", "m"]
    for exports in (True, False):
        process, url = started(*arguments)
        try:
            wait_until_ready(process, url, 300)
            assert httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a"}).status_code == 200
            process.terminate()
            _, told = process.communicate(timeout=SOON_S)
            assert bool(re.search("exporting it once", told)) == exports
        finally:
            process.kill()


def test_the_serving_process_imports_no_exporter():
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest; import poolrt.serve.cli, poolrt.serve.opening, poolrt.serve.server; "
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'onnx')])"
    )
    done = subprocess.run([sys.executable, "-c", probe, str(ROOT)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

"""`poolrt serve` on the command line: vLLM's flags, files, the environment,
exports on the way, exit codes."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from poolrt.runtime.artifact.checkpoints import default_cache
from poolrt.runtime.command_line import spelling
from poolrt.runtime.command_line.flags import Flag
from poolrt.runtime.commands.environment import misspelled
from poolrt.runtime.errors import (
    EXIT_INPUT,
    EXIT_INTERRUPTED,
    EXIT_OK,
    ArtifactError,
    InputError,
    PoolrtError,
)
from poolrt.runtime.json_objects import merged
from poolrt.serve.cli import flags as every_flag
from poolrt.serve.cli import parse, serve, settings_of
from poolrt.serve.process import exporting, startup
from poolrt.serve.process.exporting import artifact_of, export_options
from poolrt.serve.process.listening import listening
from poolrt.serve.process.options import IGNORED
from poolrt.serve.process.positionals import FLAGS
from poolrt.serve.process.server import limits_of, url_of, uvicorn_options
from poolrt.serve.process.startup import models_of
from poolrt.serve.settings import TLS_CIPHERS, Cors, Settings, Tls, template_of

from tests.serve.conftest import serving

ROOT = Path(__file__).parent.parent.parent
START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import conftest; from poolrt.runtime.commands.cli "
    "import main; sys.exit(main(sys.argv[1:]))"
)
SOON_S = 60.0

# A command line of `vllm serve`, with flags of every kind.
VLLM = (
    "m --runner pooling --dtype float16 --trust-remote-code --max_model_len 512 --served-model-name a b "
    "--hf_overrides.num_labels 1 --hf-overrides {\"architectures\":[\"X\"]} --pooler-config.pooling_type "
    "CLS --enforce-eager --gpu-memory-utilization=0.5 --no-enable-prefix-caching --api-key k1 k2 --port "
    "1234 --enable-request-id-headers --no-enable-flash-late-interaction --seed 0"
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


# Flags of vLLM 0.32 and, in the last line, of older ones, each with as many values as it has there.
WITHOUT_MEANING = """
--tokenizer-mode auto --trust-remote-code --dtype auto --seed 0 --code-revision main --load-format auto --download-dir /d --enforce-eager
--renderer-num-workers 2 --model-impl auto --config-format auto --enable-offline-docs --log-error-stack
--enable-flash-late-interaction --no-enable-flash-late-interaction --mm-processor-cache-type lru --mm-encoder-tp-mode data
--skip-mm-profiling --no-skip-mm-profiling --max-num-seqs 8
--enable-chunked-prefill --no-enable-chunked-prefill --gpu-memory-utilization 0.9
--tensor-parallel-size 1 --pipeline-parallel-size 1 --lora-dtype auto --fully-sharded-loras --kv-cache-dtype auto
--block-size 16 --compilation-config {} --optimization-level 2
--swap-space 4 --max-num-partial-prefills 1 --disable-log-requests --disable-frontend-multiprocessing
"""  # noqa: E501


def test_flags_of_vllm_without_meaning_here_are_read_with_their_values():
    asked, notes = parse([*WITHOUT_MEANING.split(), "m"])
    assert asked.artifacts == ["m"]
    assert {note.split()[0] for note in notes} == {
        word for word in WITHOUT_MEANING.split() if word.startswith("--")
    }


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
    assert (asked.artifacts, asked.values[field]) == (["A"], values)


@pytest.mark.parametrize(
    ("arguments", "artifacts", "field", "values"),
    [
        ("--lora-modules x=y A B", ["A", "B"], "lora_modules", ["x=y"]),
        (
            '--lora-modules {"name":"x","path":"y"} A z=w',
            ["A"],
            "lora_modules",
            ['{"name":"x","path":"y"}', "z=w"],
        ),
        ("A --lora-modules x=y B", ["A", "B"], "lora_modules", ["x=y"]),
        ("--served-model-name a b c", ["c"], "served_model_name", ["a", "b"]),
        ("--served-model-name A a A", ["A"], "served_model_name", ["A", "a"]),
        ("--served-model-name a b --api-key k1 k2", ["k2"], "served_model_name", ["a", "b"]),
        ("--api-key k1 k2 --served-model-name a b", ["b"], "api_key", ["k1", "k2"]),
        ("--api-key k1 --served-model-name a b --api-key k2", ["b"], "api_key", ["k2"]),
    ],
)
def test_values_that_cannot_be_the_flags_and_the_last_ones_are_artifacts(
    arguments: str, artifacts: list[str], field: str, values: list[str]
):
    asked, _ = parse(arguments.split())
    assert (asked.artifacts, asked.values[field]) == (artifacts, values)


def test_every_flag_of_several_values_gives_back_what_it_ate():
    several = [
        value.name
        for value in every_flag()
        if isinstance(value.declaration, Flag) and value.declaration.words
    ]
    assert sorted(several) == sorted(FLAGS)


def test_flags_about_pictures_are_those_of_vllm(tmp_path: Path, monkeypatch):
    text = (
        "m --allowed-media-domains a.example b.example:8080 --limit-mm-per-prompt.image 2 "
        '--limit-mm-per-prompt {"video":{"count":1,"num_frames":8}} --mm-processor-kwargs.max_pixels 1000 '
        '--media-io-kwargs {"video":{"num_frames":40}} --trust-request-mm-kwargs --mm-processor-cache-gb 0.5 '
        "--enable-mm-embeds --interleave_mm_strings --max-media-bytes 1000 "
        f"--allowed-local-media-path {tmp_path}"
    )
    asked, notes = parse(text.split())
    media = settings_of(asked).media
    assert (asked.artifacts, notes) == (["m"], [])
    assert media.domains == ("a.example", "b.example:8080")
    assert (media.limits, media.processor_kwargs) == ({"image": 2, "video": 1}, {"max_pixels": 1000})
    assert media.io_kwargs == {"video": {"num_frames": 40}}
    assert (media.trust_request_kwargs, media.interleave, media.max_bytes) == (True, True, 1000)
    assert (media.cache_bytes, media.folder, media.embeds) == (2**29, tmp_path.resolve(), True)
    plain = settings_of(parse(["m"])[0]).media
    assert (plain.domains, plain.folder, plain.trust_request_kwargs) == ((), None, False)
    assert (plain.image_timeout_s, plain.video_timeout_s, plain.redirects) == (5, 30, True)
    monkeypatch.setenv("VLLM_IMAGE_FETCH_TIMEOUT", "7")
    monkeypatch.setenv("VLLM_VIDEO_FETCH_TIMEOUT", "8")
    monkeypatch.setenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0")
    changed = settings_of(parse(["m"])[0]).media
    assert (changed.image_timeout_s, changed.video_timeout_s, changed.redirects) == (7, 8, False)
    monkeypatch.setenv("VLLM_IMAGE_FETCH_TIMEOUT", "soon")
    with pytest.raises(InputError, match="VLLM_IMAGE_FETCH_TIMEOUT"):
        settings_of(parse(["m"])[0])


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--limit-mm-per-prompt", '{"image": -1}'),
        ("--limit-mm-per-prompt", '{"image": "many"}'),
        ("--limit-mm-per-prompt", '{"smell": 1}'),
        ("--media-io-kwargs", '{"image": 5}'),
        ("--media-io-kwargs", '{"image": {"image_mode": null}}'),
        ("--media-io-kwargs", '{"video": {"smell": 1}}'),
        ("--media-io-kwargs", '{"smell": {}}'),
        ("--mm-processor-cache-gb", "-1"),
        ("--allowed-local-media-path", "/no/such/folder"),
    ],
)
def test_settings_of_pictures_that_cannot_be_followed_are_refused(flag, value):
    with pytest.raises(InputError, match=flag):
        settings_of(parse(["m", flag, value])[0])


def test_a_name_given_twice_stays_once():
    asked, _ = parse(["--served-model-name", "a", "a"])
    assert (asked.artifacts, asked.served_model_name) == (["a"], ["a"])


def test_flags_may_stand_between_artifacts(artifacts: Callable[[str], Path]):
    first, second = str(artifacts("minilm_like")), str(artifacts("bert_classifier"))
    assert parse([first, "--port", "1", second])[0].artifacts == [first, second]
    # What is an artifact on this disk is no key.
    asked, _ = parse([first, "--api-key", "k1", second])
    assert (asked.artifacts, asked.values["api_key"]) == ([first, second], ["k1"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("1k", 1000), ("1K", 1024), ("25.6k", 25600), ("auto", None), ("-1", None), ("512", 512)],
)
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
    monkeypatch.setattr(
        Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("Could not determine home directory."))
    )
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
    asked, _ = parse(["m", "--subfolder", "v1"])
    assert export_options(asked) == ["--subfolder", "v1"]


@pytest.mark.parametrize(
    ("task", "convert"), [("embed", "embed"), ("score", "classify"), ("reward", "reward")]
)
def test_older_tasks_say_what_to_convert_to(task, convert):
    assert export_options(parse(["m", "--task", task])[0]) == ["--convert", convert]
    assert export_options(parse(["m", "--task", task, "--convert", "none"])[0]) == ["--convert", "none"]


IN_FILE = {
    "model": "m",
    "port": 99,
    "served_model_name": ["a", "b"],
    "enable_request_id_headers": True,
    "hf_overrides": {"x": 1},
}
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
        ("c.toml", "model = 'm'\nport = 99\nserved_model_name = ['a', 'b']\n"
         "enable_request_id_headers = true\nhf_overrides = {x = 1}\n"),
    ],
    ids=["yaml", "json", "toml"],
)  # fmt: skip
def test_a_file_holds_flags(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    asked, _ = parse(["--config", str(path), "--port", "100"])
    settings = settings_of(asked)
    assert (asked.artifacts, asked.served_model_name, settings.port) == (["m"], ["a", "b"], 100)
    assert (settings.request_id_headers, asked.hf_overrides) == (True, {"x": 1})


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
        keys = asked.values["api_key"]
        assert (asked.artifacts, asked.served_model_name, keys, asked.max_model_len) == (
            ["m"],
            ["a # b", "c"],
            ["k#1"],
            1000,
        )
        assert asked.hf_overrides == {"architectures": ["X"], "text_config": {"layers": 2}}
        assert asked.pooler_config == {"pooling_type": "MEAN"}
        assert asked.values["chat_template"] == "{{ messages[0].content }}\n# not a comment\n"


@pytest.mark.parametrize(
    ("first", "second", "both"),
    [
        ({"a": 1, "b": {"c": 1, "d": 2}}, {"b": {"d": 3}, "e": 4}, {"a": 1, "b": {"c": 1, "d": 3}, "e": 4}),
        ({"a": {"b": 1}}, {"a": 2}, {"a": 2}), ({"a": 2}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_objects_given_in_parts_are_one_and_stay_what_they_were(first: Any, second: Any, both: Any):
    before = copy.deepcopy((first, second))
    assert merged(first, second) == both
    assert (first, second) == before


def test_a_yaml_file_without_pyyaml_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "c.yaml").write_text("model: m")
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(PoolrtError, match=r"poolrt\[serve\]"):
        parse(["--config", str(tmp_path / "c.yaml")])


def test_an_artifact_behind_a_files_list_is_none_of_its_values(tmp_path):
    (tmp_path / "c.yaml").write_text("api-key: [k1, k2]\n")
    asked, _ = parse(["--config", str(tmp_path / "c.yaml"), "m"])
    assert (asked.artifacts, asked.values["api_key"]) == (["m"], ["k1", "k2"])


@pytest.mark.parametrize(
    "text", ["a\n", "a: {b\n", "- a\n", "a: b: c\n", "a: *x\n", "!!python/object/apply:os.system ['true']\n"]
)
def test_a_file_that_is_no_yaml_of_flags_costs_one_line(tmp_path, text):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(
        InputError,
        match=r"^--config c.yaml: (line \d+: not YAML|expected " r"`name: value` " r"lines|not YAML)",
    ) as caught:
        parse(["--config", str(tmp_path / "c.yaml")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [[], ["m", "--colour", "red"], ["m", "--port", "x"], ["m", "--port", "70000"],
    ["m", "--hf-overrides", "x"],
     ["m", "--max-body-bytes", "0"], ["m", "--ssl-keyfile", "k"], ["m", "--config", "/nonexistent.yaml"],
     ["m", "--hf-overrides.x"],
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


def test_a_service_of_kubernetes_is_no_port():
    """Pods of a namespace with a service called poolrt have these variables."""
    linked = {"POOLRT_PORT": "tcp://10.0.0.1:8000", "POOLRT_SERVICE_HOST": "10.0.0.1"}
    assert settings_of(parse(["m"], linked)[0]).port == 8000


def test_every_setting_has_a_variable_and_a_name_in_files(tmp_path: Path):
    environment = {
        "POOLRT_ARTIFACTS": "m n", "POOLRT_PORT": "1", "POOLRT_SERVE_HOST": "::1", "POOLRT_API_KEY": "k",
        "POOLRT_MAX_MODEL_LEN": "1k", "POOLRT_HF_OVERRIDES": '{"a": 1}', "POOLRT_ENABLE_LORA": "yes",
        "POOLRT_ALLOWED_ORIGINS": '["https://a"]', "POOLRT_LOG_LEVEL": "warning", "POOLRT_LOG_FORMAT": "json",
        "POOLRT_MEDIA_URL_ALLOW_REDIRECTS": "0", "POOLRT_MIDDLEWARE": "",
    }  # fmt: skip
    asked, _ = parse([], environment)
    settings = settings_of(asked)
    assert (asked.artifacts, asked.max_model_len, asked.hf_overrides) == (["m", "n"], 1000, {"a": 1})
    assert (settings.port, settings.host, settings.api_keys) == (1, "::1", ("k",))
    assert (settings.cors.origins, settings.log_level, settings.log_format) == (
        ("https://a",),
        "warning",
        "json",
    )
    assert (asked.enable_lora, settings.media.redirects) == (True, False)
    for value in every_flag():
        if isinstance(value.declaration, Flag) and not value.declaration.ignored:
            assert value.variable("serve") == f"POOLRT_{value.key.upper()}"
    with pytest.raises(InputError, match=r"^POOLRT_PORT: expected 0 to 65535, found 70000$"):
        parse(["m"], {"POOLRT_PORT": "70000"})
    (tmp_path / "c.yaml").write_text(
        "allowed-origins: [a]\nlimit_mm_per_prompt: {image: 2}\nno-allow-credentials: true\n"
    )
    settings = settings_of(parse(["m", "--config", str(tmp_path / "c.yaml")], {})[0])
    assert (settings.cors.origins, settings.media.limits, settings.cors.credentials) == (
        ("a",),
        {"image": 2},
        False,
    )


def test_underscores_and_dots_are_one_spelling():
    words = ["--max_num_seqs", "1", "--hf_overrides.a.b=2", "a_b"]
    assert spelling.normalised(words, every_flag(), see="").arguments() == [
        "--max-num-seqs=1",
        '--hf-overrides={"a": {"b": 2}}',
        "--",
        "a_b",
    ]


def test_a_template_is_a_file_or_text(tmp_path):
    (tmp_path / "t.jinja").write_text("{{ a }}\n\n")
    assert template_of(str(tmp_path / "t.jinja")) == "{{ a }}\n\n"
    assert template_of("{{ b }}") == "{{ b }}"


def test_what_is_neither_artifact_nor_checkpoint_is_told(tmp_path):
    asked, _ = parse(["m"])
    with pytest.raises(ArtifactError, match="neither an artifact"):
        artifact_of(str(tmp_path), asked)
    with pytest.raises(ArtifactError, match="no such folder"):
        artifact_of(str(tmp_path / "missing"), asked)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            "model-Q4_K_M.gguf",
            (
                r"it holds GGUF weights of llama\.cpp \(model-Q4_K_M\.gguf\); give the "
                r"checkpoint they were "
                r"converted from"
            ),
        ),
        (
            "onnx/model.onnx",
            (
                r"it holds an ONNX graph, .* \(onnx/model\.onnx\); give the "
                r"checkpoint it was "
                r"exported from"
            ),
        ),
        ("tf_model.h5", r"TensorFlow weights .*from_tf=True"),
        ("adapter_config.json", "a LoRA adapter; serve what it was trained on"),
        ("notes.md", r"it holds notes\.md"),
    ],
)
def test_a_folder_of_another_format_is_told_what_it_holds(tmp_path: Path, file: str, words: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(b"GGUF")
    asked, _ = parse(["m"])
    with pytest.raises(ArtifactError, match=f"neither an artifact .* nor a checkpoint .*; .*{words}"):
        artifact_of(str(tmp_path), asked)


def test_a_file_is_told_what_it_is_before_anything_is_exported(tmp_path: Path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    asked, _ = parse(["m"])
    with pytest.raises(
        ArtifactError, match=r"model\.gguf: a file of GGUF weights of llama\.cpp; give " r"the checkpoint"
    ):
        artifact_of(str(tmp_path / "model.gguf"), asked)


def test_two_models_of_one_name_are_refused(artifacts: Callable[[str], Path]):
    folder = str(artifacts("minilm_like"))
    other = str(artifacts("bert_classifier"))
    for given in ([folder, folder], [folder, other, "--served-model-name", "a", f"a={other}"]):
        asked, _ = parse(given)
        with pytest.raises(
            InputError, match=r"two models would be called .* --served-model-name " r"NAME=ARTIFACT"
        ):
            models_of(asked, settings_of(asked))
    asked, _ = parse([folder, other, "--served-model-name", "a", "a", f"b={other}"])
    assert [served.name for served in models_of(asked, settings_of(asked)).registry] == ["a", "b"]


def test_overrides_of_a_finished_artifact_are_refused(artifacts: Callable[[str], Path]):
    asked, _ = parse(["m", "--convert", "classify"])
    with pytest.raises(InputError, match="--convert"):
        artifact_of(str(artifacts("minilm_like")), asked)


def test_a_finished_artifact_takes_flags_that_override_nothing(artifacts: Callable[[str], Path]):
    asked, _ = parse(["m", "--runner", "pooling", "--convert", "auto", "--task", "embed"])
    assert artifact_of(str(artifacts("minilm_like")), asked) == artifacts("minilm_like")


ENVIRONMENT = (
    "POOLRT_API_KEY", "VLLM_API_KEY", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_SKIP_MODEL_NAME_VALIDATION",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
)  # fmt: skip
CERTIFICATE = "--ssl-keyfile k --ssl-certfile c"
# flags (or NAME=VALUE of the environment), and the fields of the settings that they change
CHANGES: list[tuple[str, dict[str, object]]] = [
    ("--host ::1", {"host": "::1"}),
    ("--port 0", {"port": 0}),
    ("--port 65535", {"port": 65535}),
    ("--uds /run/p.sock", {"uds": "/run/p.sock"}),
    ("--root-path /pool", {"root_path": "/pool"}),
    ("--forwarded-allow-ips 10.0.0.0/8", {"forwarded_allow_ips": "10.0.0.0/8"}),
    ("--timeout-keep-alive 7", {"keep_alive_s": 7}),
    ('--allowed-origins ["a"]', {"cors": Cors(origins=("a",))}),
    ('--allowed-methods ["GET"]', {"cors": Cors(methods=("GET",))}),
    ('--allowed-headers ["x-a"]', {"cors": Cors(headers=("x-a",))}),
    ("--allow-credentials", {"cors": Cors(credentials=True)}),
    (
        CERTIFICATE,
        {
            "tls": Tls(
                keyfile="k", certfile="c", ca_certs=None, cert_reqs=0, ciphers=TLS_CIPHERS, refresh=False
            )
        },
    ),
    (
        f"{CERTIFICATE} --ssl-ca-certs a --ssl-cert-reqs 2",
        {"tls": Tls(keyfile="k", certfile="c", ca_certs="a", cert_reqs=2)},
    ),
    (f"{CERTIFICATE} --ssl-ciphers AES", {"tls": Tls(keyfile="k", certfile="c", ciphers="AES")}),
    (f"{CERTIFICATE} --enable-ssl-refresh", {"tls": Tls(keyfile="k", certfile="c", refresh=True)}),
    ("--disable-fastapi-docs", {"docs": False}),
    ("--enable-tokenizer-info-endpoint", {"tokenizer_info": True}),
    ("--enable-server-load-tracking", {"track_load": True}),
    ("--disable-log-stats", {"engine_metrics": False}),
    ("--enable-request-id-headers", {"request_id_headers": True}),
    ("--disable-timing-headers", {"timing_headers": False}),
    ("--allow-foreign-token-ids", {"check_foreign_tokens": False}),
    ("--no-allow-foreign-token-ids", {}),
    ("--chat-template {{x}}", {"chat_template": "{{x}}"}),
    ("--chat-template-content-format openai", {"content_format": "openai"}),
    ("--trust-request-chat-template", {"trust_request_chat_template": True}),
    (
        '--default-chat-template-kwargs {"a":1} --default-chat-template-kwargs.b 2',
        {"default_template_kwargs": {"a": 1, "b": 2}},
    ),
    ("--preparation model", {"score_preparation": "model"}),
    ("--max-body-bytes 1", {"max_body_bytes": 1}),
    ("--body-timeout 1.5", {"body_timeout_s": 1.5}),
    ("--request-timeout 2.5", {"request_timeout_s": 2.5}),
    ("--write-timeout 3.5", {"write_timeout_s": 3.5}),
    ("--max-connections 3", {"max_connections": 3}),
    ("--max-items 4", {"max_items": 4}),
    ("--max-pending-bytes 5", {"max_pending_bytes": 5}),
    ("--shutdown-timeout 0.5", {"shutdown_timeout_s": 0.5}),
    ("--h11-max-incomplete-event-size 6", {"max_header_bytes": 6}),
    ("--h11-max-header-count 7", {"max_header_count": 7}),
    ("--max-queued-tokens 8", {"max_queued_tokens": 8}),
    ("--scheduling-policy priority", {"scheduling_policy": "priority"}),
    ("--server-threads 9", {"threads": 9}),
    ("--uvicorn-log-level warning", {"log_level": "warning"}),
    ("--uvicorn-log-level trace", {"log_level": "debug"}),
    ("--disable-uvicorn-access-log", {"access_log": False}),
    ("--enable-log-requests", {"log_requests": True}),
    ("--max-log-len 10", {"max_log_length": 10}),
    ("POOLRT_API_KEY=own", {"api_keys": ("own",)}),
    ("POOLRT_API_KEY=own VLLM_API_KEY=theirs", {"api_keys": ("own", "theirs")}),
    ("VLLM_SKIP_MODEL_NAME_VALIDATION=1", {"check_model_name": False}),
    ("VLLM_SKIP_MODEL_NAME_VALIDATION=0", {}),
    ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=Yes", {"runtime_lora": True}),
    ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=on", {"runtime_lora": True}),
    ("VLLM_ALLOW_RUNTIME_LORA_UPDATING=false", {}),
]


@pytest.mark.parametrize(
    ("words", "changes"), [("", {}), *CHANGES], ids=lambda value: value[:40] if isinstance(value, str) else ""
)
def test_a_flag_sets_its_field_and_nothing_else(
    words: str, changes: dict[str, object], monkeypatch: pytest.MonkeyPatch
):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    flags = words.split()
    for variable in [flag for flag in flags if flag.partition("=")[0] in ENVIRONMENT]:
        flags.remove(variable)
        monkeypatch.setenv(*variable.split("="))
    asked, notes = parse(["m", *flags])
    assert settings_of(asked) == dataclasses.replace(Settings(), **changes)  # pyright: ignore[reportArgumentType]
    assert notes == []


@pytest.mark.parametrize(
    "flags", ["--port -1", "--port 65536", "--ssl-certfile c", "--allowed-origins {}", "--hf-overrides []"]
)
def test_a_value_beyond_its_bounds_is_refused_by_its_flag(flags: str):
    with pytest.raises(InputError, match=flags.split()[0]):
        settings_of(parse(["m", *flags.split()])[0])


def test_a_model_is_opened_as_the_flags_say(
    artifacts: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
):
    taken: dict[str, object] = {}

    def noted(folder: Path, engine: str, **options: object) -> None:
        taken.update(options, folder=folder, engine=engine)
        raise InputError("enough")

    monkeypatch.setattr(startup, "load", noted)
    folder = artifacts("minilm_like")
    plain = {
        "folder": folder, "engine": "auto", "threads": None, "max_batch_tokens": None,
        "max_queued_tokens": 2_000_000, "max_tokens": None,
        "scheduling_policy": "fcfs", "io_processor_plugin": None, "hf_overrides": {}, "name": "minilm_like",
        "check": "once",
        "limit_mm_per_prompt": {}, "mm_processor_kwargs": None, "mm_processor_cache_gb": 0.25,
        "response_cache_mb": 0, "enable_prefix_caching": None, "prefix_cache_mb": 512.0,
    }  # fmt: skip
    for words, changes in [
        ("", {}), ("--engine onnxruntime", {"engine": "onnxruntime"}), ("--threads 3", {"threads": 3}),
        ("--max-num-batched-tokens 99", {"max_batch_tokens": 99}),
        ("--max-queued-tokens 77", {"max_queued_tokens": 77}),
        ("--max-model-len 32", {"max_tokens": 32}),
        ("--scheduling-policy priority", {"scheduling_policy": "priority"}),
        ("--io-processor-plugin p", {"io_processor_plugin": "p"}), ("--served-model-name a b", {"name": "a"}),
        ("--check quick", {"check": "quick"}),
        ("--limit-mm-per-prompt.image 2", {"limit_mm_per_prompt": {"image": 2}}),
        ("--no-enable-prefix-caching", {"enable_prefix_caching": False}),
        ("--enable-prefix-caching", {"enable_prefix_caching": True}),
        ("--prefix-cache-mb 64", {"prefix_cache_mb": 64.0}),
        ("--response-cache-mb 8", {"response_cache_mb": 8.0}), ("--precision bf16", {"engine": "auto:bf16"}),
        ("--mm-processor-cache-gb 0.5", {"mm_processor_cache_gb": 0.5}),
        # A model of text has no processor that the flag could set.
        ("--mm-processor-kwargs.max_pixels 9", {"mm_processor_kwargs": None}),
        ("--hf-overrides {\"is_matryoshka\":true}", {"hf_overrides": {"is_matryoshka": True}}),
    ]:  # fmt: skip
        asked, _ = parse([str(folder), *words.split()], environment={})
        (served,) = models_of(asked, settings_of(asked)).registry
        with pytest.raises(InputError, match="enough"):
            served.open()
        assert taken == plain | changes


def test_a_model_is_called_as_it_was_named_and_as_its_artifact_is(artifacts: Callable[[str], Path]):
    first, second = str(artifacts("minilm_like")), str(artifacts("bert_classifier"))
    asked, _ = parse([first, second, "--served-model-name", "a", "b", f"c={second}"])
    assert [(served.names, served.aliases) for served in models_of(asked, settings_of(asked)).registry] == [
        (("a", "b"), ("minilm_like",)), (("c",), ("bert_classifier",)),
    ]  # fmt: skip
    asked, _ = parse([first, "--served-model-name", "c=elsewhere"])
    with pytest.raises(InputError, match="elsewhere is none of the artifacts given"):
        models_of(asked, settings_of(asked))


def test_stored_artifacts_are_called_as_the_store_calls_them(
    artifacts: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """So two revisions of one model are served side by side."""
    monkeypatch.setenv("POOLRT_HOME", str(tmp_path))
    for name in ("m", "m@v1"):
        shutil.copytree(artifacts("minilm_like"), tmp_path / "artifacts" / name)
    asked, _ = parse(["m", "m@v1"])
    assert [served.name for served in models_of(asked, settings_of(asked)).registry] == ["m", "m@v1"]


def test_an_artifact_whose_manifest_names_nothing_is_called_as_its_folder(tmp_path: Path):
    assert startup.names_of("org/m", tmp_path)[0] == "org/m", "exported from there"
    assert startup.names_of(str(tmp_path), tmp_path)[0] == tmp_path.name
    for text, name in (
        ("{", tmp_path.name),
        ("{}", tmp_path.name),
        ("[]", tmp_path.name),
        ('{"name": "n"}', "n"),
    ):
        (tmp_path / "manifest.json").write_text(text)
        assert startup.names_of(str(tmp_path), tmp_path)[0] == name


@pytest.mark.parametrize(
    ("flags", "engine"),
    [
        ([], "auto"),
        (["--precision", "bf16"], "auto:bf16"),
        (["--precision", "auto"], "auto:any"),
        (["--precision", "bf16", "--engine", "onnxruntime"], "onnxruntime"),
    ],
)
def test_the_precision_of_a_finished_artifact_is_that_of_its_engine(
    tmp_path: Path, flags: list[str], engine: str
):
    options, _ = parse([str(tmp_path), *flags], environment={})
    assert startup.engine_of(tmp_path, options) == engine
    assert startup.engine_of(tmp_path / "exported", options) == options.engine


def test_the_most_adapters_are_the_larger_of_both_limits():
    for words, most in (
        ("", None),
        ("--max-loras 2", 2),
        ("--max-cpu-loras 3", 3),
        ("--max-loras 2 --max-cpu-loras 3", 3),
    ):
        asked, _ = parse(["m", "--enable-lora", *words.split()])
        asked.artifacts = []
        assert startup.adapters_of(asked, settings_of(asked), [], []).limit == most


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--runner generate", "--runner generate"),
        ("--revision v9", "--revision v9"),
        ("--subfolder v1", "--subfolder v1"),
        ("--runner auto", None),
        ("--runner pooling", None),
    ],
)
def test_a_finished_artifact_refuses_what_it_was_not_exported_with(
    artifacts: Callable[[str], Path], flags: str, named: str | None
):
    asked, _ = parse(["m", *flags.split()])
    if named is None:
        exporting.refuse_other_exports(artifacts("minilm_like"), asked)
        return
    with pytest.raises(InputError, match=f"is a finished artifact, exported without {named}:"):
        exporting.refuse_other_exports(artifacts("minilm_like"), asked)


def test_settings_reach_the_server():
    settings = Settings(
        body_timeout_s=1, keep_alive_s=2, write_timeout_s=3, max_header_bytes=4, max_header_count=5,
        max_connections=17, root_path="/p/",
        access_log=False, shutdown_timeout_s=6, host="::1", port=7,
    )  # fmt: skip
    limits = limits_of(settings)
    assert (limits.head_s, limits.body_s, limits.idle_s, limits.write_s) == (1, 1, 2, 3)
    assert (limits.header_bytes, limits.header_count, limits.connections) == (4, 5, 17)
    assert limits.open_paths == {
        prefix + path for prefix in ("", "/p") for path in ("/health", "/ping", "/live", "/ready")
    }
    options = uvicorn_options(settings)
    assert (
        options["access_log"],
        options["timeout_graceful_shutdown"],
        options["host"],
        options["port"],
    ) == (False, 6, "::1", 7)
    assert (options["server_header"], options["date_header"], options["lifespan"], options["ws"]) == (
        False,
        True,
        "on",
        "none",
    )
    assert (options["proxy_headers"], options["forwarded_allow_ips"]) == (False, "")
    assert uvicorn_options(Settings(forwarded_allow_ips="*"))["proxy_headers"] is True
    unix = uvicorn_options(
        Settings(uds="/run/p", tls=Tls(keyfile="k", certfile="c", ca_certs="a", cert_reqs=2, ciphers="AES"))
    )
    assert unix["uds"] == "/run/p"
    assert not {"host", "port"} & unix.keys()
    assert [unix[f"ssl_{name}"] for name in ("keyfile", "certfile", "ca_certs", "cert_reqs", "ciphers")] == [
        "k",
        "c",
        "a",
        2,
        "AES",
    ]


def test_the_address_that_is_told_can_be_opened():
    assert url_of(Settings(host="::1", port=7, root_path="/p")) == "http://[::1]:7/p"
    assert url_of(Settings(tls=Tls(keyfile="k", certfile="c"))) == "https://127.0.0.1:8000"
    assert url_of(Settings(uds="/run/p")) == "/run/p"


def test_a_socket_is_taken_at_once_and_again_after_its_server():
    (first,) = listening(Settings(port=0))
    with first:
        assert first.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert first.getsockname()[0] == "127.0.0.1"
        assert first.getsockname()[1] > 0
    assert listening(Settings(uds="/run/p")) == []


def test_an_interrupted_start_ends_as_interrupts_do(monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object, **more: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(startup, "models_of", interrupted)
    assert serve(["m", "--port", "0"]) == EXIT_INTERRUPTED


@pytest.mark.parametrize(
    ("more", "warned"), [((), True), (("--api-key", "k"), False)], ids=["open", "with-a-key"]
)
def test_loading_adapters_without_a_key_is_warned_of(
    more: tuple[str, ...], warned: bool, monkeypatch: pytest.MonkeyPatch, caplog
):
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("VLLM_ALLOW_RUNTIME_LORA_UPDATING", "1")
    assert serve(["no-such-artifact", "--port", "0", *more]) == EXIT_INPUT
    assert ("VLLM_ALLOW_RUNTIME_LORA_UPDATING without a key" in caplog.text) == warned


def test_a_server_for_everyone_starts_where_that_is_said(capsys: pytest.CaptureFixture[str]):
    assert serve(["no-such-artifact", "--host", "0.0.0.0", "--port", "0", "--insecure-no-auth"]) == EXIT_INPUT
    assert "no-such-artifact" in capsys.readouterr().err, "what is missing is the artifact, not a key"


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
    arguments = (
        "--served-model-name",
        "first",
        "--max-model-len",
        "32",
        "--disable-access-log-for-endpoints",
        "/ready",
    )
    process, url = started(str(artifacts("minilm_like")), str(artifacts("bert_classifier")), *arguments)
    try:
        wait_until_ready(process, url)
        listed = httpx.get(f"{url}/v1/models").json()["data"]
        assert [(one["id"], one["max_model_len"]) for one in listed] == [
            ("first", 32),
            ("bert_classifier", 32),
        ]
        assert (
            httpx.post(f"{url}/v1/embeddings", json={"model": "minilm_like", "input": "a"}).json()["model"]
            == "first"
        )
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
    command = [
        sys.executable,
        "-c",
        START,
        str(ROOT),
        "serve",
        str(artifacts("minilm_like")),
        "--port",
        "0",
        "--json",
    ]
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
    registry = models_of(asked, settings).registry
    registry.open()
    with serving(registry, settings, owns_models=True) as server:
        told = server.refused("/v1/embeddings", {"model": "minilm_like", "input": "a", "dimensions": 8})[
            "message"
        ]
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


def test_a_checkpoint_is_exported_once_and_served(checkpoints: Callable[[str], Path], tmp_path: Path) -> None:
    """By two processes, with the port open meanwhile, then by one that has the export."""
    arguments = (
        *(str(checkpoints("minilm_like")), "--runner", "pooling", "--served-model-name", "m"),
        *("--cache", str(tmp_path), "--disable-uvicorn-access-log"),
    )
    for processes in ("2", "1"):
        process, url = started(*arguments, "--api-server-count", processes)
        try:
            bodies = preparing(process, url) if processes == "2" else wait_until_ready(process, url, 300)
            assert httpx.post(f"{url}/v1/embeddings", json={"model": "m", "input": "a"}).status_code == 200
            process.terminate()
            _, told = process.communicate(timeout=SOON_S)
            assert process.returncode == 0
            assert len(re.findall("exporting it once", told)) == (processes == "2")
        finally:
            process.kill()
        if bodies is not None:
            numbers = [body["number"] for body in bodies if "number" in body]
            assert numbers == sorted(numbers)
            assert len(set(numbers)) > 1
            assert {body["of"] for body in bodies if "of" in body} == {numbers[-1]}


def preparing(process: subprocess.Popen[str], url: str) -> list[dict[str, Any]]:
    """What /ready says until the server is ready. The port is open from the first answer on."""
    bodies: list[dict[str, Any]] = []
    with httpx.Client(base_url=url, timeout=300) as client:
        while True:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
            try:
                live, ready = client.get("/live"), client.get("/ready")
            except httpx.ConnectError:
                assert not bodies
                continue
            assert live.status_code == 200
            if ready.status_code == 200:
                return bodies
            if ready.content:
                bodies.append(ready.json())


def test_the_serving_process_imports_no_exporter():
    probe = (
        "import sys; sys.path.insert(0, sys.argv[1]); import conftest; import poolrt.serve.cli, "
        "poolrt.serve.process.startup, poolrt.serve.process.server; "
        "print([name for name in sys.modules if name.split('.')[0] in ('torch', 'transformers', 'onnx')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(ROOT)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_misspelled_variable_is_named_at_the_start():
    variables = {
        "POOLRT_MAX_QUEUED_TOKNS": "5", "POOLRT_MAX_QUEUED_TOKENS": "5", "POOLRT_HOME": "/x",
        "POOLRT_PLACE": "here", "POOLRT_TEST_CACHE": "/y",
        "POOLRT_PORT": "tcp://10.0.0.1:8000", "POOLRT_SERVICE_PORT": "8000", "POOLRT_THREDS": "",
        "OMP_THREADS": "2",
    }  # fmt: skip
    (sentence,) = misspelled(serve, variables)
    assert sentence == (
        "POOLRT_MAX_QUEUED_TOKNS sets nothing of poolrt serve; did you mean POOLRT_MAX_QUEUED_TOKENS?"
    )


@pytest.mark.parametrize(
    ("arguments", "variables", "end"),
    [
        (["m"], {"POOLRT_SSL_CERTFILE": "/x"}, "; --ssl-certfile is set by POOLRT_SSL_CERTFILE"),
        (
            ["m"],
            {"POOLRT_HOST": "0.0.0.0", "POOLRT_SERVE_HOST": "::"},
            "; --host is set by POOLRT_SERVE_HOST",
        ),
        (["m", "--host", "0.0.0.0"], {"POOLRT_HOST": "::1"}, "to serve everyone"),
    ],
)
def test_what_does_not_go_together_names_the_variables(
    arguments: list[str], variables: dict[str, str], end: str, capsys: pytest.CaptureFixture[str]
):
    assert serve(arguments, variables) == EXIT_INPUT
    assert capsys.readouterr().err.rstrip().endswith(end)

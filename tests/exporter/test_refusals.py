"""Folders that are damaged, hostile, or something else than a checkpoint: each is one
sentence that says what to do."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter import checkpoint, cli
from poolrt.exporter.files import adapter, tokenizer, weights
from poolrt.exporter.heads import planning
from poolrt.runtime.errors import CheckpointError

from tests.checkpoints import configure, sentence_transformers_files

Paths = Callable[[str], Path]


@pytest.fixture
def copy(checkpoints: Paths, tmp_path: Path) -> Paths:
    return lambda name: Path(shutil.copytree(checkpoints(name), tmp_path / name))


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        planning.plan(checkpoint.read(folder, recipe=None, **options))
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    return message


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


# --- tokenizers that cost more than they are worth
# ----------------------------------------------------------------------------------


def replace(pattern: str, content: str, kind: str = "String") -> dict[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def steps(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(parts)}


EXPLOSIVE: dict[str, dict[str, Any]] = {
    "nine times ten": {"normalizer": steps(*[replace("a", "a" * 10)] * 9)},
    "nested": {"normalizer": steps(steps(*[replace("e", "e" * 10)] * 4),
    steps(*[replace("e", "e" * 10)] * 5))},
    "expressions": {"normalizer": steps(*[replace(".", "xy" * 5, "Regex")] * 9)},
    "nothing found": {"normalizer": steps(*[replace("(?=q)", "q" * 10, "Regex")] * 9)},
    "empty pattern": {"normalizer": steps(*[replace("", "b" * 10)] * 9)},
    "one letter to the next": {"normalizer": steps(*[replace(chr(97 + n),
    chr(98 + n) * 10) for n in range(9)])},
    "pairs of letters": {"normalizer": steps(*[replace(chr(97 + n) * 2,
    chr(98 + n) * 20) for n in range(9)])},
    "doubling": {"normalizer": steps(*[replace("a", "aa")] * 30)},
    "long content": {"normalizer": replace("a", "a" * 100_000)},
    "prepended": {"normalizer": {"type": "Prepend", "prepend": "a" * 100_000}},
    "charsmap": {
        "normalizer": {"type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(bytes(8) + b"x" * 50_000 + b"\0").decode()}
    },
    "bytes of bytes": {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
            "use_regex": False}] * 24,
        }
    },
    "decoder": {"decoder": {"type": "Sequence", "decoders": [replace("a", "a" * 10)] * 9}},
    "text twice": {
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2, "pair": [],
            "special_tokens": {},
        }
    },
    "special tokens without end": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"[X]": {"id": "[X]", "ids": [6] * 100_000, "tokens": ["[CLS]"] * 100_000}},
        }
    },
}  # fmt: skip
PANICS: dict[str, dict[str, Any]] = {
    "charsmap": {"normalizer": {"type": "Precompiled",
    "precompiled_charsmap": base64.b64encode(b"\x05\0\0\0aaaaaaaaa").decode()}},
    "no charsmap": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "template": {
        "post_processor": {
            "type": "TemplateProcessing", "single": [{"Sequence": {"id": "B", "type_id": 0}}], "pair": [],
            "special_tokens": {},
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("change", EXPLOSIVE.values(), ids=list(EXPLOSIVE))
def test_a_tokenizer_that_makes_texts_explode_is_refused(copy: Paths, change: dict[str, Any]):
    folder = copy("bert_plain")
    # Read as the file stands, not rebuilt from settings.
    rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rewrite(folder / "tokenizer.json", **change)
    assert "allowed" in (message := refused(folder)) or "repeats a text" in message


@pytest.mark.parametrize(
    "change",
    [*EXPLOSIVE.values(), *PANICS.values()],
    ids=[*EXPLOSIVE, *(f"panic: {name}" for name in PANICS)],
)
def test_an_artifact_with_such_a_tokenizer_does_not_load(
    artifacts: Paths, tmp_path: Path, change: dict[str, Any]
):
    from poolrt.runtime.artifact import reading
    from poolrt.runtime.errors import ArtifactError
    from poolrt.runtime.inputs import preparation

    folder = Path(shutil.copytree(artifacts("bert_plain"), tmp_path / "artifact"))
    manifest = reading.read(folder, check="quick").manifest
    rewrite(folder / "tokenizer.json", **change)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json: not a readable tokenizer") as caught:
        preparation.Preparation(folder, manifest)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", PANICS.values(), ids=list(PANICS))
def test_a_tokenizer_that_panics_is_refused(copy: Paths, change: dict[str, Any]):
    folder = copy("bert_plain")
    rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    rewrite(folder / "tokenizer.json", **change)
    assert "tokenizer" in refused(folder)


def test_a_text_on_which_the_tokenizer_gives_up_is_an_error_of_the_engine(artifacts: Paths, tmp_path: Path):
    from poolrt.runtime.artifact import reading
    from poolrt.runtime.errors import EngineError
    from poolrt.runtime.inputs import preparation

    folder = Path(shutil.copytree(artifacts("bert_plain"), tmp_path / "artifact"))
    split = {"type": "Split", "pattern": {"Regex": "(q+)+(q+)+z"}, "behavior": "Isolated", "invert": False}
    manifest = reading.read(folder, check="quick").manifest
    rewrite(folder / "tokenizer.json", pre_tokenizer=split)
    prepared = preparation.Preparation(folder, manifest)
    assert prepared.singles(["a"])
    with pytest.raises(EngineError, match="cannot read a text"):
        prepared.singles(["q" * 60])


def test_published_chains_of_replacements_are_read(copy: Paths):
    folder = copy("bert_plain")
    rewrite(folder / "tokenizer_config.json", tokenizer_class="PreTrainedTokenizerFast")
    chain = [
        replace("``", '"'),
        replace("''", '"'),
        {"type": "NFKD"},
        replace(" {2,}", " ", "Regex"),
        replace("\n", "<|newline|>"),
    ]
    rewrite(
        folder / "tokenizer.json", normalizer=steps(*chain, replace("\t", "<|tab|>"), {"type": "Lowercase"})
    )
    assert len(tokenizer.read(folder).encode("a\nb")) > 4


# --- files that are not what their names say
# ----------------------------------------------------------------------------------------

JSON_FILES = ("config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
    "config_sentence_transformers.json",
              "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")  # fmt: skip


@pytest.mark.parametrize("name", JSON_FILES)
@pytest.mark.parametrize(
    "content", ["[" * 200_000, '{"a":' * 200_000, "9" * 5000, "NaN", '"text"', "null"],
    ids=["deep list", "deep object", "number without end", "no number", "text", "null"],
)  # fmt: skip
def test_json_that_is_not_read_is_one_sentence(copy: Paths, name: str, content: str):
    folder = copy("minilm_like")
    (folder / name).write_text(content)
    assert Path(name).name in refused(folder)


@pytest.mark.parametrize("name", JSON_FILES)
def test_a_file_without_end_is_not_read(copy: Paths, name: str):
    folder = copy("minilm_like")
    with (folder / name).open("r+b") as file:
        file.truncate(200 << 20)
    message = refused(folder)
    assert Path(name).name in message
    assert "209715200 bytes" in message


@pytest.mark.parametrize(
    "placed", [[], ["a"], {}, {"a": 1}, {"a": None}, {"a": ["b"]}, "a", None, {"a": ""}, {"a": "b/../c"},
    {"a": "/etc/passwd"},
     {"a": "x\0y"}],
    ids=repr,
)  # fmt: skip
def test_a_weight_index_of_another_shape_is_refused(copy: Paths, placed: Any):
    folder = copy("bert_sharded")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    assert "index" in refused(folder) or "missing" in refused(folder)


def test_a_whole_file_wins_over_an_index_as_in_transformers(copy: Paths):
    from transformers import AutoModel

    folder = copy("bert_plain")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}})
    )
    name = "embeddings.word_embeddings.weight"
    expected = AutoModel.from_pretrained(folder).state_dict()[name]
    np.testing.assert_array_equal(weights.open_folder(folder).read(name).numpy(), expected.numpy())


def test_a_header_that_lies_about_its_length_is_not_read(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    with path.open("wb") as file:
        file.write((200_000_000).to_bytes(8, "little"))
        file.truncate(300_000_000)
    with pytest.raises(CheckpointError, match="a header of 200000000 bytes"):
        weights.open_files([path])


@pytest.mark.parametrize(
    "changes",
    [{"architectures": {"a": 1}}, {"architectures": [1]}, {"architectures": 3}, {"model_type": ["bert"]},
    {"id2label": {"a": "b"}},
     {"id2label": "abc"}, {"id2label": {"1": "a", "5": "b"}}, {"id2label": [["a"]] * 9},
     {"hidden_size": 10**400}, {"vocab_size": 1e400}],
    ids=lambda changes: repr(changes)[:40],
)  # fmt: skip
def test_settings_of_another_shape_are_refused_by_name(copy: Paths, changes: dict[str, Any]):
    folder = copy("bert_classifier")
    configure(folder, **changes)
    assert next(iter(changes)) in refused(folder) or "rows" in refused(folder)


@pytest.mark.parametrize(
    "changes",
    [{"num_hidden_layers": 10**7}, {"num_hidden_layers": 1e400}, {"intermediate_size": 10**9},
    {"intermediate_size": 1 << 21}],
    ids=lambda changes: repr(changes)[:40],
)  # fmt: skip
def test_a_model_larger_than_its_weights_is_not_built(copy: Paths, changes: dict[str, Any]):
    from poolrt.exporter.graph import tracing

    folder = copy("bert_plain")
    configure(folder, **changes)
    with pytest.raises(CheckpointError, match=r"is the most that is read|the weights hold"):
        tracing.module(read := checkpoint.read(folder), planning.plan(read))


@pytest.mark.parametrize("kind", ["int8", "float8_e4m3fn", "bool", "nan"])
def test_weights_that_are_no_plain_numbers_are_refused(copy: Paths, kind: str):
    import torch
    from poolrt.exporter.graph import tracing
    from safetensors.torch import load_file, save_file

    folder = copy("bert_plain")
    tensors = load_file(folder / "model.safetensors")
    changed = {
        name: tensor * float("nan") if kind == "nan" else tensor.to(getattr(torch, kind))
        for name, tensor in tensors.items()
    }
    save_file(changed, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"quantised or no numbers|NaN"):
        tracing.module(read := checkpoint.read(folder), planning.plan(read))


def test_labels_as_a_list_are_those_of_the_rows(copy: Paths):
    folder = copy("bert_classifier")
    before = planning.plan(checkpoint.read(folder)).heads["classify"].labels
    configure(folder, id2label=list(before), architectures="BertForSequenceClassification")
    assert planning.plan(checkpoint.read(folder)).heads["classify"].labels == before


def test_a_model_type_may_come_from_the_command_line(copy: Paths):
    folder = copy("bert_plain")
    configure(folder, model_type=None, architectures=None)
    assert "neither model_type nor architectures" in refused(folder)
    read = checkpoint.read(folder, hf_overrides={"model_type": "bert"})
    assert (read.architecture, read.text.encode("mars")) == (
        "BertModel",
        checkpoint.read(copy("minilm_like")).text.encode("mars"),
    )


# --- the Transformer module in a folder of its own
# ----------------------------------------------------------------------------------


@pytest.fixture
def nested(copy: Paths) -> Path:
    """all-MiniLM-L6-v2 as Sentence Transformers saved it before 2021: model files in 0_Transformer."""
    folder = copy("bert_plain")
    sentence_transformers_files(folder, dense=[(24, "torch.nn.modules.activation.Tanh")])
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "0_Transformer").mkdir()
    kept = {"modules.json", "config_sentence_transformers.json"}
    for path in [path for path in folder.iterdir() if path.is_file() and path.name not in kept]:
        path.rename(folder / "0_Transformer" / path.name)
    (folder / "modules.json").write_text(
        json.dumps([{**module, "path": module["path"] or "0_Transformer"} for module in modules])
    )
    return folder


def test_a_transformer_in_its_own_folder_is_read_as_sentence_transformers_does(nested: Path):
    import torch
    from poolrt.exporter.graph import tracing
    from sentence_transformers import SentenceTransformer

    read = checkpoint.read(nested)
    plan = planning.plan(read)
    assert plan.text.max_tokens == 64
    ids = torch.tensor([read.text.encode("the red planet")])
    found = tracing.module(read, plan)(ids, torch.ones_like(ids), torch.zeros_like(ids))[0]
    expected = SentenceTransformer(str(nested), device="cpu").encode("the red planet")
    np.testing.assert_allclose(torch.nn.functional.normalize(found[0], dim=-1).numpy(), expected, atol=1e-6)
    assert {path.relative_to(nested).as_posix() for path in read.weight_files} == {
        "0_Transformer/model.safetensors",
        "2_Dense/model.safetensors",
    }


def test_that_folder_alone_is_refused_with_the_one_to_give(nested: Path):
    message = refused(nested / "0_Transformer")
    assert "only the Transformer module" in message
    assert message.endswith(f"give {nested}")


def test_that_folder_copied_elsewhere_is_said(nested: Path, tmp_path: Path):
    folder = Path(shutil.copytree(nested / "0_Transformer", tmp_path / "elsewhere" / "part"))
    assert any("0_Transformer" in line for line in checkpoint.read(folder).lines)


# --- other formats
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "expected"),
    [("onnx/model.onnx", "an ONNX graph"), ("model.onnx", "an ONNX graph"),
    ("model-Q4_K_M.gguf", "GGUF weights of llama.cpp"),
     ("tf_model.h5", "from_tf=True"), ("flax_model.msgpack", "from_flax=True"),
     ("openvino/openvino_model.xml", "OpenVINO"),
     ("model.fp16.safetensors", "variant"), ("model.bin", "CTranslate2"),
     ("consolidated.00.pth", "their authors' own layout")],
)  # fmt: skip
@pytest.mark.parametrize("settings", [True, False], ids=["with config.json", "without"])
def test_a_folder_in_another_format_says_which_and_what_to_do(
    copy: Paths, file: str, expected: str, settings: bool
):
    folder = copy("bert_plain")
    (folder / "model.safetensors").unlink()
    if not settings:
        (folder / "config.json").unlink()
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(b"x")
    message = refused(folder)
    assert expected in message
    assert file in message


@pytest.mark.parametrize(
    ("file", "expected"),
    [("model.gguf", "GGUF weights of llama.cpp; give the checkpoint"), ("model.onnx", "ONNX graph"),
    ("tf_model.h5", "TensorFlow weights"),
     ("model.safetensors", "give the folder that holds them"), ("notes.txt", "a file; give the folder")],
)  # fmt: skip
def test_a_file_says_what_it_is(tmp_path: Path, file: str, expected: str):
    (tmp_path / file).write_bytes(b"x")
    assert expected in refused(tmp_path / file)


def test_the_command_ends_in_one_sentence_and_code_2(
    copy: Paths, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = copy("bert_plain")
    configure(folder, hidden_act="sorcery", num_hidden_layers=2)
    assert cli.export([str(folder), "--out", str(tmp_path / "out")]) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("poolrt export: ")]
    assert len(told) == 1
    assert "sorcery" in told[0]


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"r": "a"}', '{"r": 1e400, "lora_alpha": 1}', "[" * 100_000],
    ids=["list", "cut", "text", "endless", "deep"],
)
def test_adapter_settings_are_one_sentence(tmp_path: Path, content: str):
    (tmp_path / "adapter_config.json").write_text(content)
    with pytest.raises(CheckpointError) as caught:
        adapter.read(tmp_path)
    assert "\n" not in str(caught.value)

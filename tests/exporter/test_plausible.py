"""What a folder's settings may say: counts, formats, settings that no class computes, and JSON
files, each at its limit."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from poolrt.exporter import unread
from poolrt.exporter.base import json_file
from poolrt.exporter.families.registry import find
from poolrt.exporter.files import plausible
from poolrt.runtime.artifact import other_formats
from poolrt.runtime.errors import CheckpointError

# --- counts and weights
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [*plausible.LAYERS, *plausible.WIDE])
def test_a_count_has_its_limit(key: str):
    most = 2048 if key in plausible.LAYERS else 1 << 22
    plausible.check_counts("here", {key: most})
    for value in (most + 1, float("nan"), float("inf"), 10**400):
        with pytest.raises(CheckpointError, match=rf"here: {key} is .*, {most} is the most that is read"):
            plausible.check_counts("here", {key: value})
    plausible.check_counts("here", {key: True, "other": 10**9})
    plausible.check_counts("here", {key: "many"})


def test_weights_are_plain_numbers():
    checkpoint: Any = SimpleNamespace(source="here")
    plain = {
        str(dtype): torch.zeros(1, dtype=dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    }
    plausible.check_types(
        checkpoint,
        {f"{name}.weight": tensor for name, tensor in plain.items()} | {"ids": torch.zeros(1).long()},
    )
    strange = {
        "b.weight": torch.zeros(1, dtype=torch.uint8),
        "c.weight": torch.zeros(1, dtype=torch.float8_e4m3fn),
        "d.scale": torch.ones(1),
    }
    with pytest.raises(
        CheckpointError, match=r"here: 2 weights are quantised or no numbers " r"\(b.weight is uint8\)"
    ):
        plausible.check_types(checkpoint, strange)


def test_a_model_may_be_four_times_its_weights_and_some_masks():
    built: list[str] = []

    class Model(torch.nn.Module):
        def __init__(self, config: int, *, wide: int) -> None:
            super().__init__()
            self.table = torch.nn.Parameter(torch.empty(config, wide))
            self.register_buffer("mask", torch.empty(1 << 26))
            built.append(self.table.device.type)

    def check(stored: int, rows: int) -> None:
        checkpoint: Any = SimpleNamespace(source="here", parameters=stored)
        plausible.check_size(checkpoint, Model, rows, {"wide": 4})

    check(10, 10)
    with pytest.raises(CheckpointError, match="describes a model of 67108908 values, the weights hold 10"):
        check(10, 11)
    assert set(built) == {"meta"}

    def broken(config: int, **_: Any) -> None:
        raise ValueError

    plausible.check_size(SimpleNamespace(source="here", parameters=1), broken, 3, {})  # type: ignore[arg-type]

    def interrupted(config: int, **_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plausible.check_size(SimpleNamespace(source="here", parameters=1), interrupted, 3, {})  # type: ignore[arg-type]


def test_weights_that_are_no_numbers_are_named():
    checkpoint: Any = SimpleNamespace(source="here")
    layers = torch.nn.Sequential(*(torch.nn.Linear(2, 2, bias=False) for _ in range(5)))
    plausible.check_finite(checkpoint, layers)
    with torch.no_grad():
        for index, layer in enumerate(list(layers)[1:]):
            layer.weight[0, 1] = torch.nan  # type: ignore[index]
            with pytest.raises(CheckpointError) as error:
                plausible.check_finite(checkpoint, layers)
            shown = ", ".join(f"{number}.weight" for number in range(1, min(index, 2) + 2))
            assert f"(NaN): {shown}{' and 1 more' if index == 3 else ''};" in str(error.value)


# --- settings that nobody computes
# ----------------------------------------------------------------------------------------------------


def family(model_type: str) -> Any:
    return find("here", {"model_type": model_type}, {})


@pytest.mark.parametrize(
    ("model_type", "key", "value", "fine"),
    [
        ("bert", "position_embedding_type", "absolute", True),
        ("bert", "position_embedding_type", "rotary", False),
        ("distilbert", "position_embedding_type", "relative_key", False),
        ("qwen2", "position_embedding_type", "rope", True),
        ("qwen2", "position_embedding_type", "alibi", False),
        ("qwen2", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, True),
        ("bert", "rope_scaling", {"rope_type": "linear", "factor": 2.0}, False),
        ("qwen2", "use_bidirectional_attention", True, False),
        ("qwen2", "use_bidirectional_attention", None, True),
        ("qwen2", "alibi", 0, True),
        ("qwen2", "alibi", True, False),
        ("falcon", "alibi", True, True),
        ("llama", "logn_attention_scale", True, False),
        ("llama", "attn_logit_softcapping", 30.0, False),
        ("gemma2", "attn_logit_softcapping", 30.0, True),
        ("llama", "attn_logit_softcapping", 0, True),
        ("llama", "embedding_multiplier", 1.0, True),
        ("llama", "embedding_multiplier", 12.0, False),
        ("granite", "embedding_multiplier", 12.0, True),
        ("bert", "rotary_emb_fraction", 0.5, False),
        ("no_such_type", "qk_norm", True, True),
    ],
)
def test_a_setting_that_transformers_passes_over_is_refused(
    model_type: str, key: str, value: Any, fine: bool
):
    config = {
        "model_type": model_type,
        key: value,
        "architectures": ["Own"],
        "auto_map": {"AutoModel": "code.Own", "AutoConfig": "code.C"},
    }
    reader = family("bert" if model_type == "no_such_type" else model_type)
    if fine:
        unread.check("here", config, reader)
        return
    with pytest.raises(CheckpointError) as error:
        unread.check("here", config, reader)
    assert (f"config.json says {key} {value!r}, which transformers' {model_type} does not compute") in str(
        error.value
    )
    assert "code of its own (Own); --hf-overrides" in str(error.value)


@pytest.mark.parametrize(
    ("model_type", "names", "entries", "told"),
    [
        ("bert", ["BertModel"], {}, None),
        ("bert", ["OwnModel"], {}, None),  # no code: a name alone
        ("bert", ["OwnModel"], {"AutoModel": "code.OwnModel"}, "names OwnModel, a class of its own code"),
        ("bert", ["OwnModel"], {"AutoConfig": "code.OwnConfig"}, None),
        # An encoder names a class that is known
        ("bert", ["BertModel"], {"AutoModel": "code.OtherModel"}, None),
        ("bert", [], {"AutoModel": "code.OtherModel"}, "names OtherModel"),
        ("bert", ["OwnColBERT"], {"AutoModel": "code.OwnColBERT"}, None),
        ("qwen2", ["Qwen2ForCausalLM"], {"AutoModel": "code.Both"}, "names Both"),
        ("qwen2", ["Own"], {"AutoModelForCausalLM": "code.Own"}, "one that attends both ways"),
        ("bert", ["OwnModel"], "code", None),
    ],
)
def test_classes_of_own_code_are_refused_unless_it_is_said_how_to_read_them(
    model_type: str, names: list[str], entries: Any, told: str | None
):
    config = {"model_type": model_type, "architectures": names, "auto_map": entries}

    def refuse(convert: str = "auto", **overrides: Any) -> None:
        unread.refuse_remote("here", config, family(model_type), overrides=overrides, convert=convert)

    if told is None:
        refuse()
    else:
        with pytest.raises(CheckpointError, match=told) as error:
            refuse()
        assert ("both ways" in str(error.value)) == (model_type == "qwen2")
        with pytest.raises(CheckpointError):
            refuse(num_labels=1)
    for convert in ("embed", "classify", "reward"):
        refuse(convert)
    for override in ("architectures", "auto_map", "is_causal", "use_bidirectional_attention", "model_type"):
        unread.refuse_remote("here", config, family(model_type), overrides={override: None}, convert="auto")


# --- files
# ------------------------------------------------------------------------------------------------------------


def test_json_is_of_the_expected_kind_and_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "config.json"
    path.write_text('{"ü": 1}', encoding="utf-8")
    assert json_file.json_file(path, dict) == {"ü": 1}
    for content, kind, told in (
        (b"[]", dict, "expected a JSON object, found list"),
        (b"{}", list, "expected a JSON list, found dict"),
        (b"{", dict, "not readable"),        (b"\xff", dict, "not readable as JSON"),
        (b"[" * 100_000, list, "nested too deeply"),
    ):  # fmt: skip
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=told):
            json_file.json_file(path, kind)
    with pytest.raises(CheckpointError, match="missing; download the repository again"):
        json_file.json_file(tmp_path / "other.json", dict)
    with pytest.raises(CheckpointError, match=r"not readable as JSON: .*directory"):
        json_file.json_file(tmp_path, dict)
    assert json_file.MOST_BYTES == 16 * 1024 * 1024
    monkeypatch.setattr(json_file, "MOST_BYTES", 4)
    path.write_text("{  }")
    assert json_file.json_file(path, dict) == {}
    path.write_text("{   }")
    with pytest.raises(CheckpointError, match=r"5 bytes, more than such a file has \(4 are allowed\)"):
        json_file.json_file(path, dict)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        (["a.gguf"], "it holds GGUF weights of llama.cpp (a.gguf); give"),
        (["A.GGML", "b/c.gguf"], "(A.GGML and 1 more)"),
        (["onnx/model.onnx", "x.gguf"], "GGUF"), (["onnx/model.onnx", "tf_model.h5"], "an ONNX graph, which"),
        (["a/b/c.onnx"], None),
        (["saved_model.pb"], "TensorFlow"), (["flax_model.msgpack"], "from_flax=True"),
        (["openvino_model.bin"], "OpenVINO"),
        (["x.mlmodel"], "Core ML"), (["x.plan"], "a TensorRT engine"), (["x.engine"], "TensorRT"),
        (["x.tflite"], "TensorFlow Lite"),
        (["rust_model.ot"], "rust-bert"), (["model.bin"], "CTranslate2"), (["x.ckpt"], "authors' own layout"),
        (["consolidated.safetensors"], "authors' own layout"),
        (["model.fp16.safetensors"], "it holds model.fp16.safetensors, a variant that is not read"),
        (["pytorch_model.fp16.bin"], "holds pytorch_model.fp16.bin, a variant"),
        (["sub/model.fp16.safetensors"], None),
        (["adapter_model.bin", "notes.txt", "other.safetensors"], None), ([], None),
    ],
)  # fmt: skip
def test_what_a_folder_holds_instead(tmp_path: Path, files: list[str], told: str | None):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = other_formats.of_folder(tmp_path)
    assert found is None if told is None else told in str(found), found


def test_what_a_file_is():
    for name, told in (
        ("a.ONNX", "a file of ONNX graph, which does not say"),
        ("m.mlpackage", "a file of Core ML model; give"),
        ("x.h5", "TensorFlow weights"),        ("a.pt", "a file of weights; give the folder"),
        ("model.safetensors", "together with config.json"),
        ("pytorch_model.bin", "a file of weights; give the folder"), ("model.bin", "CTranslate2"),
    ):  # fmt: skip
        assert told in str(other_formats.of_file(Path(name)))
    assert other_formats.of_file(Path("notes.txt")) is None

"""Tensors are found, counted and read as safetensors and torch read them; a damaged file is refused
before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter.files import weights
from poolrt.runtime.errors import CheckpointError
from safetensors.torch import save_file

TYPES = {
    torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.float64: "F64",
    torch.int64: "I64", torch.int32: "I32",
    torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def index(folder: Path, places: dict[str, str], name: str = "model.safetensors.index.json") -> None:
    (folder / name).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))


@pytest.mark.parametrize("kind", TYPES, ids=list(TYPES.values()))
def test_every_type_of_safetensors_is_measured_rightly(tmp_path: Path, kind: torch.dtype):
    tensor = (drawn(3, 5) * 4).to(kind)
    save_file(
        {"a": tensor, "empty": torch.zeros(0, 4, dtype=kind), "one": torch.zeros((), dtype=kind)},
        tmp_path / "model.safetensors",
    )
    opened = weights.open_folder(tmp_path)
    assert dict(opened.shapes) == {"a": (3, 5), "empty": (0, 4), "one": ()}
    assert torch.equal(opened.read("a").view(torch.uint8), tensor.view(torch.uint8))


def test_rows_come_in_the_order_asked_for(tmp_path: Path):
    table = drawn(6, 4)
    save_file({"table": table}, tmp_path / "model.safetensors")
    torch.save({"table": table}, tmp_path / "pytorch_model.bin")
    for path in ("model.safetensors", "pytorch_model.bin"):
        opened = weights.open_files([tmp_path / path])
        assert torch.equal(opened.rows("table", [4, 0, 4]), table[[4, 0, 4]])
        assert opened.rows("table", [5]).shape == (1, 4)


def test_names_are_found_with_and_without_a_prefix(tmp_path: Path):
    save_file(
        {"a.weight": drawn(1), "bert.a.weight": drawn(2), "bert.b.weight": drawn(3)},
        tmp_path / "model.safetensors",
    )
    opened = weights.open_folder(tmp_path)
    assert opened.find("a.weight", ("bert.",)) == "a.weight"
    assert opened.find("b.weight", ("model.", "bert.")) == "bert.b.weight"
    assert opened.find("b.weight") is None
    assert ("bert.b.weight" in opened, "b.weight" in opened, len(list(opened))) == (True, False, 3)


def test_old_names_are_todays_in_norms_alone(tmp_path: Path):
    stored = {
        "x.LayerNorm.gamma": drawn(2),
        "x.LayerNorm.beta": drawn(2, seed=1),
        "x.other.gamma": drawn(3),
        "norm.weight": drawn(2),
    }
    save_file(stored, tmp_path / "model.safetensors")
    opened = weights.open_folder(tmp_path)
    assert sorted(opened) == ["norm.weight", "x.LayerNorm.bias", "x.LayerNorm.weight", "x.other.gamma"]
    assert torch.equal(opened.read("x.LayerNorm.bias"), stored["x.LayerNorm.beta"])
    assert torch.equal(opened.state()["x.LayerNorm.weight"], stored["x.LayerNorm.gamma"])


def test_shards_are_one_whole(tmp_path: Path):
    first, second = {"a": drawn(2), "b": drawn(3)}, {"c": drawn(4)}
    save_file(first, tmp_path / "one.safetensors")
    save_file(second, tmp_path / "two.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"})
    opened = weights.open_folder(tmp_path)
    assert [path.name for path in opened.files] == ["one.safetensors", "two.safetensors"]
    assert {name: tensor.tolist() for name, tensor in opened.state().items()} == {
        k: v.tolist() for k, v in (first | second).items()
    }
    state, changes = opened.unmerged()
    assert (sorted(state), changes) == (["a", "b", "c"], {})


def test_safetensors_win_over_pickles(tmp_path: Path):
    torch.save({"a": drawn(5)}, tmp_path / "pytorch_model.bin")
    assert weights.open_folder(tmp_path).shapes["a"] == (5,)
    save_file({"a": drawn(2)}, tmp_path / "model.safetensors")
    assert weights.open_folder(tmp_path).shapes["a"] == (2,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["state_dict", "plain"])
def test_a_pickle_of_tensors_is_read(tmp_path: Path, zipped: bool, wrapped: bool):
    tensors = {"a": drawn(2, 3)}
    content: Any = {"state_dict": tensors, "epoch": 3} if wrapped else tensors
    torch.save(content, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    opened = weights.open_folder(tmp_path)
    assert dict(opened.shapes) == {"a": (2, 3)}
    assert torch.equal(opened.read("a"), tensors["a"])


@pytest.mark.parametrize(
    "content", [[1, 2], {"a": "text"}, {"a": drawn(1), "b": 3}], ids=["list", "text", "mixed"]
)
def test_a_pickle_of_anything_else_is_refused(tmp_path: Path, content: Any):
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="expected tensors by name, found"):
        weights.open_folder(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"])
def test_a_pointer_is_no_file(tmp_path: Path, name: str, content: bytes):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match="git lfs pull"):
        weights.open_folder(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", '{"weight_map": 5}', '{"weight_map": {"a": 5}}', '{"weight_map": {"a": [1]}}'],
)
def test_an_index_that_is_none_is_refused(tmp_path: Path, content: str):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(
        CheckpointError,
        match=r"model\.safetensors\.index\.json: (not a weight index|not readable as "
        r"JSON|expected a JSON)",
    ):
        weights.open_folder(tmp_path)


def test_files_that_an_index_names_must_be_there_and_inside(tmp_path: Path):
    save_file({"a": drawn(1)}, tmp_path / "one.safetensors")
    index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    with pytest.raises(CheckpointError, match=r"1 of 2 weight files are missing: two\.safetensors"):
        weights.open_folder(tmp_path)
    for name in ("../one.safetensors", "/etc/passwd", "sub/one.safetensors"):
        index(tmp_path, {"a": name})
        with pytest.raises(CheckpointError, match="outside the folder"):
            weights.open_folder(tmp_path)


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "truncated: 0 bytes"), (b"\x05\0\0", "truncated: 3 bytes"),
        ((100).to_bytes(8, "little") + b"{}", "truncated: 10 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"{]", "not a safetensors file"),
        ((2).to_bytes(8, "little") + b"{}x", "its header asks for 10 bytes, the file has 11"),
        ((12).to_bytes(8, "little") + b'{"a":{"x":1}', "not a safetensors file"),
    ],
    ids=["nothing", "no length", "short header", "list", "no JSON", "too long", "cut"],
)  # fmt: skip
def test_a_damaged_header_is_told(tmp_path: Path, raw: bytes, told: str):
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match=told):
        weights.open_folder(tmp_path)


@pytest.mark.parametrize("shape", [[1], [5], [4, 2], []], ids=str)
def test_sizes_that_do_not_fit_their_shapes_are_refused(tmp_path: Path, shape: list[int]):
    save_file({"a": drawn(4), "b": drawn(2)}, tmp_path / "model.safetensors")
    raw = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    header["a"]["shape"] = shape
    written = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(
        len(written).to_bytes(8, "little") + written + raw[8 + length :]
    )
    with pytest.raises(CheckpointError, match="sizes of a do not fit their shapes") as refused:
        weights.open_folder(tmp_path)
    assert type(refused.value) is CheckpointError


def written(path: Path, header: bytes, data: int) -> Path:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data))
    return path


def entry(shape: Any, start: Any, end: Any, kind: str = "F32") -> dict[str, Any]:
    return {"dtype": kind, "shape": shape, "data_offsets": [start, end]}


HOSTILE: dict[str, tuple[dict[str, Any], int]] = {
    "overlapping": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, 12),
    "the same bytes": ({"a": entry([2], 0, 8), "b": entry([2], 0, 8)}, 8),
    "a hole": ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, 20),
    "a hole in front": ({"a": entry([2], 4, 12)}, 12),
    "beyond the file": ({"a": entry([4], 0, 16)}, 8),
    "more than the header says": ({"a": entry([2], 0, 8)}, 12),
    "a negative offset": ({"a": entry([2], -8, 0)}, 0),
    "offsets backwards": ({"a": entry([2], 8, 0), "b": entry([2], 0, 8)}, 8),
    "a negative shape": ({"a": entry([-2, -1], 0, 8)}, 8),
    "a shape beyond counting": ({"a": entry([2**40, 2**40], 0, 8)}, 8),
    "an offset beyond counting": ({"a": entry([2], 2**63, 2**63 + 8)}, 8),
    "a type that nobody knows": ({"a": entry([2], 0, 8, "Q4")}, 8),
    "numbers as text": ({"a": entry(["2"], "0", "8")}, 8),
    "fractions": ({"a": entry([2.0], 0.0, 8.9)}, 8),
    "truth values": ({"a": entry([True], False, True, "U8")}, 1),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": entry([2], 0, 8)}, 8),
    "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_header_that_lies_is_refused_before_a_tensor_is_read(
    tmp_path: Path, header: dict[str, Any], data: int
):
    written(tmp_path / "model.safetensors", json.dumps(header).encode(), data)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*download it again"):
        weights.open_folder(tmp_path)


def test_a_name_that_stands_twice_is_refused(tmp_path: Path):
    first, second = json.dumps(entry([2], 0, 8)), json.dumps(entry([2], 8, 16))
    written(tmp_path / "model.safetensors", f'{{"a": {first}, "a": {second}}}'.encode(), 16)
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        weights.open_folder(tmp_path)


def test_a_header_beyond_what_safetensors_allows_is_refused(tmp_path: Path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((weights.MOST_HEADER_BYTES + 1).to_bytes(8, "little") + b"{}")
        file.truncate(weights.MOST_HEADER_BYTES + 9)
    with pytest.raises(CheckpointError, match="a header of 100000001 bytes, 100000000 are allowed"):
        weights.open_folder(tmp_path)


def test_an_empty_file_of_tensors_is_whole(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert dict(weights.open_folder(tmp_path).shapes) == {}
    np.testing.assert_equal(list(weights.open_folder(tmp_path).state()), [])

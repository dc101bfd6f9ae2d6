"""Vectors of pictures in base64: what torch.save and numpy write is read, nothing else, nothing is run."""

from __future__ import annotations

import base64
import collections
import io
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.errors import InputError
from poolrt.serve.media import tensors

VALUES = np.arange(24, dtype=np.float32).reshape(4, 6) / 7


def saved(tensor: Any) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


def npy(array: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **more)
    return file.getvalue()


def read(content: bytes) -> Any:
    return tensors.read(base64.b64encode(content).decode(), "image_embeds")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.from_numpy(VALUES), torch.from_numpy(VALUES).half(), torch.from_numpy(VALUES).bfloat16(),
        torch.from_numpy(VALUES).double(), torch.tensor([[1, 8, 12]]),
        torch.tensor([1, 2], dtype=torch.int32),
        torch.from_numpy(VALUES).T, torch.from_numpy(VALUES)[1:3, ::2], torch.zeros(0, 6), torch.tensor(2.5),
        torch.nn.functional.pad(torch.from_numpy(VALUES), (1, 1))[:, 1:-1],
    ],
    ids=str,
)  # fmt: skip
def test_what_torch_saves_is_read(tensor: torch.Tensor):
    array = read(saved(tensor))
    assert array.shape == tuple(tensor.shape)
    np.testing.assert_array_equal(np.asarray(array, np.float64), tensor.to(torch.float64).numpy())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_what_numpy_saves_is_read(order: Any, version: tuple[int, int]):
    np.testing.assert_array_equal(read(npy(np.asarray(VALUES, order=order), version=version)), VALUES)


class Evil:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was run",))


def archive(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in files.items():
            made.writestr(f"archive/{name.replace('__', '/').replace('_', '.')}", content)
    return file.getvalue()


def header(shape: tuple[int, ...]) -> bytes:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


SAVED = saved(torch.from_numpy(VALUES))
HOSTILE = {
    "empty": b"",
    "text": b"hello",
    "png": b"\x89PNG\r\n\x1a\n",
    "a pickle": pickle.dumps(Evil()),
    "a pickle in an archive": archive(data_pkl=pickle.dumps(Evil())),
    "an object": archive(data_pkl=pickle.dumps(collections.OrderedDict(a=1), protocol=2)),
    "a list of tensors": saved([torch.zeros(2), torch.zeros(2)]),
    "a dict": saved({"a": torch.zeros(2)}),
    "a sparse tensor": saved(torch.eye(3).to_sparse()),
    "booleans": saved(torch.tensor([True])),
    "the old format": (lambda file: (torch.save(torch.zeros(2), file, _use_new_zipfile_serialization=False), file.getvalue())[1])(io.BytesIO()),  # noqa: E501
    "no data": archive(data_pkl=zipfile.ZipFile(io.BytesIO(SAVED)).read("archive/data.pkl")),
    "cut off": SAVED[:-40],
    "objects in numpy": npy(np.array([{"a": 1}], object), allow_pickle=True),
    "text in numpy": npy(np.array(["a"])),
    "a header that lies": header((10**6, 10**6)) + b"\0" * 64,
    "a negative header": header((-1, 4)) + b"\0" * 64,
    "a header of code": b"\x93NUMPY\x01\x00" + struct.pack("<H", 20) + b"__import__('os')    ",
}  # fmt: skip


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE.keys())
def test_anything_else_is_refused(content: bytes):
    with pytest.raises(InputError, match="image_embeds"):
        read(content)


@pytest.mark.parametrize("value", [None, 5, ["AAAA"], "@@@@"])
def test_what_is_no_base64_is_refused(value: Any):
    with pytest.raises(InputError):
        tensors.read(value, "image_embeds")


def test_a_tensor_that_reaches_beyond_its_storage_is_refused():
    program = zipfile.ZipFile(io.BytesIO(SAVED)).read("archive/data.pkl")
    # BININT1 4 and BININT1 6 are the shape; each other number reaches further.
    for old, new in ((b"K\x04K\x06", b"K\x05K\x06"), (b"K\x06K\x01", b"K\x07K\x01"), (b"Q", b"QQ")):
        assert old in program
        with pytest.raises(InputError):
            read(archive(data_pkl=program.replace(old, new, 1), data__0=VALUES.tobytes()))
    np.testing.assert_array_equal(read(archive(data_pkl=program, data__0=VALUES.tobytes())), VALUES)


@given(st.integers(0, len(SAVED) - 1), st.binary(min_size=1, max_size=4))
@settings(max_examples=300, deadline=None)
def test_no_change_of_a_file_breaks_the_reader(place: int, change: bytes):
    for whole in (SAVED, npy(VALUES)):
        content = whole[: place % len(whole)] + change + whole[place % len(whole) + len(change) :]
        try:
            array = read(content)
        except InputError:
            continue
        assert array.size <= len(content)

"""Arrays in base64, as vLLM's clients send vectors of pictures: NumPy's .npy, or what torch.save writes.

Nothing is unpickled. What torch.save writes of one tensor is always the same short program; it is read opcode
by opcode, and any other program is refused.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import InputError
from . import data_urls

MOST_BYTES = 256 * 1024 * 1024
_PROGRAM_BYTES = 4096
MOST_AXES = 8
_NPY = re.compile(
    rb"\x93NUMPY(?:\x01\x00..|\x02\x00....)"
    rb"\{'descr': '(?P<dtype>[<|][fiu][1248])', 'fortran_order': (?P<fortran>True|False), "
    rb"'shape': \((?P<shape>[0-9, ]{0,160})\), \} *\n",
    re.DOTALL,
)
_KINDS = {
    "torch FloatStorage": np.dtype("<f4"), "torch DoubleStorage": np.dtype("<f8"),
    "torch HalfStorage": np.dtype("<f2"), "torch LongStorage": np.dtype("<i8"),
    "torch IntStorage": np.dtype("<i4"), "torch BFloat16Storage": np.dtype("<u2"),
}  # fmt: skip
"""Class of a storage, as pickle names it -> its numbers; bfloat16 as the upper half of a float32."""
_REBUILD = "torch._utils _rebuild_tensor_v2"
_EXPECTED = "expected the base64 of a .npy file, or of a tensor written by torch.save"


def read(text: object, field: str) -> NDArray[Any]:
    """Returns an array from base64. Raises InputError for anything else."""
    if not isinstance(text, str):
        raise InputError(f"{field}: found {type(text).__name__}, {_EXPECTED}", field=field)
    if data_urls.size_of(text) > MOST_BYTES:
        raise InputError(f"{field}: more than {MOST_BYTES} bytes", field=field)
    content = data_urls.decoded(text)
    try:
        return _npy(content) if content.startswith(b"\x93NUMPY") else _saved(content)
    # zipfile, pickletools and numpy raise many kinds of errors for broken files.
    except (ValueError, KeyError, IndexError, TypeError, EOFError, OSError, NotImplementedError,
            RuntimeError, OverflowError, zipfile.BadZipFile) as error:  # fmt: skip
        if isinstance(error, InputError):
            raise
        raise InputError(f"{field}: no array can be read from it; {_EXPECTED}", field=field) from None


def _npy(content: bytes) -> NDArray[Any]:
    # NumPy's own reader evaluates the header as Python; numpy writes it in one form only.
    header = _NPY.match(content)
    if header is None:
        raise ValueError("not the header of numbers")
    dtype, fortran, sizes = (header[name].decode() for name in ("dtype", "fortran", "shape"))
    shape = tuple(int(size) for size in sizes.replace(",", " ").split())
    values = np.frombuffer(content, np.dtype(dtype), offset=header.end())
    # The header could name any size, so the data decide.
    if len(shape) > MOST_AXES or math.prod(shape) != values.size:
        raise ValueError("another size than the header's")
    return values.reshape(shape, order="F" if fortran == "True" else "C")


def _saved(content: bytes) -> NDArray[Any]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        program = infos["data.pkl"]
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos.values()):
            raise ValueError("compressed")
        if program.file_size > _PROGRAM_BYTES:
            raise ValueError("a longer program than that of a tensor")
        if "byteorder" in infos and archive.read(infos["byteorder"]) != b"little":
            raise ValueError("big endian")
        kind, key, offset, shape, strides = _tensor(archive.read(program))
        storage = np.frombuffer(archive.read(infos[f"data/{key}"]), _KINDS[kind])
    last = offset + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
    if min(*shape, *strides, offset, 0) < 0 or math.prod(shape) > storage.size or last >= storage.size:
        raise ValueError("beyond its storage")
    steps = [step * storage.itemsize for step in strides]
    values = np.lib.stride_tricks.as_strided(storage[offset:], shape, steps, writeable=False)
    if kind == "torch BFloat16Storage":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _tensor(program: bytes) -> tuple[str, str, int, tuple[int, ...], tuple[int, ...]]:
    """Storage class, key, offset, shape and strides of the one tensor that a program builds."""
    stack: list[Any] = []
    marks: list[int] = []
    memory: dict[int, Any] = {}
    for opcode, argument, _ in pickletools.genops(program):
        match opcode.name:
            case "PROTO" | "STOP":
                pass
            case "GLOBAL":
                stack.append(_Name(str(argument)))
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BINPUT" | "LONG_BINPUT":
                memory[int(argument or 0)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memory[int(argument or 0)])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                start = marks.pop()
                stack[start:] = [tuple(stack[start:])]
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPERSID":
                stack.append(_Storage(stack.pop()))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_Call(function, arguments))
            case other:
                raise ValueError(f"{other} is no part of a tensor")
    [tensor] = stack
    if not isinstance(tensor, _Call) or tensor.function != _Name(_REBUILD):
        raise ValueError("not a tensor")
    storage, offset, shape, strides, *_ = tensor.arguments
    if not isinstance(storage, _Storage):
        raise ValueError("not a storage")
    word, kind, key, _, _ = storage.about
    if word != "storage" or not isinstance(kind, _Name) or not isinstance(key, str):
        raise ValueError("not a storage")
    numbers = (offset, *shape, *strides)
    if (
        any(type(number) is not int for number in numbers)
        or len(shape) != len(strides)
        or len(shape) > MOST_AXES
    ):
        raise ValueError("not a shape")
    return kind.text, key, offset, tuple(shape), tuple(strides)


class _Name:
    """A class or function that a program names; nothing of that name is imported."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Name) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


class _Storage:
    def __init__(self, about: Any) -> None:
        self.about = about


class _Call:
    """A call that a program asks for; it is not made."""

    def __init__(self, function: Any, arguments: Any) -> None:
        self.function = function
        self.arguments = arguments

"""Which files an ONNX graph reads besides itself, read without the onnx package.

A small walk over the protobuf encoding (https://protobuf.dev/programming-guides/encoding/) enters only the
messages that can hold a tensor; the field numbers are those of onnx.proto3. External data has been a way out
of the model's folder more than once (CVE-2022-25882, CVE-2024-27318), and ONNX Runtime takes one special
location for an address in memory. So the runtime looks at a graph before any library opens it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64

# message -> {field number: message of the field}
_TREE = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}


class MalformedGraph(ValueError):
    """A file that is not an ONNX graph, or a damaged one."""


@dataclass(frozen=True, slots=True)
class ExternalFile:
    """A file that a graph reads a tensor from, and the part of it in bytes."""

    location: str
    offset: int
    length: int | None
    """None: to the end of the file."""


def is_address(location: str) -> bool:
    """Whether ONNX Runtime may take the location for its mark of data in memory (`*/_ORT_MEM_ADDR_/*`, since
    1.23 also `*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*`) and the offset for an address. No file of ours has a star in
    its name."""
    return "*" in location or "_MEM_ADDR_" in location.upper()


def references(path: Path) -> list[ExternalFile]:
    """Every external-data entry of a graph, its subgraphs and functions. Raises MalformedGraph."""
    with path.open("rb") as file:
        if not file.seek(0, 2):
            raise MalformedGraph("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            files: list[ExternalFile] = []
            _walk(data, 0, len(data), "model", files, 0)
            return files


def _walk(data: mmap.mmap, start: int, end: int, message: str, files: list[ExternalFile], depth: int) -> None:
    if depth > _MAX_DEPTH:
        raise MalformedGraph("graphs nested too deeply")
    inner = _TREE[message]
    entries: list[tuple[str, str]] = []
    for number, kind, first, last in _fields(data, start, end):
        name = inner.get(number)
        if name is None or kind != _LENGTH:
            continue
        if name == "entry":
            entries.append(_entry(data, first, last))
        else:
            _walk(data, first, last, name, files, depth + 1)
    if entries:
        files.extend(_reference(entries))


def _reference(entries: list[tuple[str, str]]) -> Iterator[ExternalFile]:
    # Two readers may take different values of a repeated key, so every location is checked.
    values = dict(entries)
    try:
        offset, length = int(values.get("offset", 0)), values.get("length")
        size = None if length is None else int(length)
    except ValueError:
        raise MalformedGraph("external data with an offset or length that is no number") from None
    for location in {value for key, value in entries if key == "location"} or {""}:
        yield ExternalFile(location, offset, size)


def _entry(data: mmap.mmap, start: int, end: int) -> tuple[str, str]:
    texts = {1: "", 2: ""}
    for number, kind, first, last in _fields(data, start, end):
        if kind == _LENGTH and number in texts:
            texts[number] = data[first:last].decode(errors="backslashreplace")
    return texts[1], texts[2]


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(field number, wire type, start, end) of each field; start and end bound the value's bytes."""
    while at < end:
        key, at = _varint(data, at, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            _, last = _varint(data, at, end)
        elif kind == _LENGTH:
            size, at = _varint(data, at, end)
            last = at + size
        elif kind in (_FIXED64, _FIXED32):
            last = at + (8 if kind == _FIXED64 else 4)
        else:
            raise MalformedGraph("not an ONNX file")
        if last > end or number == 0:
            raise MalformedGraph("not an ONNX file, or a cut one")
        yield number, kind, at, last
        at = last


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise MalformedGraph("not an ONNX file, or a cut one")

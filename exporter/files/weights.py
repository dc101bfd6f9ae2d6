"""Tensors of a checkpoint by name. Opening reads headers only, and no code that a file carries is run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ...runtime.artifact import other_formats
from ...runtime.errors import CheckpointError, reason
from ..base.json_file import json_file

if TYPE_CHECKING:
    import torch

Change: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
"""A stored tensor in float32 -> the tensor with its adapter's change."""
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLES = ("model.safetensors", "pytorch_model.bin")
MOST_HEADER_BYTES = 100_000_000  # of safetensors, as in its own library
GIT_LFS = b"version https://git-lfs"
# Bytes per element of safetensors' dtypes, to say which tensor of a damaged file is wrong.
WIDTHS = (
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1)
    | dict.fromkeys(("I16", "U16", "F16", "BF16"), 2)
    | dict.fromkeys(("F32", "I32", "U32"), 4)
    | dict.fromkeys(("F64", "I64", "U64"), 8)
)
LEGACY = {"gamma": "weight", "beta": "bias"}  # LayerNorm's parameters in files of BERT's first years


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors that are still in their files, by today's names: `LayerNorm.gamma` in a file is
    `LayerNorm.weight` in `shapes` and `places`."""

    files: tuple[Path, ...]
    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, tuple[Path, str]]
    """Name -> file, and the name inside it."""
    _pickled: dict[Path, Mapping[str, torch.Tensor]] = field(default_factory=dict, repr=False, compare=False)

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def find(self, name: str, prefixes: Iterable[str] = ()) -> str | None:
        """`name`, or `name` behind one of `prefixes`, whichever is stored; None: neither is."""
        return next(
            (
                candidate
                for candidate in (name, *(prefix + name for prefix in prefixes))
                if candidate in self.shapes
            ),
            None,
        )

    def read(self, name: str) -> torch.Tensor:
        """One tensor, in the type it is stored in."""
        path, stored = self.places[name]
        if path in self._pickled:
            return self._pickled[path][stored]
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            return file.get_tensor(stored)

    def rows(self, name: str, wanted: Sequence[int]) -> torch.Tensor:
        """Some rows of a matrix [rows, columns], in the order of `wanted`, without reading the others."""
        import torch

        path, stored = self.places[name]
        if path in self._pickled:
            return self._pickled[path][stored][list(wanted)]
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            matrix = file.get_slice(stored)
            return torch.cat([matrix[row : row + 1] for row in wanted])

    def state(self) -> dict[str, torch.Tensor]:
        """Every tensor, memory-mapped where the format allows it."""
        from safetensors import safe_open

        tensors: dict[str, torch.Tensor] = {}
        for path in self.files:
            inside = {stored: name for name, (place, stored) in self.places.items() if place == path}
            if path in self._pickled:
                tensors |= {name: self._pickled[path][stored] for stored, name in inside.items()}
                continue
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(stored) for stored, name in inside.items()}
        return tensors

    def unmerged(self) -> tuple[dict[str, torch.Tensor], dict[str, Change]]:
        """`state()` as it is stored, and an adapter's changes of some of its tensors (adapter_merge.py)."""
        return self.state(), {}


def open_folder(folder: Path) -> Weights:
    """The model weights of `folder`, safetensors before pickles.

    Raises CheckpointError for a folder without weights, a damaged file or missing shards.
    """
    for single, index in zip(SINGLES, INDEXES, strict=True):
        # A whole file wins over an index, as in transformers: the index may be left from an older version.
        if (folder / single).is_file():
            return open_files([folder / single])
        if (folder / index).is_file():
            return open_files(_shards(folder, index))
    hint = other_formats.of_folder(folder) or "download the repository again"
    raise CheckpointError(f"{folder}: no weights; expected one of {', '.join((*SINGLES, *INDEXES))}; {hint}")


def open_files(paths: Iterable[Path]) -> Weights:
    """The tensors of all `paths`. Raises CheckpointError for a damaged file."""
    files = tuple(paths)
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[Path, str]] = {}
    pickled: dict[Path, Mapping[str, torch.Tensor]] = {}
    for path in files:
        if path.suffix == ".safetensors":
            stored_shapes = _header(path)
        else:
            pickled[path] = _unpickled(path)
            stored_shapes = {name: tuple(tensor.shape) for name, tensor in pickled[path].items()}
        for stored, shape in stored_shapes.items():
            stem, _, last = stored.rpartition(".")
            name = f"{stem}.{LEGACY[last]}" if last in LEGACY and "norm" in stem.lower() else stored
            shapes[name], places[name] = shape, (path, stored)
    return Weights(files, shapes, places, pickled)


def _shards(folder: Path, index: str) -> list[Path]:
    placed = json_file(folder / index, dict).get("weight_map")
    if (
        not isinstance(placed, dict)
        or not placed
        or not all(isinstance(name, str) and name for name in placed.values())
    ):
        raise CheckpointError(
            f"{folder / index}: not a weight index: expected `weight_map`, tensor -> file; download it again"
        )
    names = sorted(set(placed.values()))
    outside = [name for name in names if Path(name).name != name]
    if outside:
        raise CheckpointError(f"{folder / index}: names files outside the folder: {', '.join(outside)}")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} of {len(names)} weight files are missing: {', '.join(missing)}"
        )
    return [folder / name for name in names]


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in a safetensors file.

    The library checks that the header is well formed and covers the file exactly.
    """
    from safetensors import SafetensorError, safe_open

    if _is_pointer(path):
        raise CheckpointError(
            f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in the repository"
        )
    try:
        with safe_open(path, framework="np") as file:  # no tensor is read, so torch is not imported
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: {_damage(path, error)}; download it again") from None


def _damage(path: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors refuses. The usual case is an interrupted download, which
    sizes show."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            return f"truncated: {size} bytes, shorter than its own header"
        if length > MOST_HEADER_BYTES:
            return f"a header of {length} bytes, {MOST_HEADER_BYTES} are allowed"
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            expected = (
                8 + length + max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
            )
            misfits = [
                name for name, entry in tensors.items() if entry["dtype"] in WIDTHS and not _fits(entry)
            ]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError, OverflowError):
            return "not a safetensors file"
    if expected != size:
        return f"truncated: its header asks for {expected} bytes, the file has {size}"
    if misfits:
        return f"sizes of {', '.join(misfits[:5])} do not fit their shapes"
    return f"not a safetensors file ({error})"


def _fits(entry: dict[str, Any]) -> bool:
    start, end = entry["data_offsets"]
    return math.prod(entry["shape"]) * WIDTHS[entry["dtype"]] == end - start


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(GIT_LFS)) == GIT_LFS


def _unpickled(path: Path) -> Mapping[str, torch.Tensor]:
    import torch

    if _is_pointer(path):
        raise CheckpointError(
            f"{path}: a git-lfs pointer, not the weights; run `git lfs pull` in the repository"
        )
    try:
        # With weights_only the unpickler builds tensors and plain containers, nothing else.
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except Exception as error:  # torch raises several unrelated types; each means that the file is not usable
        why = str(error).splitlines()[0] if str(error) else reason(error)
        raise CheckpointError(
            f"{path}: damaged, or holds more than tensors, which poolrt does not load: {why}"
        ) from None
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    strange = not isinstance(loaded, Mapping) or not all(isinstance(name, str) for name in loaded)
    if strange or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise CheckpointError(f"{path}: expected tensors by name, found {type(loaded).__name__}")
    return loaded


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"PK"

"""The interface of a graph as the manifest records it: the sample inputs that it is traced with, its free
axes, and what is asserted of the graph that torch.onnx made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import KEPT, PAST, PRESENT, GraphRole, Tensor
from ...runtime.inputs.items import PROMPT
from ..heads.planning import Plan

if TYPE_CHECKING:
    import onnx_ir

# torch.onnx silently turns 17 into 18. From 23 on attention is an op that TensorRT-RTX refuses in float32.
OPSET = 20
ROWS = 3
"""Rows of the batch that is traced."""
PAST_TOKENS, KEPT_TOKENS = 5, 11
"""Tokens of the prefix that is traced, and how many tokens return their keys and values."""
FEATURES = 7
"""Rows of features of the batch that is traced; no other size of it is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """Inputs and outputs of one graph, and what its sample inputs depend on."""

    role: GraphRole
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    vocabulary: int
    pad_id: int
    tokens: int
    """Length of the text that is traced."""
    longest: int
    images: Images | None
    """None: the model reads text only."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(tensor.name for tensor in self.inputs)


def text(plan: Plan, tokens: int | None = None) -> Interface:
    """The interface of the text graph. `tokens` None: for its record alone."""
    outputs = tuple(
        Tensor(
            name=plan.heads[part.task].output,
            dtype="float32",
            axes=("batch", "tokens", part.dim) if part.pools == ("tokens",) else ("batch", part.dim),
        )
        for part in plan.parts
    )
    inputs = plan.tensors
    if plan.past is not None:
        layers, heads, width = plan.past
        past = Tensor(name=PAST, dtype="float32", axes=(2 * layers, heads, "past", width))
        inputs = (*inputs, past, Tensor(name=KEPT, dtype="int64", axes=("kept",)))
        present = Tensor(name=PRESENT, dtype="float32", axes=("batch", 2 * layers, heads, "kept", width))
        outputs = (*outputs, present)
    return Interface(
        role="text",
        inputs=inputs,
        outputs=outputs,
        vocabulary=plan.text.vocab_size,
        pad_id=plan.text.pad_id,
        tokens=tokens or plan.text.max_tokens,
        longest=plan.text.max_tokens,
        images=None if plan.vision is None else plan.vision.images,
    )


def vision(plan: Plan) -> Interface:
    """The interface of the vision graph of a plan that has one."""
    assert plan.vision is not None, "the plan has no vision graph"
    return Interface(
        role="vision",
        inputs=plan.vision.inputs,
        outputs=(plan.vision.output,),
        vocabulary=0,
        pad_id=0,
        tokens=0,
        longest=0,
        images=plan.vision.images,
    )


# --- tracing


def samples(interface: Interface) -> tuple[torch.Tensor, ...]:
    """ROWS rows for each input: of a text one is padded, of patches each has another grid.

    Each input is its own tensor, because torch.onnx silently merges inputs that are the same tensor.
    """
    return tuple(SAMPLES[tensor.name](interface, tensor) for tensor in interface.inputs)


def _padding(interface: Interface) -> torch.Tensor:
    return torch.arange(interface.tokens) >= interface.tokens - 3


def _ids(interface: Interface, tensor: Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, interface.vocabulary, (ROWS, interface.tokens), generator=generator)
    ids[1, _padding(interface)] = interface.pad_id
    return ids


def _mask(interface: Interface, tensor: Tensor) -> torch.Tensor:
    mask = torch.ones((ROWS, interface.tokens), dtype=torch.int64)
    mask[1, _padding(interface)] = 0
    return mask


def _types(interface: Interface, tensor: Tensor) -> torch.Tensor:
    return torch.zeros((ROWS, interface.tokens), dtype=torch.int64)


def _kinds(interface: Interface, tensor: Tensor) -> torch.Tensor:
    kinds = _types(interface, tensor)
    kinds[0, :3] = PROMPT
    return kinds


def _features(interface: Interface, tensor: Tensor) -> torch.Tensor:
    features = torch.randn(FEATURES, int(tensor.axes[1]), generator=torch.Generator().manual_seed(1))
    features[0] = 0
    return features


def _feature_index(interface: Interface, tensor: Tensor) -> torch.Tensor:
    index = torch.zeros((ROWS, interface.tokens), dtype=torch.int64)
    index[0, 2 : 1 + FEATURES] = torch.arange(1, FEATURES)[: interface.tokens - 2]
    return index


def _position_ids(interface: Interface, tensor: Tensor) -> torch.Tensor:
    return torch.arange(interface.tokens).repeat(ROWS, 3, 1)


def _past(interface: Interface, tensor: Tensor) -> torch.Tensor:
    shape = (axis if isinstance(axis, int) else PAST_TOKENS for axis in tensor.axes)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _kept(interface: Interface, tensor: Tensor) -> torch.Tensor:
    return torch.arange(KEPT_TOKENS)


def grids(images: Images) -> tuple[tuple[int, int], ...]:
    """(rows, columns) of patches, one grid for each traced row."""
    assert images.patches is not None, "only the scheme `patches` has grids"
    merge = images.patches.merge
    return (2 * merge, 3 * merge), (merge, 5 * merge), (2 * merge, merge)


def patch_positions(rows: int, columns: int, merge: int) -> np.ndarray:
    """[patches, 4]: row, column, rows, columns of every patch, the patches of one feature behind one
    another."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    order = np.lexsort((column % merge, row % merge, column // merge, row // merge))
    return np.stack(
        [row[order], column[order], np.full(len(order), rows), np.full(len(order), columns)], axis=1
    ).astype(np.int64)


def _patches(interface: Interface) -> list[np.ndarray]:
    images = interface.images
    assert images is not None
    assert images.patches is not None, "only the scheme `patches` has this input"
    return [patch_positions(*grid, images.patches.merge) for grid in grids(images)]


def _pixel_values(interface: Interface, tensor: Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    if "patches" not in tensor.axes:
        return torch.randn(ROWS, *(int(axis) for axis in tensor.axes[1:]), generator=generator)
    longest = max(len(positions) for positions in _patches(interface))
    return torch.randn(ROWS, longest, int(tensor.axes[2]), generator=generator)


def _patch_positions(interface: Interface, tensor: Tensor) -> torch.Tensor:
    rows = _patches(interface)
    positions = torch.zeros((ROWS, max(map(len, rows)), 4), dtype=torch.int64)
    for place, row in enumerate(rows):
        positions[place, : len(row)] = torch.from_numpy(row)
    return positions


def _patch_mask(interface: Interface, tensor: Tensor) -> torch.Tensor:
    rows = _patches(interface)
    mask = torch.zeros((ROWS, max(map(len, rows))), dtype=torch.int64)
    for place, row in enumerate(rows):
        mask[place, : len(row)] = 1
    return mask


SAMPLES: dict[str, Any] = {
    "input_ids": _ids,
    "attention_mask": _mask,
    "token_type_ids": _types,
    "token_kinds": _kinds,
    "features": _features,
    "feature_index": _feature_index,
    "position_ids": _position_ids,
    PAST: _past,
    KEPT: _kept,
    "pixel_values": _pixel_values,
    "patch_positions": _patch_positions,
    "patch_mask": _patch_mask,
}
"""Input -> (interface, tensor) -> its sample."""


def free_axes(interface: Interface, *, bounded: bool = False) -> tuple[dict[int, Any], ...]:
    """For each input, its free axes: index -> name, or torch's Dim.

    `bounded`: torch may assume that a text has at most `longest` tokens. Patches come in whole features.
    """
    dims: dict[str, Any] = {name: name for name in ("batch", "tokens", "patches", "features", "past", "kept")}
    images = interface.images
    if interface.role == "vision" and images is not None and images.patches is not None:
        rows = torch.export.Dim("rows")
        dims |= {"batch": torch.export.Dim("batch"), "patches": images.patches.merge**2 * rows}
    elif bounded:
        dims |= {
            "batch": torch.export.Dim("batch"),
            "tokens": torch.export.Dim("tokens", max=interface.longest),
            "features": torch.export.Dim("features"),
            "past": torch.export.Dim("past"),
            "kept": torch.export.Dim("kept"),
        }
    return tuple(
        {place: dims[axis] for place, axis in enumerate(tensor.axes) if isinstance(axis, str)}
        for tensor in interface.inputs
    )


def has_axes(model: Any, interface: Interface) -> bool:
    """Whether the free axes of the outputs are those of the inputs, not computed from them."""
    return all(
        axes(value)[:-1] == [str(axis) for axis in tensor.axes[:-1]]
        for value, tensor in zip(model.graph.outputs, interface.outputs, strict=True)
    )


# --- what was traced


def named(model: onnx_ir.Model, interface: Interface) -> None:
    """Gives the axes of patches and of rows of features their names, which torch writes as products of each
    other."""
    import onnx_ir as ir

    for value, tensor in zip(
        (*model.graph.inputs, *model.graph.outputs), (*interface.inputs, *interface.outputs), strict=True
    ):
        if {"patches", "rows"} & set(map(str, tensor.axes)) and value.shape is not None:
            value.shape = ir.Shape(
                [
                    axis if axis in ("patches", "rows") and isinstance(size, ir.SymbolicDim) else size
                    for size, axis in zip(value.shape, tensor.axes, strict=True)
                ]
            )


def check(model: onnx_ir.Model, interface: Interface) -> None:
    """Asserts what torch.onnx has silently got wrong: opset, inputs, outputs, types and names."""
    graph = model.graph
    assert graph.opset_imports.get("") == OPSET, f"opset {graph.opset_imports}, expected {OPSET}"
    _check_tensors("inputs", graph.inputs, interface.inputs)
    _check_tensors("outputs", graph.outputs, interface.outputs)
    names = Counter(value.name for node in graph.all_nodes() for value in node.outputs if value.name)
    names.update(value.name for value in graph.inputs if value.name)
    names.update(list(graph.initializers))
    repeated = [name for name, count in names.items() if count > 1]
    assert not repeated, f"names used twice: {', '.join(repeated[:5])}"


_TYPES = {"int64": "INT64", "float32": "FLOAT"}


def _check_tensors(what: str, values: Sequence[onnx_ir.Value], tensors: Sequence[Tensor]) -> None:
    names = [value.name for value in values]
    assert names == [tensor.name for tensor in tensors], f"{what} {names}"
    for value, tensor in zip(values, tensors, strict=True):
        expected = [str(axis) for axis in tensor.axes]
        assert axes(value) == expected, f"{value.name}: axes {axes(value)}, expected {expected}"
        assert str(value.dtype) == _TYPES[tensor.dtype], f"{value.name}: {value.dtype}"


def axes(value: onnx_ir.Value) -> list[str]:
    """The axes of a value, names and sizes alike as text."""
    return [str(axis) for axis in value.shape or ()]

"""The text of config.pbtxt: the few fields of Triton's ModelConfig that a repository needs.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto. The tests
read the text with Triton's own schema.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...runtime.artifact import manifest

DataType = Literal["TYPE_STRING", "TYPE_INT64", "TYPE_INT32", "TYPE_FP32", "TYPE_FP16", "TYPE_BOOL"]
TYPES: dict[str, DataType] = {
    "int64": "TYPE_INT64",
    "int32": "TYPE_INT32",
    "float32": "TYPE_FP32",
    "float16": "TYPE_FP16",
    "bool": "TYPE_BOOL",
}
"""dtype of a graph's tensor -> Triton's."""
ANY = -1
"""A dimension of any size."""


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output of a Triton model."""

    name: str
    data_type: DataType
    dims: tuple[int, ...]
    """Without the axis of the batch, where the model has one."""
    label_filename: str | None = None
    """A file beside config.pbtxt with one label a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One model of a repository."""

    name: str
    backend: Literal["onnxruntime", "tensorrt", "python"]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    max_batch_size: int
    """Most rows of a batch, which dynamic batching fills; 0: requests have no axis of a batch."""
    profiles: int = 0
    """How many optimisation profiles a plan has; all of them are used."""
    cpu: bool = False
    """Whether it stays on processors where there are GPUs."""
    parameters: Mapping[str, str] = field(default_factory=dict)


def value_of(tensor: manifest.Tensor) -> Value:
    """The Triton value of a graph's tensor [batch, ...]."""
    assert tensor.axes[0] == "batch", f"{tensor.name} has no axis of the batch"
    dims = tuple(axis if isinstance(axis, int) else ANY for axis in tensor.axes[1:])
    return Value(tensor.name, TYPES[tensor.dtype], dims)


def text_of(config: Config) -> str:
    """Returns the text of config.pbtxt."""
    lines = [f"name: {_quoted(config.name)}", f"backend: {_quoted(config.backend)}"]
    lines.append(f"max_batch_size: {config.max_batch_size}")
    lines += _values("input", config.inputs)
    lines += _values("output", config.outputs)
    group = [f"profile: {_quoted(str(index))}" for index in range(config.profiles)]
    if config.cpu:
        group.insert(0, "kind: KIND_CPU")
    elif config.profiles:
        group.insert(0, "kind: KIND_GPU")
    if group:
        lines += ["instance_group {", *(f"  {line}" for line in group), "}"]
    if config.max_batch_size:
        lines.append("dynamic_batching { }")
    for key, value in config.parameters.items():
        entry = f"key: {_quoted(key)} value {{ string_value: {_quoted(value)} }}"
        lines.append(f"parameters {{ {entry} }}")
    return "\n".join(lines) + "\n"


def _values(kind: Literal["input", "output"], values: Sequence[Value]) -> list[str]:
    lines: list[str] = []
    for value in values:
        lines += [
            f"{kind} {{",
            f"  name: {_quoted(value.name)}",
            f"  data_type: {value.data_type}",
            f"  dims: [ {', '.join(map(str, value.dims))} ]",
        ]
        if value.label_filename is not None:
            lines.append(f"  label_filename: {_quoted(value.label_filename)}")
        lines.append("}")
    return lines


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)

"""The part of Triton's ModelConfig that our configurations use, as protobuf's own text reader takes it.

Names, numbers and types are those of model_config.proto; test_triton.py compares them with tritonclient's,
where that is installed (`make clients`), and reads the configurations with its whole schema.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

TYPES = (
    "INVALID", "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16",
    "FP32", "FP64", "STRING", "BF16",
)  # fmt: skip
KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")
# message -> field -> (number, type, whether it is repeated)
FIELDS: dict[str, dict[str, tuple[int, str, bool]]] = {
    "ModelConfig": {
        "name": (1, "string", False), "max_batch_size": (4, "int32", False),
        "input": (5, "ModelInput", True), "output": (6, "ModelOutput", True),
        "instance_group": (7, "ModelInstanceGroup", True),
        "dynamic_batching": (11, "ModelDynamicBatching", False),
        "parameters": (14, "ModelConfig.ParametersEntry", True), "backend": (17, "string", False),
    },
    "ModelInput": {
        "name": (1, "string", False), "data_type": (2, "DataType", False), "dims": (4, "int64", True),
    },
    "ModelOutput": {
        "name": (1, "string", False), "data_type": (2, "DataType", False), "dims": (3, "int64", True),
        "label_filename": (4, "string", False),
    },
    "ModelInstanceGroup": {
        "kind": (4, "ModelInstanceGroup.Kind", False), "profile": (5, "string", True),
    },
    "ModelDynamicBatching": {},
    "ModelParameter": {"string_value": (1, "string", False)},
}  # fmt: skip
ENTRY = {"key": (1, "string", False), "value": (2, "ModelParameter", False)}
SCALARS = {"string": 9, "int32": 5, "int64": 3}
ENUM, MESSAGE = 14, 11


def _message(name: str, fields: dict[str, tuple[int, str, bool]]) -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name=name)
    for field, (number, kind, repeated) in fields.items():
        entry = message.field.add(name=field, number=number, label=3 if repeated else 1)
        enum = kind in ("DataType", "ModelInstanceGroup.Kind")
        entry.type = SCALARS.get(kind, ENUM if enum else MESSAGE)
        if kind not in SCALARS:
            entry.type_name = f".inference.{kind}"
    return message


def _config() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="poolrt.proto", package="inference", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in enumerate(TYPES):
        types.value.add(name=f"TYPE_{name}", number=number)
    for name, fields in FIELDS.items():
        message = _message(name, fields)
        if name == "ModelConfig":
            entry = _message("ParametersEntry", ENTRY)
            entry.options.map_entry = True
            message.nested_type.append(entry)
        if name == "ModelInstanceGroup":
            kinds = message.enum_type.add(name="Kind")
            for number, kind in enumerate(KINDS):
                kinds.value.add(name=kind, number=number)
        file.message_type.append(message)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


CONFIG = _config()


def parsed(path: Path) -> Any:
    """The configuration of a config.pbtxt. Raises ParseError for a field that Triton does not have."""
    return text_format.Parse(path.read_text(encoding="utf-8"), CONFIG())

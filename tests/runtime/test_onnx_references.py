"""External data is found wherever onnx.proto3 allows a tensor, as the onnx package reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto
from poolrt.runtime.artifact.onnx_references import ExternalFile, MalformedGraph, is_address, references


def tensor(location: str = "weights.bin", **facts: str) -> TensorProto:
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **facts}.items():
        made.external_data.add(key=key, value=value)
    return made


def sparse(where: str) -> SparseTensorProto:
    return SparseTensorProto(**{where: tensor()})  # pyright: ignore[reportArgumentType]


def in_graph(graph: GraphProto) -> ModelProto:
    return ModelProto(ir_version=9, producer_name="x", graph=graph)


def in_attribute(attribute: AttributeProto) -> ModelProto:
    attribute.name = "a"
    return in_graph(
        GraphProto(name="g", node=[NodeProto(op_type="Constant", output=["y"], attribute=[attribute])])
    )


def in_function(**fields: object) -> ModelProto:
    model = ModelProto(ir_version=9, graph=GraphProto(name="g"))
    model.functions.add(name="f", **fields)  # pyright: ignore[reportArgumentType]
    return model


def in_training(where: str) -> ModelProto:
    model = ModelProto(ir_version=9, graph=GraphProto(name="g"))
    model.training_info.add(**{where: GraphProto(name="t", initializer=[tensor()])})
    return model


PLACES: dict[str, Callable[[], ModelProto]] = {
    "initializer": lambda: in_graph(GraphProto(name="g", initializer=[tensor()])),
    "sparse values": lambda: in_graph(GraphProto(name="g", sparse_initializer=[sparse("values")])),
    "sparse indices": lambda: in_graph(GraphProto(name="g", sparse_initializer=[sparse("indices")])),
    "attribute": lambda: in_attribute(AttributeProto(t=tensor(), f=1.5, i=300)),
    "attributes": lambda: in_attribute(
        AttributeProto(tensors=[tensor()], floats=[1.5, 2.5], ints=[1, 2**40])
    ),
    "attribute graph": lambda: in_attribute(AttributeProto(g=GraphProto(name="b", initializer=[tensor()]))),
    "attribute graphs": lambda: in_attribute(
        AttributeProto(graphs=[GraphProto(name="b", initializer=[tensor()])])
    ),
    "attribute sparse": lambda: in_attribute(AttributeProto(sparse_tensor=sparse("values"))),
    "attribute sparses": lambda: in_attribute(AttributeProto(sparse_tensors=[sparse("indices")])),
    "function node": lambda: in_function(
        node=[NodeProto(op_type="Constant", attribute=[AttributeProto(name="a", t=tensor())])]
    ),
    "function default": lambda: in_function(attribute_proto=[AttributeProto(name="a", t=tensor())]),
    "training start": lambda: in_training("initialization"),
    "training step": lambda: in_training("algorithm"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_it_may_stand(tmp_path: Path, place: str):
    path = tmp_path / "model.onnx"
    path.write_bytes(PLACES[place]().SerializeToString())
    assert onnx.load(path, load_external_data=False)  # the package reads it too
    assert references(path) == [ExternalFile("weights.bin", 0, None)]


@pytest.mark.parametrize(
    ("facts", "offset", "length"),
    [
        ({}, 0, None),
        ({"offset": "4096"}, 4096, None),
        ({"length": "8"}, 0, 8),
        ({"offset": "16", "length": "0", "checksum": "x"}, 16, 0),
    ],
    ids=str,
)
def test_a_piece_of_a_file_has_its_place(
    tmp_path: Path, facts: dict[str, str], offset: int, length: int | None
):
    (tmp_path / "model.onnx").write_bytes(
        in_graph(GraphProto(initializer=[tensor(**facts)])).SerializeToString()
    )
    assert references(tmp_path / "model.onnx") == [ExternalFile("weights.bin", offset, length)]


def test_several_tensors_and_none(tmp_path: Path):
    path = tmp_path / "model.onnx"
    plain = TensorProto(name="p", data_type=TensorProto.DOUBLE, dims=[300], double_data=[0.5] * 300)
    path.write_bytes(in_graph(GraphProto(initializer=[tensor("a"), plain, tensor("b")])).SerializeToString())
    assert [reference.location for reference in references(path)] == ["a", "b"]
    path.write_bytes(in_graph(GraphProto(initializer=[plain])).SerializeToString())
    assert references(path) == []


def test_two_locations_of_one_tensor_both_count(tmp_path: Path):
    twice = tensor("a")
    twice.external_data.add(key="location", value="b")
    (tmp_path / "model.onnx").write_bytes(in_graph(GraphProto(initializer=[twice])).SerializeToString())
    assert {reference.location for reference in references(tmp_path / "model.onnx")} == {"a", "b"}
    nowhere = TensorProto(name="w")
    nowhere.external_data.add(key="offset", value="1")
    (tmp_path / "model.onnx").write_bytes(in_graph(GraphProto(initializer=[nowhere])).SerializeToString())
    assert references(tmp_path / "model.onnx") == [ExternalFile("", 1, None)]


@pytest.mark.parametrize("facts", [{"offset": "x"}, {"length": "1.5"}, {"offset": ""}], ids=str)
def test_a_place_that_is_no_number_is_refused(tmp_path: Path, facts: dict[str, str]):
    (tmp_path / "model.onnx").write_bytes(
        in_graph(GraphProto(initializer=[tensor(**facts)])).SerializeToString()
    )
    with pytest.raises(MalformedGraph, match="no number"):
        references(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x80",
        b"\x3a\x05abc",
        b"\x00\x01",
        b"\x3b",
        b"\xff" * 11,
        b"\x09" + b"\0" * 7,
        b"\x0d" + b"\0" * 3,
    ],
    ids=[
        "empty",
        "cut key",
        "beyond the end",
        "field 0",
        "group",
        "endless number",
        "short fixed64",
        "short fixed32",
    ],
)
def test_what_is_no_protobuf_is_refused(tmp_path: Path, raw: bytes):
    (tmp_path / "model.onnx").write_bytes(raw)
    with pytest.raises(MalformedGraph):
        references(tmp_path / "model.onnx")


@pytest.mark.parametrize("raw", [b"\x09" + b"\0" * 8, b"\x0d" + b"\0" * 4, b"\x08\xff\x01", b"\x3a\x00"])
def test_fields_without_tensors_are_passed_over(tmp_path: Path, raw: bytes):
    (tmp_path / "model.onnx").write_bytes(
        raw + in_graph(GraphProto(initializer=[tensor()])).SerializeToString()
    )
    assert len(references(tmp_path / "model.onnx")) == 1


@pytest.mark.parametrize(("depth", "fits"), [(20, True), (24, False)])
def test_graphs_nest_only_so_deep(tmp_path: Path, depth: int, fits: bool):
    graph = GraphProto(initializer=[tensor()])
    for _ in range(depth):
        graph = GraphProto(node=[NodeProto(op_type="If", attribute=[AttributeProto(name="b", g=graph)])])
    (tmp_path / "model.onnx").write_bytes(in_graph(graph).SerializeToString())
    if fits:
        assert len(references(tmp_path / "model.onnx")) == 1
        return
    with pytest.raises(MalformedGraph, match="nested too deeply"):
        references(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("location", "address"),
    [
        ("*/_ORT_MEM_ADDR_/*", True),
        ("_ort_native_endian_mem_addr_", True),
        ("a*", True),
        ("weights.bin", False),
        ("mem_addr", False),
    ],
)
def test_an_address_in_memory_is_no_file(location: str, address: bool):
    assert is_address(location) == address

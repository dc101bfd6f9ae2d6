"""An artifact that is not whole, not ours or not inside its folder is refused, with what
is wrong and what to do."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from poolrt.runtime.artifact import onnx_references, reading
from poolrt.runtime.artifact.manifest import FILE, FORMAT, File, Manifest
from poolrt.runtime.artifact.records import from_plain
from poolrt.runtime.errors import ArtifactError


@pytest.fixture
def folder(artifacts, tmp_path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(artifacts("minilm_like"), tmp_path / "copy"))


def manifest_of(folder: Path) -> Manifest:
    return from_plain(Manifest, json.loads((folder / FILE).read_bytes()))


def seal(folder: Path, **changes: object) -> None:
    """Writes a changed manifest that is whole in itself, as somebody would who means harm."""
    (folder / FILE).write_bytes(reading.sealed(dataclasses.replace(manifest_of(folder), **changes)))


def entry(path: Path) -> File:
    return File(size=path.stat().st_size, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def refused(folder: Path, *parts: str, check: reading.Check = "full") -> None:
    with pytest.raises(ArtifactError) as error:
        reading.read(folder, check=check)
    for part in (*parts, str(folder)):
        assert part in str(error.value)


def test_a_whole_artifact_is_read(folder):
    opened = reading.read(folder)
    assert opened.manifest == manifest_of(folder)
    assert set(opened.manifest.files) == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - {FILE}


def test_a_graph_is_found_by_its_role_and_precision(folder):
    manifest = manifest_of(folder)
    exact = manifest.graph("text")
    lowered = dataclasses.replace(exact, file="model.bf16.onnx", precision="bf16")
    both = dataclasses.replace(manifest, graphs=(exact, lowered))
    assert both.graph("text") == both.graph("text", "fp32") == exact
    assert both.graph("text", "bf16") == lowered
    with pytest.raises(
        ArtifactError,
        match=r"no text graph in int8; it has text fp32 \(model\.onnx\), text bf16 " r"\(model\.bf16\.onnx\)",
    ):
        both.graph("text", "int8")
    with pytest.raises(ArtifactError, match="no text graph; it has none"):
        dataclasses.replace(manifest, graphs=()).graph("text")


def test_a_graph_without_a_role_is_one_of_text(folder):
    plain = json.loads((folder / FILE).read_bytes())
    assert "role" not in plain["graphs"][0]
    assert from_plain(Manifest, plain).graph("text").file == plain["graphs"][0]["file"]
    plain["graphs"][0]["role"] = "sound"
    with pytest.raises(ValueError, match="sound"):
        from_plain(Manifest, plain)


@pytest.mark.parametrize("position", [0.0, 0.3, 0.7, 1.0], ids=["first byte", "early", "late", "last byte"])
@pytest.mark.parametrize("bits", [0x01, 0xFF], ids=["one bit", "all bits"])
def test_a_flipped_byte_in_any_file_is_refused(folder, position, bits):
    for name in [FILE, *manifest_of(folder).files]:
        path = folder / name
        whole = path.read_bytes()
        place = round(position * (len(whole) - 1))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :])
        refused(folder, name)
        path.write_bytes(whole)
    reading.read(folder)


def test_every_byte_of_the_manifest_counts(folder):
    path = folder / FILE
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.choice(len(whole), 300, replace=False):
        path.write_bytes(
            whole[:place] + bytes([whole[place] ^ int(generator.integers(1, 256))]) + whole[place + 1 :]
        )
        with pytest.raises(ArtifactError):
            reading.read(folder)


def test_quick_still_sees_a_changed_size(folder):
    with (folder / "tokenizer.json").open("ab") as file:
        file.write(b" ")
    refused(folder, "tokenizer.json", "bytes, expected", check="quick")


def test_all_missing_and_changed_files_are_told_at_once(folder):
    names = list(manifest_of(folder).files)
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"")
    refused(folder, f"{names[0]}: missing", f"{names[1]}: 0 bytes", "export it again")


def test_a_newer_format_names_the_way_out(folder):
    plain = json.loads((folder / FILE).read_bytes())
    plain |= {"format": FORMAT + 1, "key_of_the_future": 1}
    (folder / FILE).write_text(json.dumps(plain))
    refused(folder, "newer poolrt", "upgrade", "export it again")


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"format": "1"}', b'{"format": true}', b"null"],
)
def test_a_manifest_that_is_none_is_refused(folder, text):
    (folder / FILE).write_bytes(text)
    refused(folder, FILE)


def test_unknown_missing_and_mistyped_keys_are_told_together(folder):
    plain = json.loads((folder / FILE).read_bytes())
    del plain["digest"], plain["architecture"]
    plain["surprise"] = 1
    plain["text"]["max_tokens"] = "many"
    text = (json.dumps(plain)[:-1] + ', "digest": "' + "0" * 64 + '"}').encode()
    (folder / FILE).write_bytes(text.replace(b"0" * 64, hashlib.sha256(text).hexdigest().encode()))
    refused(folder, "surprise: unknown key", "architecture: missing", "text.max_tokens: expected int")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.bin",
        "/etc/hostname",
        "a/../../outside.bin",
        "C:\\outside.bin",
        "..\\outside.bin",
        "./model.onnx",
        "",
        "a//b",
        "a\0b",
    ],
)
def test_a_path_that_leaves_the_folder_is_refused(folder, name):
    (folder.parent / "outside.bin").write_bytes(b"x")
    seal(
        folder,
        files={**manifest_of(folder).files, name: File(size=1, sha256=hashlib.sha256(b"x").hexdigest())},
    )
    refused(folder, "leaves the folder")


def graph_file(folder: Path) -> Path:
    return folder / manifest_of(folder).graph("text").file


@pytest.mark.parametrize("check", ["full", "quick"])
def test_a_symbolic_link_is_refused(folder, check):
    path = graph_file(folder)
    path.rename(folder.parent / "elsewhere.onnx")
    path.symlink_to(folder.parent / "elsewhere.onnx")
    refused(folder, "symbolic link", check=check)


def test_a_linked_folder_on_the_way_is_refused(folder):
    outside = folder.parent / "outside"
    outside.mkdir()
    (outside / "weights.bin").write_bytes(b"x")
    (folder / "inner").symlink_to(outside)
    seal(folder, files={**manifest_of(folder).files, "inner/weights.bin": entry(outside / "weights.bin")})
    refused(folder, "inner/weights.bin: reached through a symbolic link")


@pytest.mark.parametrize("check", ["full", "quick"])
def test_a_hard_link_of_a_graph_is_refused(folder, check):
    os.link(graph_file(folder), folder.parent / "second-name.onnx")
    refused(folder, "2 hard links", check=check)


def test_a_manifest_behind_a_link_is_refused(folder):
    (folder / FILE).rename(folder.parent / FILE)
    (folder / FILE).symlink_to(folder.parent / FILE)
    refused(folder, "symbolic link")


def test_a_folder_where_a_file_should_be_is_refused(folder):
    path = graph_file(folder)
    path.unlink()
    path.mkdir()
    refused(folder, "not a regular file")


def test_an_unfinished_export_is_named_as_such(folder):
    partial = folder.rename(folder.parent / ".copy.partial")
    refused(partial, "not finished", "export it again")


def test_a_checkpoint_is_told_from_an_artifact(checkpoints):
    refused(checkpoints("minilm_like"), "a checkpoint", "poolrt export")


def test_no_folder_is_said_plainly(tmp_path):
    refused(tmp_path / "nothing", "no such folder")
    (tmp_path / "file").write_bytes(b"")
    refused(tmp_path / "file", "not a folder")


def test_parts_of_the_manifest_must_agree(folder):
    found = manifest_of(folder)
    seal(
        folder,
        tasks=("embed", "classify"),
        heads={"embed": dataclasses.replace(found.heads["embed"], output="nowhere")},
        text=dataclasses.replace(found.text, pad_id=10**6, chat_template="chat.jinja"),
    )
    refused(
        folder,
        "none for task 'classify'",
        "no output 'nowhere'",
        "pad_id",
        "chat.jinja: used by the manifest but not listed",
    )


# External data


def external_model(path: Path, *locations: str, offset: int = 0, length: int | None = 16) -> None:
    """A graph of the artifact's outputs whose weights are said to lie at `locations`; the first on top,
    the others in an If branch."""

    def tensor(location: str, name: str) -> TensorProto:
        made = TensorProto(
            name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL
        )
        facts = {"location": location, "offset": str(offset)} | (
            {} if length is None else {"length": str(length)}
        )
        for key, value in facts.items():
            made.external_data.add(key=key, value=value)
        return made

    nodes = []
    for index, location in enumerate(locations[1:]):
        constant = helper.make_node("Constant", [], [f"inner{index}"])
        constant.attribute.append(helper.make_attribute("value", tensor(location, f"hidden{index}")))
        branch = helper.make_graph(
            [constant], "branch", [], [helper.make_tensor_value_info(f"inner{index}", TensorProto.FLOAT, [4])]
        )
        nodes.append(
            helper.make_node("If", ["condition"], [f"chosen{index}"], then_branch=branch, else_branch=branch)
        )
    initializers = [tensor(location, "weights") for location in locations[:1]]
    onnx.save_model(
        helper.make_model(helper.make_graph(nodes, "graph", [], [], initializers)),
        path,
        save_as_external_data=False,
    )


def with_graph(folder: Path, *locations: str, listed: tuple[str, ...] = (), **facts: int) -> None:
    path = graph_file(folder)
    path.unlink()
    path.write_bytes(b"")
    external_model(path, *locations, **facts)
    found = manifest_of(folder)
    graph = dataclasses.replace(found.graph("text"), external=listed)
    files = {**found.files, path.name: entry(path)} | {name: entry(folder / name) for name in listed}
    seal(folder, graphs=(graph,), files=files)


def test_listed_external_data_is_accepted(folder):
    (folder / "weights.bin").write_bytes(bytes(16))
    with_graph(folder, "weights.bin", listed=("weights.bin",))
    reading.read(folder)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("../weights.bin", "leaves the folder"),
        ("/etc/passwd", "leaves the folder"),
        ("sub/../../weights.bin", "leaves the folder"),
        ("..\\weights.bin", "leaves the folder"),
        ("", "leaves the folder"),
        ("tokenizer.json", "not listed for this graph"),
        ("*/_ORT_MEM_ADDR_/*", "an address in memory"),
        ("*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", "an address in memory"),
    ],
)
@pytest.mark.parametrize("inner", [False, True], ids=["initializer", "constant in a branch"])
def test_external_data_elsewhere_is_refused(folder, location, told, inner):
    (folder.parent / "weights.bin").write_bytes(bytes(16))
    (folder / "weights.bin").write_bytes(bytes(16))
    with_graph(folder, *(("weights.bin", location) if inner else (location,)), listed=("weights.bin",))
    refused(folder, told, check="quick")


@pytest.mark.parametrize(
    "location", ["*/_ORT_MEM_ADDR_/*", "*/_ORT_NATIVE_ENDIAN_MEM_ADDR_/*", "_ort_mem_addr_", "weights*"]
)
def test_an_address_is_refused_even_where_a_file_has_its_name(folder, location):
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    (folder / location).write_bytes(bytes(16))
    with_graph(folder, location, listed=(location,))
    refused(folder, "reads as an address in memory")


@pytest.mark.parametrize(
    "facts",
    [
        {"offset": 8, "length": 16},
        {"offset": -1, "length": 4},
        {"offset": 0, "length": -4},
        {"offset": 17, "length": None},
    ],
)
def test_external_data_beyond_its_file_is_refused(folder, facts):
    (folder / "weights.bin").write_bytes(bytes(16))
    with_graph(folder, "weights.bin", listed=("weights.bin",), **facts)
    refused(folder, "beyond the end of weights.bin")


def test_hard_linked_external_data_is_refused(folder):
    (folder.parent / "secret").write_bytes(bytes(16))
    os.link(folder.parent / "secret", folder / "weights.bin")
    with_graph(folder, "weights.bin", listed=("weights.bin",))
    refused(folder, "weights.bin: has 2 hard links")


def test_the_walk_finds_what_the_onnx_package_finds(tmp_path):
    external_model(tmp_path / "model.onnx", "one", "two", "three")
    found = {one.location for one in onnx_references.references(tmp_path / "model.onnx")}
    assert found == {"one", "two", "three"}


def test_what_is_no_graph_is_refused_and_never_crashes(tmp_path):
    external_model(tmp_path / "model.onnx", "one", "two")
    whole = (tmp_path / "model.onnx").read_bytes()
    generator = np.random.default_rng(0)
    broken = tmp_path / "broken.onnx"
    refusals = 0
    for _ in range(500):
        data = bytearray(whole[: generator.integers(1, len(whole) + 1)])
        data[generator.integers(len(data))] = generator.integers(256)
        broken.write_bytes(data)
        try:
            onnx_references.references(broken)
        except onnx_references.MalformedGraph:
            refusals += 1
    assert refusals > 100


def test_a_graph_nested_without_end_is_refused(tmp_path):
    data = b""
    for _ in range(2000):
        # graph.node.attribute.graph, each around the last
        for field in (6, 5, 1):
            data = bytes([field << 3 | 2]) + varint(len(data)) + data
    (tmp_path / "deep.onnx").write_bytes(bytes([7 << 3 | 2]) + varint(len(data)) + data)
    with pytest.raises(onnx_references.MalformedGraph, match="deeply"):
        onnx_references.references(tmp_path / "deep.onnx")


def varint(value: int) -> bytes:
    made = bytearray()
    while True:
        made.append(value & 0x7F | (0x80 if value > 0x7F else 0))
        value >>= 7
        if not value:
            return bytes(made)

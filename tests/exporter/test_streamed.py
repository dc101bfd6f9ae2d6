"""Models too large for memory take another way through the exporter; here small ones take
both, and answer the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.base import large
from poolrt.exporter.graph import onnx_files, streaming, tracing
from poolrt.exporter.heads import planning
from poolrt.exporter.proof import verify
from poolrt.exporter.proof.pictures.seen import Seen
from poolrt.exporter.proof.sliced_graph import SlicedGraph
from poolrt.runtime.artifact import reading
from poolrt.runtime.engines import ort
from poolrt.runtime.errors import VerificationError
from poolrt.runtime.inputs.media import prepared
from safetensors.torch import load_file, save_file

from tests import checkpoints as tiny
from tests.families import decoders, idefics, llava, nemotron_vl, phi3v
from tests.painted import painted

# fp32 against fp32, of the largest value: the same sums in another order; worst seen 4e-6 (Gemma,
# whose residuals are large)
SAME = 1e-5


@pytest.fixture(autouse=True)
def _everything_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(large.SETTING, "0")


def rounded(folder: Path) -> Path:
    """The checkpoint with bfloat16 weights, as large models are published."""
    path, older = folder / "model.safetensors", folder / "pytorch_model.bin"
    tensors = torch.load(older, weights_only=True) if older.exists() else load_file(path)
    older.unlink(missing_ok=True)
    save_file(
        {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )
    return folder


# Shards with a prefix; a table scaled by a constant that bf16 would round; layers of a head beside the
# model; a classifier's rows.
MANY: dict[str, Callable[[Path], Path]] = {
    "qwen3_embedding_prefixed": decoders.qwen3_embedding_prefixed,
    "embedding_gemma": lambda folder: rounded(decoders.embedding_gemma(folder)),
    "bge_gemma": lambda folder: rounded(decoders.bge_gemma(folder)),
    "gemma2_embedder": lambda folder: rounded(decoders.gemma2_embedder(folder)),
    "bge_m3": lambda folder: rounded(tiny.ALL["bge_m3"](folder)),
}
QUICK = ("qwen3_embedding_prefixed", "embedding_gemma")


def feed(plan: planning.Plan) -> dict[str, NDArray[np.int64]]:
    ids = np.random.default_rng(3).integers(5, plan.text.vocab_size, (3, 19))
    mask = np.ones((3, 19), np.int64)
    mask[1, 7:] = mask[2, 12:] = 0
    ids[mask == 0] = plan.text.pad_id
    known = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {name: known[name] for name in plan.inputs}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MANY]
)
def test_a_streamed_model_answers_as_one_that_is_held(name: str, tmp_path: Path) -> None:
    found = checkpoint.read(MANY[name](tmp_path / name), recipe=None)
    plan = planning.plan(found)
    given = feed(plan)
    with torch.inference_mode():
        expected = [
            array.numpy() for array in tracing.module(found, plan)(*map(torch.from_numpy, given.values()))
        ]

    module = tracing.module(dataclasses.replace(found, large=True), plan)
    assert torch.bfloat16 in {parameter.dtype for parameter in module.parameters()}, (
        "the weights were widened on loading"
    )
    with torch.inference_mode(), streaming.widened(module):
        by_layer = [array.numpy() for array in module(*map(torch.from_numpy, given.values()))]
    model = tracing.streamed_from_module(module, plan)
    held = [
        name
        for name, value in model.graph.initializers.items()
        if value.const_value is not None and value.const_value.size > 512
    ]
    assert held, "the graph has no weights"
    assert all(
        isinstance(model.graph.initializers[name].const_value, streaming.Weight) or "weight" not in name
        for name in held
    )
    digests = onnx_files.save(model, tmp_path / "model.onnx", apart=True)
    described = tracing.described(plan, "model.onnx", tuple(digests))

    names = [tensor.name for tensor in described.whole().outputs]
    whole: Any = ort.open(tmp_path, None, described)  # pyright: ignore[reportArgumentType]
    feeds = given | {
        tensor.name: np.zeros([size if isinstance(size, int) else 0 for size in tensor.axes], tensor.dtype)
        for tensor in described.inputs
        if tensor.name not in given
    }
    for answers in (by_layer, whole.run(feeds, names), SlicedGraph(tmp_path, described).run(feeds, names)):
        for one, other in zip(answers, expected, strict=True):
            mask = given["attention_mask"].astype(bool) if other.ndim == 3 else slice(None)
            np.testing.assert_allclose(
                one[mask], other[mask], atol=SAME * max(1.0, float(np.abs(other[mask]).max())), rtol=0
            )


PICTURED = {
    "llava_next": llava.llava_next_new,
    "idefics3": idefics.idefics3,
    "phi3_v": phi3v.phi3v_other,
    "nemotron_embed": nemotron_vl.embedder_other,
}


@pytest.mark.parametrize("name", PICTURED)
def test_a_streamed_vision_half_computes_as_one_that_is_held(name: str, tmp_path: Path) -> None:
    """Of bfloat16 weights, whose type transformers' towers ask for to choose that of the pixels."""
    read = checkpoint.read(PICTURED[name](tmp_path / name), recipe=None)
    plan = planning.plan(read)
    assert plan.vision is not None
    item = prepared.image(plan.vision.images, painted(60, 40, 3)).items[0]
    rows: list[NDArray[np.float32]] = []
    for state in (dataclasses.replace(read, large=True), read):
        pictures = tracing.picture_module(state, plan, tracing.module(state, plan))
        assert pictures is not None
        rows.append(Seen(pictures).of(item))
        narrow = torch.bfloat16 in {parameter.dtype for parameter in pictures.parameters()}
        assert narrow == state.large, "what streams keeps its type, before and after it computes"
    np.testing.assert_allclose(*rows, atol=SAME * max(1.0, float(np.abs(rows[1]).max())), rtol=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bf16 artifact without any engine, which only streamed models may be."""
    folder = tmp_path_factory.mktemp("streamed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(large.SETTING, "0")
        source = rounded(decoders.e5_mistral(folder / "e5"))
        return Path(pipeline.export(source, name="e5", out=folder / "artifacts", precision="bf16").path)


def test_a_large_artifact_is_proved_in_pieces_and_says_so(exported: Path) -> None:
    # Checks the digest that was taken while the weights were written
    manifest = reading.read(exported).manifest
    assert [(graph.precision, graph.external) for graph in manifest.graphs] == [
        ("fp32", ("model.bf16.data",)), ("bf16", ("model.bf16.data",)),
    ]  # fmt: skip
    assert {each.engine for each in manifest.evidence} == {
        "onnxruntime:model.onnx (in pieces)",
        "onnxruntime:model.bf16.onnx (in pieces, rounded to bf16)",
    }
    assert {each.task for each in manifest.evidence} == {"embed", "token_embed"}


def test_a_large_artifact_proves_itself_again_wherever_the_limit_lies(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pipeline.verified(exported).evidence
    monkeypatch.delenv(large.SETTING)  # now it counts as small, and is proved on the texts it was made with
    assert verify._read_golden(exported, reading.read(exported).manifest)[0]


def test_every_stored_weight_takes_part_in_the_proof(exported: Path, tmp_path: Path) -> None:
    manifest = reading.read(exported).manifest
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    matrices = [
        tensor
        for tensor in onnx.load(exported / "model.bf16.onnx", load_external_data=False).graph.initializer
        if tensor.external_data
    ]
    last = next(tensor for tensor in matrices if "layers.1.mlp.down_proj" in tensor.name)
    where = {entry.key: int(entry.value) for entry in last.external_data if entry.key != "location"}
    with (tmp_path / "model.bf16.data").open("r+b") as data:
        data.seek(where["offset"])
        data.write(bytes(where["length"]))
    evidence, _ = verify.against_golden(tmp_path, manifest)
    with pytest.raises(VerificationError):
        verify.enforce(evidence)


def test_weights_in_two_types_lose_nothing(tmp_path: Path) -> None:
    folder = decoders.e5_mistral(tmp_path / "two")
    path = folder / "model.safetensors"
    tensors = {
        name: tensor if tensor.dim() == 1 else tensor.to(torch.bfloat16)
        for name, tensor in load_file(path).items()
    }
    save_file(tensors, path, metadata={"format": "pt"})
    found = dataclasses.replace(checkpoint.read(folder, recipe=None), large=True)
    module = tracing.module(found, planning.plan(found))
    norm = dict(module.named_parameters())["backbone.model.norm.weight"]
    assert torch.equal(norm, tensors["norm.weight"])
    assert not torch.equal(norm, norm.to(torch.bfloat16).float()), "the fixture cannot tell"


def test_an_engine_is_added_without_copying_the_weights(exported: Path, tmp_path: Path) -> None:
    import shutil

    artifact_folder = Path(shutil.copytree(exported, tmp_path / "e5"))
    before = (artifact_folder / "model.bf16.data").stat().st_ino
    pipeline.build(artifact_folder, target=["tensorrt-rtx:sm89"])
    opened = reading.read(artifact_folder)
    assert [engine.precision for engine in opened.manifest.engines] == ["bf16"]
    assert (artifact_folder / "model.bf16.data").stat().st_ino == before

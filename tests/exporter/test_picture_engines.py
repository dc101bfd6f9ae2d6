"""Both graphs of every family of pictures compile with TensorRT-RTX, with the profiles of their buckets, and
answer nearly the same in fp16, bf16 and int8."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from poolrt.exporter import engine
from poolrt.exporter.engine import Target
from poolrt.exporter.graph import onnx_files, rewriting
from poolrt.exporter.profiles import profiles
from poolrt.exporter.proof import texts
from poolrt.exporter.proof.verify import Runner
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.artifact.manifest import Graph, Precision
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.loader import prepared_for

from tests.conftest import exported
from tests.families import (
    gemmas,
    idefics,
    llava,
    nemotron_vl,
    pages,
    phi3v,
    proof,
    qwen2_vl,
    qwen3_5,
    qwen3_vl,
    towers,
)
from tests.families.pictured import pictured
from tests.serve import picture_cases

TARGET = Target("tensorrt-rtx", "sm89")
TOKENS, PATCHES = 128, 128
"""Longest texts and largest pictures of the quick runs: the first two profiles."""
RECORDED = ("clip", "siglip", "qwen3_vl_embedding", "qwen3_vl_reranker", "colqwen3", "colpali")
"""Exported anyway, for the answers that vLLM gave."""
TILED: dict[str, Callable[[], Path]] = {
    "colmodernvbert": lambda: exported(
        "pages-colmodernvbert", lambda folder: pages.colmodernvbert(folder / "colmodernvbert")
    ),
    "llama_nemotron_vl": lambda: exported(
        "nemotron-vl-embedder", lambda folder: nemotron_vl.embedder(folder / "embedder")
    ),
    "llama_nemotron_vl_rerank": lambda: exported(
        "nemotron-vl-reranker", lambda folder: nemotron_vl.reranker(folder / "reranker")
    ),
    "llava_next": lambda: exported("llava-e5_v", lambda folder: llava.e5_v(folder / "e5_v")),
    "qwen2_5_vl": lambda: exported(
        "qwen2-vl-qwen2_5_vl",
        lambda folder: qwen2_vl.qwen2_vl(folder / "qwen2_5_vl", newer=True),
    ),
    "qwen2_vl": lambda: exported("qwen2-vl-qwen2_vl", lambda folder: qwen2_vl.qwen2_vl(folder / "qwen2_vl")),
    "jina_m0": lambda: exported("qwen2-vl-jina_m0", lambda folder: qwen2_vl.jina_m0(folder / "jina_m0")),
    "colqwen3_5": lambda: exported("colqwen3_5", lambda folder: qwen3_5.short(folder / "colqwen3_5")),
    "qwen3_5": lambda: exported(
        "converted-qwen3_5",
        lambda folder: qwen3_5.published(folder / "qwen3_5", text=qwen3_5.SHORT, vision={"depth": 1}),
        convert="embed",
    ),
    "phi3_v": lambda: exported("phi3v-vlm2vec", lambda folder: phi3v.vlm2vec(folder / "vlm2vec")),
    "gemma3": lambda: exported(
        "converted-gemma3", lambda folder: gemmas.gemma3(folder / "gemma3"), convert="embed"
    ),
    "siglip2": lambda: exported("naflex", lambda folder: towers.naflex(folder / "naflex")),
    "smolvlm": lambda: exported(
        "converted-smolvlm", lambda folder: idefics.smolvlm(folder / "smolvlm"), convert="embed"
    ),
    "idefics3": lambda: exported(
        "converted-idefics3", lambda folder: idefics.idefics3(folder / "idefics3"), convert="classify"
    ),
    "colidefics3": lambda: exported("pages-col_smol", lambda folder: idefics.col_smol(folder / "col_smol")),
    "paligemma": lambda: exported(
        "converted-paligemma", lambda folder: gemmas.paligemma(folder / "paligemma"), convert="classify"
    ),
    "paligemma2": lambda: exported(
        "converted-paligemma2", lambda folder: gemmas.paligemma2(folder / "paligemma2"), convert="embed"
    ),
    "colqwen2": lambda: exported(
        "qwen2-vl-colqwen2", lambda folder: qwen2_vl.LATE["colqwen2"](folder / "colqwen2")
    ),
    "colqwen2_5": lambda: exported(
        "qwen2-vl-colqwen2_5", lambda folder: qwen2_vl.LATE["colqwen2_5"](folder / "colqwen2_5")
    ),
}
"""Exported anyway, for the comparison with other libraries."""
RARE = ("ops_colqwen3", "nemotron_colembed")
"""Qwen3-VL's graphs with another head or mask, which no quick run exports: traced for this."""
QUICK = (
    "clip", "qwen3_vl_embedding", "colpali", "colmodernvbert", "llava_next", "qwen2_5_vl", "colqwen3_5",
    "phi3_v", "siglip2",
)  # fmt: skip
"""One of each kind of vision tower and of text model."""


@pytest.fixture(autouse=True)
def _compiler() -> None:
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed: pip install 'poolrt[tensorrt-rtx]'"
    )


def artifact(name: str) -> Path:
    if name in TILED:
        return TILED[name]()
    return picture_cases.artifact(name)


def opened(name: str, out: Path) -> tuple[Path, tuple[Graph, ...], int, Images]:
    """Where a family's graphs are, the graphs, its longest texts and its pictures."""
    if name in RARE:
        of = pictured(qwen3_vl.ALL[name](out / name), out)
        assert of.plan.vision is not None
        return out, of.graphs, of.plan.text.max_tokens, of.plan.vision.images
    folder = artifact(name)
    manifest = read(folder, check="quick").manifest
    assert manifest.images is not None
    proof.shown(manifest)
    return folder, manifest.graphs, manifest.text.max_tokens, manifest.images


def smaller(images: Images) -> Images:
    """The same preparation with few pixels."""
    if images.patches is None:
        return images
    pixels = PATCHES * images.patches.size**2
    videos = images.videos
    frames = 1 if videos is None or videos.per_frame else videos.min_frames
    return dataclasses.replace(
        images,
        patches=dataclasses.replace(images.patches, max_pixels=pixels),
        videos=videos and dataclasses.replace(videos, max_pixels=pixels * frames),
    )


def compiled(
    folder: Path, graphs: Sequence[Graph], out: Path, precision: Precision, max_tokens: int, images: Images
) -> dict[str, int]:
    """Compiles both graphs into `out`; returns the number of profiles of each."""
    counts = {}
    for graph in graphs:
        lowered, source, target = graph, folder / graph.file, out / f"{precision}-{graph.file}"
        if precision == "fp16" or precision == "bf16":
            assert rewriting.mixed_from_onnx(source, target, precision) > 0
            lowered = dataclasses.replace(graph, precision=precision, packed=False)
        else:
            target.write_bytes(source.read_bytes())
        lowered = dataclasses.replace(lowered, file=target.name)
        result = engine.engine_from_onnx(out, lowered, TARGET, max_tokens=max_tokens, images=images)
        assert (out / result.file).stat().st_size > 10_000
        proof.note(compiled=result.device, version=result.version)
        counts[graph.role] = len(result.profiles)
    return counts


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in (*RECORDED, *TILED, *RARE)
    ],
)
def test_both_graphs_of_a_family_compile(name: str, tmp_path: Path) -> None:
    folder, graphs, tokens, images = opened(name, tmp_path)
    images = smaller(images)
    # Engines of the families that are published in bf16 are bf16
    precision: Precision = "bf16" if name in ("qwen3_vl_embedding", "colqwen3_5", "colpali") else "fp32"
    counts = compiled(folder, graphs, tmp_path, precision, min(TOKENS, tokens), images)
    assert counts == {"text": 2, "vision": 1 if images.patches is None else 2}


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", [*RECORDED, *TILED, *RARE])
def test_every_profile_of_a_family_compiles_in_every_precision(
    name: str, precision: Precision, tmp_path: Path
) -> None:
    folder, graphs, tokens, images = opened(name, tmp_path)
    counts = compiled(folder, graphs, tmp_path, precision, tokens, images)
    assert counts["text"] == len(profiles(tokens))


SHAPES = ("one short", "odd batch", "other languages", "role query", texts.PICTURES, "two pictures")


@pytest.mark.slow
@pytest.mark.parametrize("precision", proof.LOWERED)
@pytest.mark.parametrize("name", [*RECORDED, *TILED, *RARE])
def test_lowered_graphs_answer_as_the_first(name: str, precision: Precision, tmp_path: Path) -> None:
    """Both graphs, on texts and on prompts with pictures. bf16 is computed in pieces."""
    folder = shutil.copytree(artifact(name), tmp_path / "artifact")
    manifest = read(folder, check="quick").manifest
    proof.shown(manifest)
    lowered = {graph.role: lower(folder, graph, precision) for graph in manifest.graphs}
    cases = texts.cases(manifest, prepared_for(folder, manifest))
    items = [item for shape in SHAPES for item in cases.get(shape, ())]
    assert any(item.vision for item in items)
    both = dataclasses.replace(manifest, graphs=tuple(lowered.values()))
    runners = [Runner(folder, manifest, manifest.graph("text")), Runner(folder, both, lowered["text"])]
    try:
        for task in manifest.tasks:
            exact, ours = (runner.answers(task, items) for runner in runners)
            proof.answers_lower(precision, ours, exact, scores="classify" in task)
    finally:
        for runner in runners:
            runner.close()


def lower(folder: Path, graph: Graph, precision: Precision) -> Graph:
    """The record of a graph's lowered form, which is written beside it."""
    path = folder / f"{graph.role}.{precision}.lowered.onnx"
    if precision == "int8":
        rewriting.int8_from_onnx(folder / graph.file, path)
    else:
        assert precision in ("fp16", "bf16")
        rewriting.mixed_from_onnx(folder / graph.file, path, precision)
    packed = graph.packed and precision == "int8"
    return dataclasses.replace(
        graph, file=path.name, precision=precision, packed=packed, external=onnx_files.beside(path)
    )

"""Both graphs of every family of pictures compile with TensorRT-RTX, with the profiles of their buckets."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from poolrt.exporter import engine
from poolrt.exporter.engine import Target
from poolrt.exporter.graph import rewriting
from poolrt.runtime.artifact.images import Images
from poolrt.runtime.artifact.manifest import Graph, Precision
from poolrt.runtime.artifact.reading import read

from tests.conftest import exported
from tests.families import (
    gemmas,
    llava,
    nemotron_vl,
    pages,
    phi3v,
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
    "jina_m0": lambda: exported("qwen2-vl-jina_m0", lambda folder: qwen2_vl.jina_m0(folder / "jina_m0")),
    "colqwen3_5": lambda: exported("colqwen3_5", lambda folder: qwen3_5.short(folder / "colqwen3_5")),
    "phi3_v": lambda: exported("phi3v-vlm2vec", lambda folder: phi3v.vlm2vec(folder / "vlm2vec")),
    "gemma3": lambda: exported(
        "converted-gemma3", lambda folder: gemmas.gemma3(folder / "gemma3"), convert="embed"
    ),
    "siglip2": lambda: exported("naflex", lambda folder: towers.naflex(folder / "naflex")),
}
"""Exported anyway, for the comparison with other libraries."""
RARE = ("ops_colqwen3", "nemotron_colembed")
"""Qwen3-VL's graphs with another head or mask, which no quick run exports: traced for this."""


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
        counts[graph.role] = len(result.profiles)
    return counts


@pytest.mark.parametrize(
    "name", [*RECORDED, *TILED, *(pytest.param(name, marks=pytest.mark.slow) for name in RARE)]
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
    assert counts["text"] == len(engine.profiles(tokens))

"""Every decoder family's graph becomes a TensorRT-RTX engine, a 16-bit graph and an int8 graph, and holds
nothing of a long text's size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.families import find
from tests.families.proof import COSINE, compiles_and_lowers, cosines, prove
from tests.goldens.record_decoders import WANTED

FAMILIES = [
    "qwen3_embedding", "gte_qwen2", "e5_mistral", "llama3_causal", "gemma2_embedder", "embedding_gemma",
    "bge_gemma", "nemotron_embed",
    "voyage", "gritlm", "internlm2_reward", "lfm2_colbert", "jina_v3", "jina_reranker",
    "qwen2_process_reward", "jina_v5_nano",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_compiles_and_lowers(name: str, tmp_path: Path):
    compiles_and_lowers(prove(find(name)(tmp_path / name), tmp_path / "out"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_reranker", "mxbai_rerank", "bge_gemma", "qwen2_apeach"])
def test_a_family_compiles_and_lowers_with_its_overrides(name: str, tmp_path: Path):
    overrides = WANTED[name][1] or None
    compiles_and_lowers(prove(find(name)(tmp_path / name), tmp_path / "out", hf_overrides=overrides))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen3_embedding", "e5_mistral", "embedding_gemma", "jina_v3"])
def test_places_for_32k_tokens_store_no_table(name: str, tmp_path: Path):
    """The same graph, and the same answers, whether a model has places for 1024 tokens or for 32768."""
    folder = find(name)(tmp_path / name)
    short = prove(folder, tmp_path / "short", hf_overrides={"max_position_embeddings": 1024})
    long = prove(folder, tmp_path / "long", hf_overrides={"max_position_embeddings": 32768})
    sizes = [(tmp_path / out / "model.onnx").stat().st_size for out in ("short", "long")]
    assert abs(sizes[1] - sizes[0]) < 1000
    largest = max(
        np.prod(tensor.dims) for tensor in onnx.load(tmp_path / "long" / "model.onnx").graph.initializer
    )
    assert largest <= 64 * 400  # the token table of these toys
    ids = [[5 + step % 50 for step in range(700)]]
    with_graph = long.raw("token_embed", ids)
    long.session = None
    assert cosines(with_graph, long.raw("token_embed", ids)).min() > COSINE
    assert short.plan.text.max_tokens <= 1024

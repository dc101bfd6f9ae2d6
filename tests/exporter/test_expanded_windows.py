"""ColBERT queries filled up beyond a sliding window with tokens that nobody attends to: some of their
rows have no key at all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from poolrt.exporter.graph import rewriting
from poolrt.exporter.graph.passes import blocks
from poolrt.exporter.graph.passes.signature import PassOptions
from poolrt.runtime.answers import scoring

from tests.checkpoints import _hf, configure
from tests.families import decoders, modernbert
from tests.families.colbert import MARKERS, pylate_files
from tests.families.proof import COSINE, cosines, opened, prove

FILLED = {"do_query_expansion": True, "attend_to_expansion_tokens": False, "query_length": 24}
TEXTS = ("a", "mars", "which planet is known as the red planet, and why is it known as the red planet?")
DOCUMENTS = ("mars, the red planet!", "a", "venus is known as a planet. " * 9)
SCORE = 1e-4  # a sum of 24 cosines, each to 1e-6


def modernbert_of(window: int, **more: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _hf(folder, "ModernBertModel", **modernbert.settings(folder, added=MARKERS))
        modernbert.as_published(folder)
        configure(folder, local_attention=window)
        return pylate_files(folder, **(FILLED | more))

    return write


def decoder(name: str, settings: Callable[..., dict[str, Any]], **more: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _hf(folder, name, **settings(folder, sliding_window=8, **more))
        return pylate_files(folder, **FILLED, query_prefix="", document_prefix="")

    return write


SLOW = pytest.mark.slow
CHECKPOINTS = [
    pytest.param(modernbert_of(12), id="modernbert, 12"),
    pytest.param(modernbert_of(4), id="modernbert, 4", marks=SLOW),
    pytest.param(modernbert_of(12, attend_to_expansion_tokens=True), id="modernbert, attended", marks=SLOW),
    pytest.param(decoder("MistralModel", decoders.llama), id="mistral"),
    pytest.param(
        decoder("Gemma3TextModel", decoders.gemma, use_bidirectional_attention=True), id="gemma3", marks=SLOW
    ),
    pytest.param(decoder("Gemma2Model", decoders.gemma, query_pre_attn_scalar=16), id="gemma2", marks=SLOW),
]


def encoded(library: Any, role: str) -> list[np.ndarray]:
    texts, encode = (TEXTS, library.encode_query) if role == "query" else (DOCUMENTS, library.encode_document)
    return [np.asarray(encode([text], convert_to_numpy=True, show_progress_bar=False)[0]) for text in texts]


@pytest.mark.parametrize("write", CHECKPOINTS)
def test_rows_without_a_key_are_the_librarys(
    write: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """All queries run as one batch, padded to the longest of them, and alone; in lower precision; and in
    blocks as if they were long."""
    from sentence_transformers import MultiVectorEncoder

    folder = write(tmp_path / "checkpoint")
    proved, library = prove(folder, tmp_path), MultiVectorEncoder(str(folder), device="cpu")
    queries, documents = encoded(library, "query"), encoded(library, "document")
    ours = proved.answers("token_embed", TEXTS, role="query")
    assert cosines(ours, queries).min() > COSINE
    assert (
        cosines([proved.answers("token_embed", [text], role="query")[0] for text in TEXTS], queries).min()
        > COSINE
    )
    found = proved.answers("token_embed", DOCUMENTS, role="document")
    for one, other in zip(ours, queries, strict=True):
        expected = [float((other @ document.T).max(1).sum()) for document in documents]
        np.testing.assert_allclose(scoring.maxsim(one, found), expected, atol=SCORE)
    rewriting.mixed_from_onnx(tmp_path / "model.onnx", tmp_path / "half.onnx", "fp16")
    rewriting.int8_from_onnx(tmp_path / "model.onnx", tmp_path / "int8.onnx")
    items = [proved.item(text, "query") for text in TEXTS]
    exact = [row["out_token_embed"] for row in proved.rows(items)]
    for name, number in (("LONG", 12), ("QUERIES", 8), ("NEAR_QUERIES", 5)):
        monkeypatch.setattr(blocks, name, number)
    model = ir.load(tmp_path / "model.onnx")
    assert blocks.run(model, PassOptions(attends_all=False, longest=10_000)).changes
    ir.save(model, tmp_path / "cut.onnx")
    for name, least in (("half", 0.999), ("int8", 0.9), ("cut", COSINE)):
        rows = proved.rows(items, opened(tmp_path / f"{name}.onnx"))
        assert cosines([row["out_token_embed"] for row in rows], exact, of=name).min() > least

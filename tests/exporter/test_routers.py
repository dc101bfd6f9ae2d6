"""Sentence Transformers' Router: inference-free SPLADE, whose queries are weights of their words, against
the library's own encode."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter import checkpoint, pipeline
from poolrt.exporter.base import artifact
from poolrt.exporter.proof import library_reference, verify
from poolrt.runtime import load
from poolrt.runtime.artifact.reading import read
from poolrt.runtime.errors import CheckpointError
from poolrt.runtime.inputs.items import STATIC

from tests.families import find
from tests.families.proof import prove

CLOSE = 2e-5  # of weights up to 3
QUERIES = (
    "the red planet!",
    "[MASK] the the mars [PAD]",
    "a",
    ("which planet is known as the red planet, and why, and by whom? ") * 12,
)
DOCUMENTS = ("mars, the red planet!", "a", "venus is known as a planet. " * 9)
VOCABULARY = 134


@pytest.fixture(scope="module")
def splade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = find("splade_bert")(tmp_path_factory.mktemp("splade") / "checkpoint")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    # The library takes the number of words for the largest id
    for index in set(range(VOCABULARY)) - set(words.values()):
        words[f"unused{index}"] = index
    path.write_text(json.dumps(content))
    return folder


def transformer(folder: Path) -> Any:
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(folder), transformer_task="fill-mask")


def static(tokenizer: Any, count: int = VOCABULARY) -> Any:
    from sentence_transformers.sparse_encoder.modules import SparseStaticEmbedding

    return SparseStaticEmbedding(
        tokenizer, torch.rand(count, generator=torch.Generator().manual_seed(0)) * 3, frozen=True
    )


def routed(
    folder: Path, splade: Path, *, behind: Sequence[Any] = (), settings: Any = None, **options: Any
) -> Any:
    """A SparseEncoder with a Router, saved to `folder`."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    model = transformer(splade)
    routes = {
        "query": [static(model.tokenizer)],
        "document": [model, SpladePooling("max", **(settings or {}))],
    }
    encoder = SparseEncoder(modules=[Router(routes, **options), *behind], device="cpu")
    encoder.save_pretrained(str(folder), create_model_card=False)
    return encoder.eval()


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def encoded(encode: Callable[..., Any], texts: Sequence[str]) -> np.ndarray:
    return np.stack(
        [encode([text], convert_to_sparse_tensor=False, show_progress_bar=False)[0].numpy() for text in texts]
    )


@pytest.fixture(scope="module")
def exported(splade: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    folder = tmp_path_factory.mktemp("routed")
    model = routed(folder / "written", splade, default_route="document")
    pipeline.export(str(folder / "written"), name="model", out=str(folder))
    return model, folder / "model"


# Torch's own, where the library multiplies sparse vectors
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support:UserWarning")
def test_queries_are_weights_and_documents_splade(exported: tuple[Any, Path]):
    model, place = exported
    with load(place) as opened:
        queries = np.asarray(opened.embed(list(QUERIES), role="query"))
        documents = np.asarray(opened.embed(list(DOCUMENTS), role="document"))
        np.testing.assert_allclose(queries, encoded(model.encode_query, QUERIES), atol=CLOSE)
        np.testing.assert_allclose(documents, encoded(model.encode_document, DOCUMENTS), atol=CLOSE)
        np.testing.assert_allclose(
            np.asarray(opened.embed(list(DOCUMENTS))), encoded(model.encode, DOCUMENTS), atol=CLOSE
        )
        expected = model.similarity(
            model.encode_query(QUERIES[0]), model.encode_document(list(DOCUMENTS))
        ).numpy()[0]
        scores = [answer.outputs.score for answer in opened.score(QUERIES[0], list(DOCUMENTS))]
        np.testing.assert_allclose(scores, expected, rtol=1e-4)
        ranked = opened.rerank(QUERIES[0], list(DOCUMENTS))
        assert [answer.index for answer in ranked] == np.argsort(-expected, kind="stable").tolist()


def test_a_query_is_the_same_beside_others(exported: tuple[Any, Path]):
    with load(exported[1]) as opened:
        together = np.asarray(opened.embed(list(QUERIES), role="query"))
        alone = np.concatenate([np.asarray(opened.embed([text], role="query")) for text in QUERIES])
    np.testing.assert_array_equal(together, alone)


def test_static_queries_prove_themselves_without_the_checkpoint(exported: tuple[Any, Path]):
    report = pipeline.verified(exported[1])
    assert {evidence.shape for evidence in report.evidence} == {"golden together", "golden alone"}


def test_artifacts_from_before_golden_inputs_had_kinds_prove_themselves(
    exported: tuple[Any, Path], tmp_path: Path
):
    folder = shutil.copytree(exported[1], tmp_path / "older")
    arrays = artifact.read_golden(folder)
    assert STATIC in arrays.pop("token_kinds")
    artifact.write_golden(folder, arrays)
    evidence, _ = verify.against_golden(folder, read(exported[1]).manifest)
    verify.enforce(evidence)


def test_the_librarys_own_answers_agree(splade: Path, tmp_path: Path):
    routed(tmp_path, splade)
    reading = library_reference.compare(tmp_path)
    assert reading.reference.endswith("SparseEncoder")
    assert {agreement.what for agreement in reading.agreements} >= {"token ids", "embed"}


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"default_route": "query"}, "query"), ({}, "query"), ({"default_route": "document"}, "document"),
        ({"allow_empty_key": False}, None),
    ],
    ids=str,
)  # fmt: skip
def test_a_text_without_a_role_takes_the_default_route(
    options: dict[str, Any], side: str | None, splade: Path, tmp_path: Path
):
    routed(tmp_path, splade, **options)
    read = checkpoint.read(tmp_path, recipe=None)
    assert read.sentence is not None
    assert read.sentence.static is not None
    assert (read.sentence.static.default, read.kind) == (side, "splade")


def test_weights_of_idf_json(splade: Path, tmp_path: Path):
    model = routed(tmp_path, splade)
    home = tmp_path / "query_0_SparseStaticEmbedding"
    words = model.tokenizer.get_vocab()
    weights = {word: 0.1 + index / 50 for word, index in words.items() if index % 5}
    (home / "model.safetensors").unlink()
    (home / "idf.json").write_text(json.dumps(weights))
    rewrite(home / "config.json", path=str(home / "idf.json"))
    from sentence_transformers import SparseEncoder

    expected = encoded(SparseEncoder(str(tmp_path), device="cpu").encode_query, QUERIES)
    proved = prove(tmp_path)
    assert proved.plan.inputs[-1] == "token_kinds"
    from poolrt.exporter.heads import static_words

    table = static_words.table(proved.checkpoint, home.name, VOCABULARY).numpy()
    np.testing.assert_allclose((expected > 0) * table[: expected.shape[1]], expected, atol=CLOSE)
    (home / "idf.json").unlink()
    with pytest.raises(CheckpointError, match="put that file into the checkpoint's folder"):
        prove(tmp_path)


def test_what_is_not_computed_is_refused_by_name(splade: Path, tmp_path: Path):
    from sentence_transformers.base.modules import Normalize

    routed(tmp_path / "normalised", splade, behind=[Normalize()])
    routed(tmp_path / "routed", splade)
    with pytest.raises(
        CheckpointError,
        match="SparseStaticEmbedding and documents through Transformer → SpladePooling, both then through",
    ):
        prove(tmp_path / "normalised")
    home = tmp_path / "routed/query_0_SparseStaticEmbedding"
    path = home / "tokenizer.json"
    good = path.read_text()
    path.write_text(
        good.replace('"lowercase": true', '"lowercase": false').replace(
            '"lowercase":true', '"lowercase":false'
        )
    )
    rewrite(home / "tokenizer_config.json", do_lower_case=False)
    with pytest.raises(
        CheckpointError, match="reads queries otherwise than the transformer's reads documents"
    ):
        prove(tmp_path / "routed")


def test_dense_routes_and_tables_are_refused_by_name(splade: Path, tmp_path: Path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling, StaticEmbedding
    from tokenizers import Tokenizer

    words = StaticEmbedding(Tokenizer.from_file(str(splade / "tokenizer.json")), embedding_dim=64)
    SentenceTransformer(modules=[words], device="cpu").save_pretrained(
        str(tmp_path / "words"), create_model_card=False
    )
    with pytest.raises(
        CheckpointError,
        match=r"StaticEmbedding \(it has a table of words in the place of " r"a transformer",
    ):
        checkpoint.read(tmp_path / "words", recipe=None)
    from sentence_transformers.base.modules import Transformer

    routes = {"query": [words], "document": [Transformer(str(splade)), Pooling(64, "mean")]}
    SentenceTransformer(modules=[Router(routes)], device="cpu").save_pretrained(
        str(tmp_path / "dense"), create_model_card=False
    )
    with pytest.raises(
        CheckpointError, match="queries through StaticEmbedding and documents through Transformer → Pooling"
    ):
        checkpoint.read(tmp_path / "dense", recipe=None)

"""vLLM's offline class: opened from checkpoints and artifacts, scoring as the server does,
with vLLM's names beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime import (
    LLM,
    ClassificationRequestOutput,
    EmbeddingRequestOutput,
    InputError,
    LoRARequest,
    PoolerConfig,
    PoolingParams,
    PoolingRequestOutput,
    ScoringRequestOutput,
    load,
)
from poolrt.runtime.artifact import checkpoints
from poolrt.runtime.errors import ArtifactError, CheckpointError
from poolrt.serve.cli import parse, settings_of
from poolrt.serve.process.exporting import artifact_of
from poolrt.serve.process.startup import models_of

from tests import adapters
from tests.conftest import exported
from tests.families import find
from tests.serve.conftest import live, serving

ROOT = Path(__file__).parents[2]
QUERY, DOCUMENTS = (
    "which planet is red ?",
    ["mars", "the capital of france is paris", "mars is known as the red planet venus sun moon"],
)
SAME = 1e-6


def in_process(program: Sequence[str]) -> tuple[int, str]:
    """Runs the exporter here, where torch is imported already."""
    from poolrt.exporter import cli

    return cli.export(program[program.index("export") + 1 :]), "see above"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(checkpoints.exported, "__kwdefaults__", {"cache": None, "run": in_process})
    monkeypatch.setattr(checkpoints.artifact_of, "__kwdefaults__", {"cache": None, "run": in_process})
    return tmp_path / "cache" / "poolrt" / "artifacts"


@pytest.fixture(scope="module")
def sparse_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return find("splade_bert")(tmp_path_factory.mktemp("splade"))


@pytest.fixture(scope="module")
def splade(sparse_checkpoint: Path) -> Path:
    return exported("splade_bert", lambda _: sparse_checkpoint)


# --- checkpoints
# ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_exported_once_as_serve_would(checkpoints: Callable[[str], Path], cache: Path):
    """The documents' snippet, from its import to its output; then the server finds the same artifact."""
    name = str(checkpoints("minilm_like"))
    llm = LLM(model=name, runner="pooling", trust_remote_code=True)
    (output,) = llm.embed("Hello, my name is", use_tqdm=False)
    import sentence_transformers

    expected = sentence_transformers.SentenceTransformer(name, device="cpu").encode("Hello, my name is")
    np.testing.assert_allclose(output.outputs.embedding, expected, atol=1e-5)
    (folder,) = cache.iterdir()
    assert llm.model.folder == folder
    assert artifact_of(name, parse([name])[0]) == folder
    assert LLM(name, task="embed", convert="auto").model.folder != folder, "--convert embed is another export"


def test_what_is_asked_of_a_checkpoint_reaches_its_export(checkpoints: Callable[[str], Path], cache: Path):
    asked: dict[str, Any] = {
        "hf_overrides": {"matryoshka_dimensions": [8]},
        "pooler_config": PoolerConfig(pooling_type="CLS"),
    }
    llm = LLM(
        str(checkpoints("minilm_like")), tokenizer=str(checkpoints("minilm_like")), dtype="half", **asked
    )
    assert llm.model.manifest.heads["embed"].pool == "cls"
    (output,) = llm.embed(["a cat"], pooling_params=PoolingParams(dimensions=8), use_tqdm=False)
    assert len(output.outputs.embedding) == 8
    adapter = adapters.adapted(checkpoints("minilm_like"), cache.parent / "adapter")
    llm = LLM(str(checkpoints("minilm_like")), enable_lora=True, **asked)
    request = LoRARequest("sports", 1, str(adapter))
    with_adapter = np.asarray(llm.embed(["a cat"], lora_request=request, use_tqdm=False))
    assert np.abs(with_adapter - np.asarray(llm.embed(["a cat"], use_tqdm=False))).max() > 0.01
    merged = next(
        folder
        for folder in cache.iterdir()
        if json.loads((folder / "manifest.json").read_text())["source"].get("adapter")
    )
    with load(merged) as model:
        np.testing.assert_allclose(with_adapter, np.asarray(model.embed(["a cat"])), atol=SAME)


def test_without_the_exporter_one_sentence_says_what_to_install(
    checkpoints: Callable[[str], Path], tmp_path: Path
):
    """In an interpreter that has no torch, and before anything is downloaded or written."""
    code = """
import sys
sys.path.insert(0, sys.argv[1]); import conftest
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx"):
            raise ModuleNotFoundError(name=name)
import importlib.util
known = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name in ("torch", "onnx") else known(name, package)
sys.meta_path.insert(0, Absent())
from poolrt.runtime import LLM, EngineError
for name in sys.argv[2:]:
    try:
        LLM(model=name, runner="pooling")
    except EngineError as error:
        print(error)
"""  # noqa: E501
    arguments = [sys.executable, "-c", code, str(ROOT), str(checkpoints("minilm_like")), "intfloat/e5-small"]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert second.startswith(
        "intfloat/e5-small is a checkpoint, and exporting it needs torch, onnx: pip install 'poolrt[export]'"
    )
    assert "pip install" in first
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("model", "keywords", "error", "told"),
    [
        ("./nowhere", {}, ArtifactError, "no such folder"),
        ("minilm_like", {"runner": "generate"}, InputError, "pooling tasks only"),
        ("minilm_like", {"quantization": "fp8"}, InputError, "precision='int8'"),
        ("minilm_like", {"tokenizer_revision": "v2"}, InputError, "those of one revision"),
        ("minilm_like", {"hf_overrides": "x"}, InputError, "expected a dict, found str"),
        ("minilm_like", {"pooler_config": 5}, InputError, "expected PoolerConfig or a dict"),
        ("minilm_like", {"chat_template": "nothing.jinja"}, InputError,
        "templates that come with poolrt: bge-reranker"),
        ("minilm_like", {"hf_overrides": {"matryoshka_dimensions": [9999]}}, CheckpointError,
        "exporting it failed"),
    ],
    ids=lambda value: str(value)[:24],
)  # fmt: skip
def test_a_checkpoint_that_cannot_be_opened_says_why(
    checkpoints: Callable[[str], Path],
    cache: Path,
    model: str,
    keywords: dict[str, Any],
    error: type[Exception],
    told: str,
):
    with pytest.raises(error, match=told):
        LLM(model if model.startswith(".") else str(checkpoints(model)), **keywords)
    assert not cache.exists() or not list(cache.iterdir())


# --- artifacts
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("minilm_like", {"convert": "embed"}),
        ("bert_classifier", {"convert": "classify"}),
        ("bert_cross_encoder", {"convert": "classify", "task": "score"}),
        ("bge_m3", {"hf_overrides": {"architectures": ["BgeM3EmbeddingModel"]}}),
        ("minilm_like", {"pooler_config": {"pooling_type": "MEAN", "use_activation": True}}),
        ("minilm_like", {"pooler_config": PoolerConfig(seq_pooling_type="MEAN")}),
        ("minilm_like", {"override_pooler_config": {"task": "embed"}}),
        ("bert_classifier", {"hf_overrides": {"model_type": "bert"}}),
    ],
)
def test_an_artifact_takes_what_it_already_is(
    artifacts: Callable[[str], Path], name: str, keywords: dict[str, Any]
):
    LLM(str(artifacts(name)), **keywords).model.close()


@pytest.mark.parametrize(
    ("name", "keywords", "told"),
    [
        ("minilm_like", {"convert": "classify"}, "--convert classify"),
        ("bert_classifier", {"convert": "embed"}, "--convert embed"),
        (
            "minilm_like",
            {"hf_overrides": {"architectures": ["XModel"], "is_matryoshka": True}},
            r"""--hf-overrides '\{"architectures""",
        ),
        (
            "minilm_like",
            {"pooler_config": PoolerConfig(pooling_type="LAST")},
            r"""--pooler-config '\{"pooling_type": "LAST"\}'""",
        ),
        (
            "minilm_like",
            {"hf_overrides": {"matryoshka_dimensions": [65]}},
            (r"\[65\], expected widths from 1 to " r"the model's 64"),
        ),
        ("minilm_like", {"hf_overrides": {"matryoshka_dimensions": []}}, "expected widths"),
        ("minilm_like", {"hf_overrides": {"is_matryoshka": "yes"}}, "expected true or false"),
        ("bert_classifier", {"hf_overrides": {"is_matryoshka": True}}, "no dense vectors"),
        ("minilm_like", {"revision": "v2"}, "revision='v2'"),
    ],
)
def test_an_artifact_refuses_what_another_export_would_be(
    artifacts: Callable[[str], Path], name: str, keywords: dict[str, Any], told: str
):
    with pytest.raises(InputError, match=told):
        LLM(str(artifacts(name)), **keywords)


@pytest.mark.parametrize(
    ("asked", "allowed", "refused"),
    [({"is_matryoshka": True}, 7, 65), ({"matryoshka_dimensions": [8, 32]}, 32, 7)],
)
def test_widths_are_enabled_on_a_finished_artifact(
    artifacts: Callable[[str], Path], asked: dict[str, Any], allowed: int, refused: int
):
    """In Python and over HTTP; a cut vector is the whole one's start, normalised again."""
    from poolrt.serve.cli import parse

    folder = str(artifacts("minilm_like"))
    llm = LLM(model=folder, hf_overrides=asked)
    whole = np.asarray(llm.embed("red planet", use_tqdm=False))[0, :allowed]
    (cut,) = llm.embed("red planet", pooling_params=PoolingParams(dimensions=allowed), use_tqdm=False)
    np.testing.assert_allclose(cut.outputs.embedding, whole / np.linalg.norm(whole), atol=SAME)
    assert llm.model_config.is_matryoshka
    with pytest.raises(InputError, match="dimensions"):
        llm.embed("red planet", pooling_params=PoolingParams(dimensions=refused), use_tqdm=False)
    flags, _ = parse([folder, "--hf-overrides", json.dumps(asked)])
    registry = models_of(flags, settings_of(flags)).registry
    registry.open()
    with serving(registry, settings_of(flags), owns_models=True) as server:
        got = server.ask("/v1/embeddings", {"input": "red planet", "dimensions": allowed})["data"][0][
            "embedding"
        ]
        np.testing.assert_allclose(got, cut.outputs.embedding, atol=SAME)
        server.refused("/v1/embeddings", {"input": "red planet", "dimensions": refused})


def test_a_script_s_import_line_changes_by_the_package_s_name_alone(artifacts: Callable[[str], Path]):
    snippet = """
from vllm import LLM, PoolingParams

llm = LLM(model="jinaai/jina-embeddings-v3", runner="pooling", trust_remote_code=True)
outputs = llm.embed(["Follow the white rabbit."], pooling_params=PoolingParams(use_activation=False))
print(outputs[0].outputs)
""".replace("vllm", "poolrt").replace("jinaai/jina-embeddings-v3", str(artifacts("minilm_like")))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import conftest\n{snippet}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"EmbeddingOutput\(\[-?\d\.\d{3}, -?\d\.\d{3}, \.\.\.\], dim=64\)\n", done.stdout)


def test_outputs_are_named_as_in_vllm(artifacts: Callable[[str], Path]):
    llm = LLM(str(artifacts("bert_cross_encoder")))
    assert isinstance(llm.classify("a", use_tqdm=False)[0], ClassificationRequestOutput)
    assert isinstance(llm.score("a", "b", use_tqdm=False)[0], ScoringRequestOutput)
    llm = LLM(str(artifacts("minilm_like")))
    (output,) = llm.embed("a", use_tqdm=False)
    assert isinstance(output, EmbeddingRequestOutput)
    assert output.outputs.hidden_size == 64
    assert isinstance(llm.encode("a", pooling_task="embed", use_tqdm=False)[0], PoolingRequestOutput)


# --- scores
# ------------------------------------------------------------------------------------------------------------


def scores(outputs: Any) -> np.ndarray:
    return np.asarray(outputs)


@pytest.mark.parametrize("name", ["colbert", "splade", "minilm_like", "bert_cross_encoder"])
def test_a_score_is_what_the_server_answers(artifacts: Callable[[str], Path], splade: Path, name: str):
    folder = splade if name == "splade" else artifacts(name)
    llm = LLM(str(folder))
    with live(llm.model) as server:
        answer = server.ask("/score", {"queries": QUERY, "documents": DOCUMENTS})["data"]
        ranked = server.ask("/rerank", {"query": QUERY, "documents": DOCUMENTS})["results"]
    found = scores(llm.score(QUERY, DOCUMENTS, use_tqdm=False))
    np.testing.assert_allclose([row["score"] for row in answer], found, atol=SAME)
    assert [row["index"] for row in ranked] == np.argsort(-found, kind="stable").tolist()
    with load(folder) as model:
        authors = scores(model.score(QUERY, DOCUMENTS))
        np.testing.assert_allclose(
            scores(model.score(QUERY, DOCUMENTS, preparation="vllm")), found, atol=SAME
        )
    np.testing.assert_allclose(
        scores(llm.score(QUERY, DOCUMENTS, use_tqdm=False, preparation="model")), authors, atol=SAME
    )
    np.testing.assert_allclose(
        scores(LLM(str(folder), preparation="model").score(QUERY, DOCUMENTS, use_tqdm=False)),
        authors,
        atol=SAME,
    )
    assert (np.abs(found - authors).max() > 0.1) == (name in ("colbert", "splade"))


def test_sparse_scores_are_the_library_s_dot_product_or_vllm_s_cosine(sparse_checkpoint: Path, splade: Path):
    from sentence_transformers import SparseEncoder

    model = SparseEncoder(str(sparse_checkpoint), device="cpu")
    vectors = model.encode(
        [QUERY, *DOCUMENTS], convert_to_sparse_tensor=False, show_progress_bar=False
    ).numpy()
    products = vectors[1:] @ vectors[0]
    norms = np.linalg.norm(vectors, axis=1)
    llm = LLM(str(splade))
    np.testing.assert_allclose(
        scores(llm.score(QUERY, DOCUMENTS, use_tqdm=False)), products / norms[0] / norms[1:], rtol=1e-5
    )
    np.testing.assert_allclose(
        scores(llm.score(QUERY, DOCUMENTS, use_tqdm=False, preparation="model")), products, rtol=1e-5
    )


def test_a_template_for_conversations_does_not_stop_an_embedder_from_scoring(
    artifacts: Callable[[str], Path],
):
    """vLLM applies score templates to cross-encoders only."""
    template = "examples/pooling/embed/template/nemotron_embed_vl.jinja"
    llm = LLM(str(artifacts("minilm_like")), chat_template=template)
    with load(artifacts("minilm_like")) as model:
        expected = scores(model.score(QUERY, DOCUMENTS))
    np.testing.assert_allclose(scores(llm.score(QUERY, DOCUMENTS, use_tqdm=False)), expected, atol=SAME)


def test_a_shipped_template_is_found_by_the_path_of_the_examples(artifacts: Callable[[str], Path]):
    path = "examples/pooling/score/template/nemotron-rerank.jinja"
    text = (ROOT / "recipes" / "templates" / "nemotron-rerank.jinja").read_text()
    llm = LLM(str(artifacts("bert_cross_encoder")), chat_template=path)
    plain = LLM(str(artifacts("bert_cross_encoder")))
    for asked in (text, path):
        expected = scores(plain.score("a", "b", chat_template=asked, use_tqdm=False))
        np.testing.assert_allclose(scores(llm.score("a", "b", use_tqdm=False)), expected, atol=SAME)
    assert abs(float(expected[0]) - float(scores(plain.score("a", "b", use_tqdm=False))[0])) > 1e-3

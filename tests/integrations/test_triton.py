"""Repositories that `poolrt triton` writes: configurations by Triton's schema, and models beside `load`."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.exporter.triton.command import triton
from poolrt.exporter.triton.repository import write
from poolrt.runtime import EngineError, InputError, PoolingParams, UnsupportedTask, load
from poolrt.runtime.artifact import reading
from poolrt.runtime.artifact.manifest import Engine, File, Profile

from tests.conftest import exported, prefixed_reranker
from tests.families import find
from tests.integrations import triton_schema
from tests.integrations.triton_server import (
    Request,
    Server,
    Tensor,
    TritonError,
    http_client,
    installed,
    texts,
)
from tests.runtime import picture_models

SAME = 1e-6  # the same float32 graph in the same library; batches of other widths differ in the last bits
WHOLE = 2e-5  # of a graph without its prefix, which sums in another order
TEXTS = ["a lion is a cat", "rain tomorrow", "dough rises because yeast makes gas, and gas needs room"]
QUERY = "why does bread grow?"
Artifacts = Callable[[str], Path]


def served(artifact: Path, folder: Path, monkeypatch: Any, **options: Any) -> Server:
    """A repository, and the stand-in for Triton with it."""
    write(artifact, folder / "repository", **options)
    return installed(Server(folder / "repository"), monkeypatch)


def asked(server: Server, name: str, *requests: Request) -> list[Any]:
    model = server.python_model(name)
    try:
        return server.execute(name, model, *requests)
    finally:
        model.finalize()


def test_an_embedder_gives_the_vectors_of_load(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(minilm, tmp_path, monkeypatch)
    name = "all-MiniLM-L6-v2"
    together, alone = asked(
        server, name, Request([texts("text", TEXTS)]), Request([texts("text", TEXTS[:1])])
    )
    with load(minilm) as model:
        expected = np.asarray(model.embed(TEXTS))
    np.testing.assert_allclose(together["embedding"], expected, atol=SAME)
    np.testing.assert_allclose(alone["embedding"], expected[:1], atol=SAME)
    assert all(config.HasField("dynamic_batching") for config in server.configs.values())


def test_a_reranker_scores_pairs_as_load_does(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts("bert_cross_encoder")
    server = served(artifact, tmp_path, monkeypatch)
    pair = [texts("query", [QUERY] * 3), texts("document", TEXTS)]
    (scores,) = asked(server, "bert_cross_encoder", Request(pair))
    with load(artifact) as model:
        expected = np.asarray(model.score(QUERY, TEXTS))
    np.testing.assert_allclose(scores["score"][:, 0], expected, atol=SAME)


def test_a_classifier_gives_the_scores_of_its_labels(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts("bert_classifier")
    server = served(artifact, tmp_path, monkeypatch)
    answer, raw = asked(
        server,
        "bert_classifier",
        Request([texts("text", TEXTS)]),
        Request([texts("text", TEXTS)], {"use_activation": False}),
    )
    with load(artifact) as model:
        expected, labels = np.asarray(model.classify(TEXTS)), model.manifest.heads["classify"].labels
        logits = np.asarray(model.classify(TEXTS, pooling_params=PoolingParams(use_activation=False)))
    np.testing.assert_allclose(answer["scores"], expected, atol=SAME)
    np.testing.assert_allclose(raw["scores"], logits, atol=SAME)
    assert np.abs(logits - expected).max() > 1e-3
    file = server.repository / "bert_classifier" / server.configs["bert_classifier"].output[0].label_filename
    assert tuple(file.read_text().splitlines()) == labels


@pytest.mark.parametrize("role", ["query", "document"])
def test_token_vectors_of_a_role_are_padded_and_counted(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Any
) -> None:
    artifact = artifacts("colbert")
    server = served(artifact, tmp_path, monkeypatch)
    (answer,) = asked(server, "colbert", Request([texts("text", TEXTS)], {"role": role}))
    with load(artifact) as model:
        expected = model.token_embed(TEXTS, role=role).arrays
    assert answer["tokens"][:, 0].tolist() == [len(rows) for rows in expected]
    for padded, rows in zip(answer["token_embeddings"], expected, strict=True):
        np.testing.assert_allclose(padded[: len(rows)], rows, atol=SAME)
        assert not padded[len(rows) :].any()


def test_several_tasks_become_several_models(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts("bge_m3")
    server = served(artifact, tmp_path, monkeypatch, tasks=["embed", "token_classify", "score"], name="m3")
    assert set(server.configs) == {"m3", "m3-token_classify", "m3-score", "m3-graph"}
    (weights,) = asked(server, "m3-token_classify", Request([texts("text", TEXTS)]))
    (scores,) = asked(server, "m3-score", Request([texts("query", TEXTS), texts("document", TEXTS)]))
    with load(artifact) as model:
        rows = model.token_classify(TEXTS).arrays
    for padded, row in zip(weights["token_scores"], rows, strict=True):
        np.testing.assert_allclose(padded[: len(row)], row, atol=SAME)
    np.testing.assert_allclose(scores["score"], 1, atol=1e-5)


def test_a_graph_with_prefixes_is_served_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = prefixed_reranker()
    server = served(artifact, tmp_path, monkeypatch)
    name = "prefixed-reranker"
    assert "past" not in {value.name for value in server.configs[f"{name}-graph"].input}
    pair = [texts("query", [QUERY] * 3), texts("document", TEXTS)]
    (answer,) = asked(server, name, Request(pair))
    with load(artifact) as model:
        np.testing.assert_allclose(answer["score"][:, 0], np.asarray(model.score(QUERY, TEXTS)), atol=WHOLE)


@pytest.mark.slow
def test_a_listwise_reranker_gets_a_query_and_all_its_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = exported("listwise", find("jina_reranker_v3"))
    server = served(artifact, tmp_path, monkeypatch)
    assert server.configs["listwise"].max_batch_size == 0
    query, documents = (np.array([text.encode() for text in side], object) for side in ([QUERY], TEXTS))
    (answer,) = asked(server, "listwise", Request([Tensor("query", query), Tensor("document", documents)]))
    with load(artifact) as model:
        np.testing.assert_allclose(answer["score"], np.asarray(model.score(QUERY, TEXTS)), atol=WHOLE)


def test_batches_keep_to_what_the_graph_takes_and_requests_fail_alone(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts("minilm_like")
    server = served(artifact, tmp_path, monkeypatch, max_batch_size=2)
    model = server.python_model("minilm_like")
    many = [Request([texts("text", [f"text {place}"])]) for place in range(7)]
    long = Request([texts("text", ["word " * 5000])], {"truncate": False})
    wrong = [
        long,
        Request([texts("text", TEXTS[:1])], {"rolle": "query"}),
        Request([texts("text", TEXTS[:1])], {"dimensions": "8"}),
        Request([Tensor("text", np.array([[b"\xff"]], object))]),
        Request([texts("text", TEXTS[:1])], cancelled=True),
    ]
    answers = server.execute(
        "minilm_like", model, *many, *wrong, Request([texts("text", TEXTS[:1])], {"x-id": "1"})
    )
    assert max(rows for rows, _ in server.batches) == 2
    assert not any(isinstance(answer, TritonError) for answer in (*answers[:7], answers[-1]))
    errors = [answer for answer in answers[7:-1] if isinstance(answer, TritonError)]
    assert [error.code() for error in errors] == [TritonError.INVALID_ARG] * 4 + [TritonError.CANCELLED]
    assert "did you mean 'role'" in errors[1].message()
    server.failing = True
    (answer,) = server.execute("minilm_like", model, Request([texts("text", ["another text"])]))
    assert isinstance(answer, TritonError)
    assert "the GPU is gone" in answer.message()
    assert answer.code() == TritonError.INTERNAL
    model.finalize()


def test_changed_files_of_a_repository_are_refused(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = served(artifacts("minilm_like"), tmp_path, monkeypatch)
    file = server.repository / "minilm_like" / "1" / "artifact" / "tokenizer.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(Exception, match=r"tokenizer\.json missing or changed; write the repository again"):
        server.python_model("minilm_like")


def client_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Client of a repository's program, whose requests the stand-in answers."""
    http_client(server, monkeypatch)
    spec = importlib.util.spec_from_file_location("triton_client", server.repository / "client.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "triton_client", module)  # where dataclass looks
    spec.loader.exec_module(module)
    return module.Client(server.repository)


@pytest.mark.parametrize("name", ["minilm_like", "bert_cross_encoder"])
def test_the_example_of_the_readme_runs(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server = served(artifacts(name), tmp_path, monkeypatch)
    http_client(server, monkeypatch)
    page = (server.repository / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    printed: list[Any] = []
    exec(example, {"print": printed.append})
    with load(artifacts(name)) as model:
        if name == "minilm_like":
            expected = np.asarray(model.embed(["a first text", "a second one"]))
        else:
            scores = model.score("why does dough rise?", ["yeast makes gas", "the sun rises"])
            expected = np.asarray(scores)[:, None]
    np.testing.assert_allclose(printed[0], expected, atol=SAME)


@pytest.mark.parametrize(
    ("name", "task", "role"),
    [
        ("minilm_like", "embed", None),
        ("bert_classifier", "classify", None),
        ("colbert", "token_embed", "query"),
        ("colbert", "token_embed", "document"),
        ("bge_m3", "token_classify", None),
    ],
)
def test_the_client_snippet_gives_the_numbers_of_load(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, task: Any, role: Any
) -> None:
    server = served(artifacts(name), tmp_path, monkeypatch, tokenizer="client")
    assert set(server.configs) == {name}
    client = client_of(server, monkeypatch)
    long = [*TEXTS, "bread " * 600]
    arrays = client.run(client.texts(long, role), task, role)
    with load(artifacts(name)) as model:
        expected = model.encode(long, pooling_task=task, role=role, truncate_prompt_tokens=-1).arrays
    for array, row in zip(arrays, expected, strict=True):
        np.testing.assert_allclose(array, row, atol=SAME)


def test_the_client_snippet_scores_pairs(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = artifacts("bert_cross_encoder")
    client = client_of(served(artifact, tmp_path, monkeypatch, tokenizer="client"), monkeypatch)
    scores = np.concatenate(client.run(client.pairs(QUERY, TEXTS), "classify"))
    with load(artifact) as model:
        np.testing.assert_allclose(scores, np.asarray(model.score(QUERY, TEXTS)), atol=SAME)
    with pytest.raises(ValueError, match="a pair has"):
        client.pairs(QUERY, ["bread " * 600])


def with_plan(artifact: Path, folder: Path, backend: Any) -> Path:
    """A copy of an artifact with a file in the place of a compiled plan."""
    copy = folder / "artifact"
    shutil.copytree(artifact, copy)
    manifest = reading.read(copy).manifest
    (copy / "engines").mkdir()
    (copy / "engines" / "text.engine").write_bytes(b"plan")
    digest = reading.sha256(copy / "engines" / "text.engine")
    plan = Engine(
        backend=backend, file="engines/text.engine", graph=manifest.graphs[0].file, device="sm89",
        version="10.9.0", precision="fp32",
        profiles=(
            Profile(smallest=(1, 1), best=(1, 64), largest=(1, 128)),
            Profile(smallest=(1, 1), best=(8, 64), largest=(32, 128)),
        ),
    )  # fmt: skip
    files = {**manifest.files, plan.file: File(size=4, sha256=digest)}
    (copy / "manifest.json").write_bytes(reading.sealed(replace(manifest, engines=(plan,), files=files)))
    return copy


def test_a_plan_is_served_with_all_its_profiles(
    artifacts: Artifacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = with_plan(artifacts("minilm_like"), tmp_path, "tensorrt")
    with pytest.raises(InputError, match="at most 32 rows"):
        write(artifact, tmp_path / "more", engine="tensorrt")
    server = served(artifact, tmp_path, monkeypatch, engine="tensorrt", max_batch_size=32)
    config = server.configs["minilm_like-graph"]
    assert (server.repository / config.name / "1" / "model.plan").read_bytes() == b"plan"
    assert config.backend == "tensorrt"
    assert list(config.instance_group[0].profile) == ["0", "1"]
    python = server.configs["minilm_like"]
    assert python.parameters["engine_file"].string_value == "engines/text.engine"
    assert "TensorRT 10.9.0 for sm89" in (server.repository / "README.md").read_text()


def test_what_triton_cannot_serve_is_refused(artifacts: Artifacts, tmp_path: Path) -> None:
    artifact, out = artifacts("minilm_like"), tmp_path / "repository"
    rtx = with_plan(artifact, tmp_path, "tensorrt-rtx")
    with pytest.raises(EngineError, match="not of tensorrt-rtx"):
        write(rtx, out, engine="tensorrt-rtx")
    with pytest.raises(EngineError, match="no graph or engine 'int8'"):
        write(artifact, out, engine="int8")
    with pytest.raises(UnsupportedTask, match="--task classify"):
        write(artifact, out, tasks=["classify"])
    with pytest.raises(InputError, match="names no model"):
        write(artifact, out, name="a/b")
    with pytest.raises(InputError, match=r"pairs are written by a template.*use --tokenizer python"):
        write(prefixed_reranker(), out, tokenizer="client")
    with pytest.raises(InputError, match="--task"):
        write(artifact, out, tokenizer="client", tasks=["embed"])
    assert not out.exists()
    out.mkdir()
    (out / "file").touch()
    with pytest.raises(InputError, match="exists already"):
        write(artifact, out)


def test_a_model_that_reads_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    artifact = picture_models.write(tmp_path / "artifacts")
    with pytest.raises(InputError, match=r"reads pictures.*poolrt serve"):
        write(artifact, tmp_path / "repository")


def test_the_command_says_what_it_wrote(
    artifacts: Artifacts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "repository"
    assert triton([str(artifacts("minilm_like")), "--out", str(out), "--cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"] == ["minilm_like", "minilm_like-graph"]
    assert triton([str(artifacts("minilm_like")), "--out", str(out)]) == 2
    page = (out / "README.md").read_text(encoding="utf-8")
    assert "tritonserver --model-repository" in page
    assert "--gpus" not in page
    config = triton_schema.parsed(out / "minilm_like-graph" / "config.pbtxt")
    assert triton_schema.KINDS[config.instance_group[0].kind] == "KIND_CPU"


def test_configurations_are_of_tritons_own_schema(artifacts: Artifacts, tmp_path: Path) -> None:
    """With tritonclient (`make clients`): its schema has every field that ours has, and reads every file."""
    pytest.importorskip("tritonclient", reason="tritonclient is not installed: make clients")
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    plan = with_plan(artifacts("bert_classifier"), tmp_path, "tensorrt")
    write(plan, tmp_path / "plan", engine="tensorrt", max_batch_size=8)
    write(artifacts("colbert"), tmp_path / "tokens", tasks=["token_embed", "score"], cpu=True)
    write(artifacts("bge_m3"), tmp_path / "graph", tokenizer="client")
    paths = list(tmp_path.glob("*/*/config.pbtxt"))
    assert len(paths) == 6
    for path in paths:
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        assert config.SerializeToString(deterministic=True) == triton_schema.parsed(path).SerializeToString(
            deterministic=True
        )
    for message, fields in triton_schema.FIELDS.items():
        theirs = model_config_pb2.DESCRIPTOR.message_types_by_name[message].fields_by_name
        assert {name: theirs[name].number for name in fields} == {
            name: number for name, (number, _, _) in fields.items()
        }
    types = model_config_pb2.DESCRIPTOR.enum_types_by_name["DataType"].values
    assert [value.name for value in types] == [f"TYPE_{name}" for name in triton_schema.TYPES]

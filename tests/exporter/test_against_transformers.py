"""Every family's exported graph against the classes of transformers and Sentence
Transformers, on the same token ids."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from numpy.typing import NDArray
from safetensors.torch import load_file

from tests.exporter import graphs
from tests.exporter.graphs import COSINE, DIFFERENCE, Artifact, torch_of
from tests.families import proof

Paths = Callable[[str], Path]
Opened = Callable[[str], Artifact]
POOLED = (
    "minilm_like", "bert_sharded", "bert_dense", "bert_cls", "bert_max", "bert_mean_sqrt_len",
    "bert_weightedmean", "bert_lasttoken",
    "roberta_embedder", "xlmr_embedder", "bge_m3",
)  # fmt: skip
SEQUENCES = (
    "bert_cross_encoder",
    "bert_classifier",
    "roberta_cross_encoder",
    "roberta_multi_label",
    "xlmr_reranker",
)
TOKENS = ("bert_tokens", "roberta_tokens", "xlmr_tokens")


def worst_cosine(found: NDArray[Any], expected: NDArray[Any], mask: NDArray[Any] | None = None) -> float:
    """Noted for docs/models.md."""
    worst = graphs.worst_cosine(found, expected, mask)
    proof.note(cosine=worst)
    return worst


def close(found: NDArray[Any], expected: NDArray[Any], shape: str) -> None:
    """Asserts that logits are the same."""
    proof.note(difference=float(np.abs(found - expected).max()))
    np.testing.assert_allclose(found, expected, atol=DIFFERENCE, rtol=0, err_msg=shape)


@pytest.fixture
def opened(artifacts: Paths, checkpoints: Paths) -> Opened:
    """`opened("minilm_like")`: that tiny checkpoint's artifact."""

    def find(name: str) -> Artifact:
        proof.read_from(checkpoints(name))
        return Artifact(artifacts(name))

    return find


def answer(model: Any, artifact: Artifact, batch: dict[str, Any]) -> Any:
    with torch.inference_mode():
        return model(**torch_of(artifact, batch))


@pytest.fixture(scope="module", autouse=True)
def silent_transformers() -> Any:
    """Its progress bars write to stderr, and its load reports warn of tensors these
    classes leave out on purpose."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


@pytest.mark.parametrize("name", POOLED)
def test_text_embeddings_are_those_of_sentence_transformers(name: str, opened: Opened, checkpoints: Paths):
    from sentence_transformers import SentenceTransformer

    artifact, model = (
        opened(name),
        SentenceTransformer(str(checkpoints(name)), device="cpu").eval(),
    )
    normalised = artifact.manifest["heads"]["embed"]["activation"] == "l2"
    for shape, batch in artifact.batches().items():
        with torch.inference_mode():
            expected = model(torch_of(artifact, batch))["sentence_embedding"].numpy()
        found = artifact.run("embed", batch)
        assert worst_cosine(found, expected) >= COSINE, shape
        if not normalised:  # then lengths matter too
            np.testing.assert_allclose(found, expected, atol=DIFFERENCE, rtol=DIFFERENCE, err_msg=shape)
        else:
            np.testing.assert_allclose(np.linalg.norm(expected, axis=-1), 1.0, atol=1e-5, err_msg=shape)


@pytest.mark.parametrize(
    "name", ["minilm_like", "bert_plain", "bert_vocab_txt", "roberta_embedder", "xlmr_embedder"]
)
def test_token_embeddings_are_the_last_hidden_states(name: str, opened: Opened, checkpoints: Paths):
    artifact = opened(name)
    model = transformers.AutoModel.from_pretrained(checkpoints(name), attn_implementation="eager").eval()
    for shape, batch in artifact.batches().items():
        expected = answer(model, artifact, batch).last_hidden_state.numpy()
        assert (
            worst_cosine(artifact.run("token_embed", batch), expected, batch["attention_mask"]) >= COSINE
        ), shape


@pytest.mark.parametrize("name", ["bert_plain", "bert_vocab_txt"])
def test_without_sentence_transformers_files_bert_embeds_its_first_token(
    name: str, opened: Opened, checkpoints: Paths
):
    artifact = opened(name)
    model = transformers.AutoModel.from_pretrained(checkpoints(name), attn_implementation="eager").eval()
    assert artifact.manifest["heads"]["embed"]["activation"] == "l2"
    for shape, batch in artifact.batches().items():
        expected = answer(model, artifact, batch).last_hidden_state[:, 0].numpy()
        assert worst_cosine(artifact.run("embed", batch), expected) >= COSINE, shape


@pytest.mark.parametrize("name", SEQUENCES)
def test_logits_are_those_of_the_sequence_classifier(name: str, opened: Opened, checkpoints: Paths):
    artifact = opened(name)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        checkpoints(name), attn_implementation="eager"
    ).eval()
    for shape, batch in artifact.batches().items():
        expected = answer(model, artifact, batch).logits.numpy()
        close(artifact.run("classify", batch), expected, shape)


@pytest.mark.parametrize("name", TOKENS)
def test_logits_are_those_of_the_token_classifier(name: str, opened: Opened, checkpoints: Paths):
    artifact = opened(name)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        checkpoints(name), attn_implementation="eager"
    ).eval()
    for shape, batch in artifact.batches().items():
        attended = batch["attention_mask"] == 1
        expected = answer(model, artifact, batch).logits.numpy()[attended]
        close(artifact.run("token_classify", batch)[attended], expected, shape)


def test_colbert_projects_every_hidden_state_of_bert(opened: Opened, checkpoints: Paths):
    artifact, folder = opened("colbert"), checkpoints("colbert")
    tensors = load_file(folder / "model.safetensors")
    model = transformers.BertModel(transformers.BertConfig.from_pretrained(folder))
    model.load_state_dict(
        {key.removeprefix("bert."): tensor for key, tensor in tensors.items() if key.startswith("bert.")}
    )
    for shape, batch in artifact.batches().items():
        expected = (
            answer(model.eval(), artifact, batch).last_hidden_state @ tensors["linear.weight"].T
        ).numpy()
        assert (
            worst_cosine(artifact.run("token_embed", batch), expected, batch["attention_mask"]) >= COSINE
        ), shape


def test_bge_m3_computes_its_three_heads_from_one_pass(opened: Opened, checkpoints: Paths):
    artifact, folder = opened("bge_m3"), checkpoints("bge_m3")
    model = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    sparse, colbert = (
        torch.load(folder / f"{name}_linear.pt", weights_only=True) for name in ("sparse", "colbert")
    )
    for shape, batch in artifact.batches().items():
        attended = batch["attention_mask"] == 1
        hidden = answer(model, artifact, batch).last_hidden_state
        weights = (hidden @ sparse["weight"].T + sparse["bias"]).numpy()[attended]
        vectors = (hidden @ colbert["weight"].T + colbert["bias"]).numpy()
        assert worst_cosine(artifact.run("embed", batch), hidden[:, 0].numpy()) >= COSINE, shape
        assert worst_cosine(artifact.run("token_embed", batch), vectors, batch["attention_mask"]) >= COSINE, (
            shape
        )
        close(artifact.run("token_classify", batch)[attended], weights, shape)


@pytest.mark.parametrize("name", ["minilm_like", "xlmr_reranker", "bge_m3"])
def test_a_row_does_not_depend_on_its_padding_or_its_neighbours(name: str, artifacts: Paths):
    artifact = Artifact(artifacts(name))
    batch = artifact.batches()["padded rows"]
    for task in artifact.manifest["tasks"]:
        together = artifact.run(task, batch)
        for row, length in enumerate(batch["attention_mask"].sum(1)):
            alone = artifact.run(task, {key: value[row : row + 1, :length] for key, value in batch.items()})[
                0
            ]
            shared = together[row][:length] if together.ndim == 3 else together[row]
            np.testing.assert_allclose(alone, shared, atol=DIFFERENCE, rtol=0, err_msg=task)

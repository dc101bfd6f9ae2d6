"""Folders written by Sentence Transformers itself are read like the hand-made ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.exporter import checkpoint
from poolrt.exporter.files import sentence_files
from poolrt.exporter.heads import planning

Paths = Callable[[str], Path]


@pytest.mark.parametrize(
    "name", ["minilm_like", "bert_dense", "bert_mean_sqrt_len", "bert_weightedmean", "xlmr_embedder"]
)
def test_what_the_library_saves_again_gives_the_same_heads(name: str, checkpoints: Paths, tmp_path: Path):
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(str(checkpoints(name)), device="cpu").save(str(tmp_path), create_model_card=False)
    made, expected = (
        planning.plan(checkpoint.read(tmp_path)),
        planning.plan(checkpoint.read(checkpoints(name))),
    )
    assert made.heads == expected.heads
    assert made.text.max_tokens == expected.text.max_tokens
    assert {key: text for key, text in made.text.prompts.items() if text} == {
        k: text for k, text in expected.text.prompts.items() if text
    }
    files = sentence_files.read(tmp_path)
    assert files is not None
    assert files.generation == 6


@pytest.mark.parametrize("name", ["bert_cross_encoder", "xlmr_reranker", "bert_classifier"])
def test_a_cross_encoder_the_library_saves_keeps_its_activation(
    name: str, checkpoints: Paths, tmp_path: Path
):
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(checkpoints(name)), device="cpu")
    model.save_pretrained(str(tmp_path), create_model_card=False)
    made, expected = (
        planning.plan(checkpoint.read(tmp_path)),
        planning.plan(checkpoint.read(checkpoints(name))),
    )
    assert made.tasks == expected.tasks
    assert made.heads == expected.heads


def test_several_poolings_are_concatenated_in_the_librarys_order(checkpoints: Paths, tmp_path: Path):
    import shutil

    import numpy as np
    import torch
    from poolrt.exporter.graph import tracing
    from sentence_transformers import SentenceTransformer

    from tests.checkpoints import HIDDEN, sentence_transformers_files

    folder = Path(shutil.copytree(checkpoints("minilm_like"), tmp_path / "several"))
    sentence_transformers_files(folder, pooling="mean", generation=2, normalize=False)
    path = folder / "1_Pooling/config.json"
    path.write_text(
        path.read_text().replace('"pooling_mode_cls_token": false', '"pooling_mode_cls_token": true')
    )
    read = checkpoint.read(folder)
    plan = planning.plan(read)
    assert plan.heads["embed"].dim == 2 * HIDDEN
    ids, mask = torch.randint(9, 100, (2, 7)), torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    found = tracing.module(read, plan)(ids, mask, torch.zeros_like(ids))[0]
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    expected = SentenceTransformer(str(folder), device="cpu").eval()(features)["sentence_embedding"]
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)


@pytest.fixture
def copy(checkpoints: Paths, tmp_path: Path) -> Paths:
    """A tiny checkpoint that the test may change."""
    import shutil

    return lambda name: Path(shutil.copytree(checkpoints(name), tmp_path / name))


def compared(folder: Path, atol: float = 1e-5) -> None:
    """The graph's first output is the vector of the folder's own library, for padded rows too."""
    import numpy as np
    import torch
    from poolrt.exporter.graph import tracing
    from sentence_transformers import SentenceTransformer

    read = checkpoint.read(folder)
    plan = planning.plan(read)
    ids, mask = (
        torch.randint(9, 100, (2, 7), generator=torch.Generator().manual_seed(0)),
        torch.tensor([[1] * 7, [1] * 4 + [0] * 3]),
    )
    found = tracing.module(read, plan)(ids, mask, torch.zeros_like(ids))[0]
    features = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    expected = (
        SentenceTransformer(str(folder), device="cpu").eval()(features)["sentence_embedding"].detach().numpy()
    )
    assert plan.heads["embed"].dim == expected.shape[-1]
    if plan.heads["embed"].activation == "l2":  # the runtime's part
        found = torch.nn.functional.normalize(found, dim=-1)
    np.testing.assert_allclose(found.numpy(), expected, atol=atol)


FLAGS = {
    "cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens", "lasttoken": "lasttoken",
}  # fmt: skip


@pytest.mark.parametrize("written", [list(FLAGS), list(reversed(FLAGS))], ids=["as the library", "reversed"])
def test_flags_of_several_poolings_have_the_librarys_order(copy: Paths, written: list[str]):
    folder = copy("minilm_like")
    config = {"word_embedding_dimension": 64} | {f"pooling_mode_{FLAGS[mode]}": True for mode in written}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    compared(folder)


@pytest.mark.parametrize(
    "modes", [["lasttoken", "cls"], ["mean", "max", "cls"], ["weightedmean", "mean_sqrt_len_tokens"]], ids=str
)
def test_a_list_of_poolings_has_its_own_order(copy: Paths, modes: list[str]):
    folder = copy("minilm_like")
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"embedding_dimension": 64, "pooling_mode": modes})
    )
    compared(folder)


@pytest.mark.parametrize("flags", [{}, {"pooling_mode_cls_token": False}], ids=["nothing", "none true"])
def test_no_pooling_named_is_the_librarys_default(copy: Paths, flags: dict[str, bool]):
    folder = copy("minilm_like")
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 64, **flags}))
    compared(folder)
    files = sentence_files.read(folder)
    assert files is not None
    assert sentence_files.pools(files.chain[1]) == ("mean",)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": None},  # taken out
        {"activation_function": "torch.nn.modules.linear.Identity"},
        {"activation_function": "torch.nn.modules.activation.ReLU"},
        {"activation_function": "torch.nn.modules.activation.GELU"},
        {"activation_function": "torch.nn.modules.activation.Sigmoid"},
        {"activation_function": "torch.nn.modules.activation.SiLU"},
        {"activation_function": "torch.nn.modules.activation.Tanh"},
    ],
    ids=str,
)  # fmt: skip
def test_a_dense_layer_has_the_librarys_activation(copy: Paths, changes: dict[str, str | None]):
    folder = copy("bert_dense")
    path = folder / "3_Dense/config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    compared(folder)


def test_a_dense_layer_may_add_what_it_is_given(copy: Paths):
    import torch
    from safetensors.torch import load_file, save_file

    folder = copy("bert_dense")
    path = folder / "3_Dense/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"use_residual": True}))
    tensors = load_file(folder / "3_Dense/model.safetensors")
    crossing = torch.randn(16, 24, generator=torch.Generator().manual_seed(1))
    save_file({**tensors, "residual.weight": crossing}, folder / "3_Dense/model.safetensors")
    compared(folder)

"""Pooling and activations inside a graph are Sentence Transformers' and torch's,
for every shape of padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter.heads.head_modules import ACTIVATIONS, POOLS, Tokens
from sentence_transformers.sentence_transformer.modules import Pooling
from sentence_transformers.sparse_encoder.modules import SpladePooling

DIM = 6
MODES: dict[str, Any] = {
    "cls": "cls", "mean": "mean", "max": "max", "mean_sqrt_len": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean",
    "last": "lasttoken",
}  # fmt: skip
MASKS = {
    "full": [[1] * 5] * 2,
    "right": [[1] * 5, [1, 1, 0, 0, 0]],
    "one": [[1, 0, 0, 0, 0], [1] * 5],
    "single": [[1], [1]],
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize("pool", MODES)
def test_a_pooling_is_sentence_transformers(pool: str, mask: list[list[int]]):
    attention = torch.tensor(mask)
    hidden = (
        torch.randn(*attention.shape, DIM, generator=torch.Generator().manual_seed(0)) - 1.5
    )  # mostly negative: a max is no padding's 0
    theirs = Pooling(DIM, pooling_mode=MODES[pool])(
        {"token_embeddings": hidden, "attention_mask": attention}
    )["sentence_embedding"]
    found = POOLS[pool](hidden, Tokens(attention, attention))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.numpy(), theirs.numpy(), atol=1e-6)
    noisy = torch.where(attention[..., None] > 0, hidden, torch.tensor(1e3))
    np.testing.assert_array_equal(POOLS[pool](noisy, Tokens(attention, attention)).numpy(), found.numpy())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("mask", MASKS.values(), ids=list(MASKS))
@pytest.mark.parametrize(("pool", "strategy"), [("splade", "max"), ("splade_sum", "sum")])
def test_a_splade_pooling_is_sentence_transformers(pool: str, strategy: str, mask: list[list[int]]):
    attention = torch.tensor(mask)
    logits = 2 * torch.randn(*attention.shape, DIM, generator=torch.Generator().manual_seed(1))
    features = {"token_embeddings": logits, "attention_mask": attention}
    theirs = SpladePooling(pooling_strategy=strategy)(features)["sentence_embedding"]  # pyright: ignore[reportArgumentType]
    found = POOLS[pool](logits, Tokens(attention, attention))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose(found.numpy(), theirs.numpy(), atol=1e-6)


def test_the_last_token_is_found_on_either_side_of_the_padding():
    hidden = torch.arange(20.0).reshape(2, 5, 2)
    left = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 1]])
    np.testing.assert_array_equal(POOLS["last"](hidden, Tokens(left, left)).numpy(), hidden[:, 4].numpy())
    np.testing.assert_array_equal(
        POOLS["last"](hidden, Tokens(left.flip(1), left.flip(1))).numpy(),
        torch.stack([hidden[0, 2], hidden[1, 0]]).numpy(),
    )


def test_token_pooling_changes_nothing():
    hidden, mask = torch.randn(2, 3, 4), torch.ones(2, 3, dtype=torch.long)
    assert POOLS["tokens"](hidden, Tokens(mask, mask)) is hidden
    assert POOLS["step"](hidden, Tokens(mask, mask)) is hidden


def test_activations_are_torchs():
    values = torch.linspace(-4, 4, 33)
    expected = {
        "tanh": torch.nn.Tanh(), "relu": torch.nn.ReLU(), "gelu": torch.nn.GELU(), "silu": torch.nn.SiLU(),
        "sigmoid": torch.nn.Sigmoid(),
        "identity": torch.nn.Identity(),
        "log1p_relu": lambda value: torch.log(1 + torch.nn.functional.relu(value)),
    }  # fmt: skip
    assert set(expected) <= set(ACTIVATIONS)
    for name, theirs in expected.items():
        np.testing.assert_allclose(ACTIVATIONS[name](values).numpy(), theirs(values).numpy(), atol=1e-6)

"""What becomes of a graph's rows: dropped, kept, cut, calibrated, activated, in this
order, as torch computes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.runtime.answers import postprocess
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.artifact.manifest import Head, Manifest, Source, TextPreparation
from poolrt.runtime.errors import EngineError, InputError
from poolrt.runtime.inputs import chunks
from poolrt.runtime.inputs.items import Item, TokenLimits
from poolrt.runtime.outputs import (
    ClassificationOutput,
    EmbeddingOutput,
    Outputs,
    PoolingOutput,
    Ranked,
    Ranking,
    RequestOutput,
    ScoringOutput,
)

RNG = np.random.default_rng(0)
PLAIN = PoolingParams()
EMBED = Head(output="out_embed", dim=8, pool="mean", activation="l2")
TOKENS = Head(output="out", dim=3, pool="tokens", activation="identity")


def rows(count: int, *shape: int) -> list[Any]:
    return [RNG.standard_normal(shape).astype(np.float32) for _ in range(count)]


def one(
    head: Head,
    row: Any,
    ids: list[int],
    task: Any = "token_embed",
    params: PoolingParams = PLAIN,
    keep: Any = None,
) -> Any:
    return postprocess.answers(task, head, [row], [Item(ids=ids, keep=keep)], [params])[0]


# --- token rows
# ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "ids", "left"),
    [
        ({}, [5, 6, 7], [0, 1, 2]),
        ({"drop_first": 1}, [5, 6, 7], [1, 2]),
        ({"drop_last": 1}, [5, 6, 7], [0, 1]),
        ({"drop_first": 1, "drop_last": 2}, [5, 6, 7, 8], [1]),
        ({"drop_first": 1, "drop_last": 1}, [5], []),
        ({"drop_first": 1, "drop_first_id": 5}, [5, 6], [1]),
        ({"drop_first": 1, "drop_first_id": 4}, [5, 6], [0, 1]),
        ({"drop_last": 1, "drop_last_id": 6}, [5, 6], [0]),
        ({"drop_last": 1, "drop_last_id": 4}, [5, 6], [0, 1]),
        ({"drop_first": 1, "drop_last": 1, "drop_first_id": 5, "drop_last_id": 5}, [5, 6, 6], [1, 2]),
    ],
    ids=str,
)  # fmt: skip
def test_rows_at_the_ends_are_dropped_where_they_are_what_is_dropped(
    facts: dict[str, int], ids: list[int], left: list[int]
):
    (row,) = rows(1, len(ids), 3)
    np.testing.assert_array_equal(one(replace(TOKENS, **facts), row, ids), row[left])


def test_rows_that_are_not_kept_are_dropped_besides():
    (row,) = rows(1, 5, 3)
    keep = np.array([True, True, False, True, True])
    np.testing.assert_array_equal(
        one(replace(TOKENS, drop_first=1), row, [1, 2, 3, 4, 5], keep=keep), row[[1, 3, 4]]
    )
    assert keep.all() == False  # noqa: E712  (the item's own mask is left alone)
    assert keep[0]


def test_marked_rows_come_in_the_order_of_their_marks():
    (row,) = rows(1, 6, 3)
    head = replace(TOKENS, keep_ids=(9, 8))
    np.testing.assert_array_equal(one(head, row, [8, 1, 9, 2, 9, 8]), row[[2, 4, 0, 5]])


def test_steps_are_rows_of_a_tag_and_columns_of_a_choice():
    (row,) = rows(1, 4, 3)
    head = replace(TOKENS, pool="step", step_tag_id=7, returned_token_ids=(2, 0))
    ids = [7, 1, 7, 2]
    np.testing.assert_array_equal(one(head, row, ids), row[[0, 2]][:, [2, 0]])
    other = PoolingParams(step_tag_id=2, returned_token_ids=[1])
    np.testing.assert_array_equal(one(head, row, ids, params=other), row[[3]][:, [1]])
    bare = replace(TOKENS, pool="step")
    np.testing.assert_array_equal(one(bare, row, ids), row)


def test_a_flat_head_of_width_one_answers_numbers():
    (row,) = rows(1, 4, 1)
    head = replace(TOKENS, dim=1, flat=True, activation="relu", drop_first=1)
    np.testing.assert_array_equal(one(head, row, [1, 2, 3, 4], "token_classify"), np.maximum(row[1:, 0], 0))
    assert one(replace(head, flat=False), row, [1, 2, 3, 4], "token_classify").shape == (3, 1)
    assert one(head, row, [1, 2, 3, 4], "token_embed").shape == (3, 1)


# --- width, calibration, activation
# -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("dimensions", [None, 1, 5, 8])
@pytest.mark.parametrize("normed", [False, True])
def test_a_vector_is_normed_cut_and_scaled_to_length_one(count: int, dimensions: int | None, normed: bool):
    head, params, given = (
        replace(EMBED, norm_before_cut=normed),
        PoolingParams(dimensions=dimensions),
        rows(count, 8),
    )
    found = postprocess.answers("embed", head, given, [Item(ids=[1])] * count, [params] * count)
    for vector, row in zip(found, given, strict=True):
        theirs = torch.tensor(row)
        if dimensions is not None:
            # nomic-embed-text-v1.5's card: layer_norm, then the cut, then normalize.
            theirs = (torch.nn.functional.layer_norm(theirs, (8,)) if normed else theirs)[:dimensions]
        np.testing.assert_allclose(vector, torch.nn.functional.normalize(theirs, dim=-1).numpy(), atol=1e-6)
        assert vector.dtype == np.float32


def test_a_heads_own_width_counts_unless_another_is_asked_for():
    (row,) = rows(1, 8)
    head = replace(EMBED, dimensions=3, activation="identity")
    np.testing.assert_array_equal(one(head, row, [1], "embed"), row[:3])
    np.testing.assert_array_equal(one(head, row, [1], "embed", PoolingParams(dimensions=5)), row[:5])


@pytest.mark.parametrize(
    ("task", "activation", "asked", "flag", "used"),
    [
        ("embed", "l2", None, None, "l2"), ("embed", "l2", None, True, "l2"),
        ("embed", "l2", None, False, "identity"),
        ("embed", "identity", None, None, "identity"), ("embed", "identity", None, True, "l2"),
        ("token_embed", "identity", None, True, "l2"), ("classify", "identity", None, True, "identity"),
        ("classify", "identity", "sigmoid", True, "sigmoid"),
        ("classify", "identity", "sigmoid", None, "identity"),
        ("classify", "identity", "sigmoid", False, "identity"),
        ("classify", "softmax", None, None, "softmax"),
        ("classify", "softmax", None, False, "identity"), ("token_classify", "tanh", None, None, "tanh"),
    ],
)  # fmt: skip
def test_a_request_may_switch_the_activation(
    task: Any, activation: Any, asked: Any, flag: bool | None, used: str
):
    head = Head(output="out", dim=4, pool="tokens", activation=activation, asked_activation=asked)
    (row,) = rows(1, 4) if task in ("embed", "classify") else rows(1, 2, 4)
    tensor = torch.tensor(row)
    expected = {
        "identity": tensor, "l2": torch.nn.functional.normalize(tensor, dim=-1), "sigmoid": tensor.sigmoid(),
        "softmax": tensor.softmax(-1), "tanh": tensor.tanh(),
    }[used]  # fmt: skip
    np.testing.assert_allclose(
        one(head, row, [1, 2], task, PoolingParams(use_activation=flag)), expected.numpy(), atol=1e-6
    )


def test_logits_are_calibrated_before_they_are_activated():
    head = Head(output="out", dim=1, pool="cls", activation="sigmoid", logit_mean=2.0, logit_sigma=4.0)
    row = np.array([10.0], np.float32)
    assert one(head, row, [1], "classify")[0] == pytest.approx(1 / (1 + np.exp(-2.0)))
    assert one(head, row, [1], "classify", PoolingParams(use_activation=False))[0] == pytest.approx(2.0)


def test_params_of_every_text_are_its_own():
    given = rows(2, 8)
    wanted = [PoolingParams(dimensions=2), PoolingParams(use_activation=False)]
    first, second = postprocess.answers("embed", EMBED, given, [Item(ids=[1])] * 2, wanted)
    np.testing.assert_allclose(first, given[0][:2] / np.linalg.norm(given[0][:2]), atol=1e-6)
    np.testing.assert_array_equal(second, given[1])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("count", [1, 2])
def test_what_is_no_number_is_never_answered(bad: float, count: int):
    given = rows(count, 8)
    given[-1][3] = bad
    with pytest.raises(EngineError, match="not a number"):
        postprocess.answers(
            "embed", replace(EMBED, activation="identity"), given, [Item(ids=[1])] * count, [PLAIN] * count
        )


# --- long texts in pieces
# ---------------------------------------------------------------------------------------------------------


def test_pieces_cover_a_text_in_order():
    short, long = Item(ids=[1, 2, 3]), Item(ids=list(range(10)), type_ids=[0] * 5 + [1] * 5)
    (whole,), pieces = chunks.cut([short, long], 3)
    assert whole is short
    assert [piece.ids for piece in pieces] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]
    assert [piece.type_ids for piece in pieces] == [[0, 0, 0], [0, 0, 1], [1, 1, 1], [1]]
    assert [piece.type_ids for piece in chunks.cut([Item(ids=[1, 2])], 1)[0]] == [None, None]


def test_pieces_are_joined_by_their_length():
    first, second, third = rows(3, 4)
    pieces = [[Item(ids=[1])], [Item(ids=[1, 2, 3]), Item(ids=[4])]]
    found = chunks.joined([first, second, third], pieces)
    np.testing.assert_array_equal(found[0], first)
    np.testing.assert_allclose(found[1], (3 * second + third) / 4, atol=1e-6)


def test_only_a_truncation_that_is_asked_for_cuts_a_text_in_pieces():
    text = TextPreparation(max_tokens=16, vocab_size=100, pad_id=0)
    manifest = Manifest(
        format=1, name="m", architecture="BertModel", source=Source(checkpoint="m"), tasks=("embed",),
        scoring=None, text=text, graphs=(),
        heads={"embed": EMBED},
    )  # fmt: skip
    for asked, kept in ((None, None), (-1, None), (16, 16), (3, 3)):
        limits = chunks.limits(manifest, TokenLimits(truncate_prompt_tokens=asked, truncation_side="left"))
        assert (limits.truncate_prompt_tokens, limits.truncation_side, limits.max_tokens) == (
            kept,
            "left",
            chunks.UNLIMITED,
        )
    with pytest.raises(InputError, match="greater than max_model_len"):
        chunks.limits(manifest, TokenLimits(truncate_prompt_tokens=17))


# --- what a call returns
# ----------------------------------------------------------------------------------------------------------


def outputs(results: list[Any]) -> Outputs[Any]:
    return Outputs(
        tuple(RequestOutput(result, [1, 2], number + 1) for number, result in enumerate(results)), 0.5
    )


def test_outputs_are_a_list_and_an_array():
    vectors = rows(3, 4)
    made = outputs([EmbeddingOutput(vector) for vector in vectors])
    assert (len(made), made.prompt_tokens, made[1].prompt_tokens, len(made[1:])) == (3, 6, 2, 2)
    assert [each.outputs.hidden_size for each in made] == [4, 4, 4]
    np.testing.assert_array_equal(np.asarray(made), np.stack(vectors))
    assert np.asarray(made, dtype=np.float64).dtype == np.float64
    assert np.asarray(outputs([])).shape == (0,)
    assert (made[0].finished, made[0].num_cached_tokens, made[0].truncated, made[0].request_id) == (
        True,
        0,
        False,
        "",
    )
    with pytest.raises(ValueError, match="same shape"):
        np.asarray(outputs([PoolingOutput(vectors[0]), PoolingOutput(vectors[1][:2])]))


def test_scores_are_an_array_of_numbers():
    made = outputs([ScoringOutput(0.25), ScoringOutput(0.75)])
    assert np.asarray(made).tolist() == [0.25, 0.75]
    assert made[0].outputs.data.tolist() == [0.25]
    classes = ClassificationOutput(np.array([0.25, 0.75], np.float32), "b")
    assert (classes.num_classes, classes.data.tolist(), classes.label) == (2, [0.25, 0.75], "b")


def test_a_ranking_is_a_list():
    ranking = Ranking((Ranked(1, 0.9, "b"), Ranked(0, 0.1, "a")), 7)
    assert (len(ranking), ranking[0].index, [each.document for each in ranking], len(ranking[:1])) == (
        2,
        1,
        ["b", "a"],
        1,
    )


def test_pieces_keep_the_kinds_of_their_tokens():
    pieces = chunks.cut([Item(ids=[1, 2, 3], kinds=[0, 2, 1])], 2)[0]
    assert [piece.kinds for piece in pieces] == [[0, 2], [1]]


def test_the_norm_before_the_cut_is_torch_s_for_small_values():
    small = np.array([[0.001, 0.004, -0.002]], np.float32)
    expected = torch.nn.functional.layer_norm(torch.from_numpy(small), (3,)).numpy()
    np.testing.assert_allclose(postprocess._layer_norm(small), expected, rtol=1e-5)

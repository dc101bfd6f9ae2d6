"""The other side of the comparison with a checkpoint's library, by itself: what it computes, how it
measures, and on which texts."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from poolrt.exporter.proof import library_comparison, library_distances, library_heads, library_texts, texts
from poolrt.exporter.proof.library_texts import Case
from poolrt.runtime.artifact.manifest import Head

ROWS = np.random.default_rng(3).standard_normal((5, 6)).astype(np.float32)


@pytest.mark.parametrize(
    ("pool", "mode"),
    [("cls", "cls"), ("last", "lasttoken"), ("max", "max"), ("mean", "mean"),
    ("mean_sqrt_len", "mean_sqrt_len_tokens"),
     ("weightedmean", "weightedmean")],
)  # fmt: skip
@pytest.mark.parametrize("count", [5, 1])
def test_every_pooling_is_the_library_s(pool: Any, mode: Any, count: int):
    from sentence_transformers.sentence_transformer.modules import Pooling

    features = {
        "token_embeddings": torch.from_numpy(ROWS[None, :count]),
        "attention_mask": torch.ones(1, count, dtype=torch.int64),
    }
    expected = Pooling(6, mode)(features)["sentence_embedding"][0].numpy()
    found = library_heads.POOLS[pool](ROWS[:count])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_vectors_of_length_one_and_sparse_weights_are_torch_s():
    rows = np.concatenate([ROWS, np.zeros((1, 6), np.float32)])
    np.testing.assert_allclose(
        library_heads.unit(rows), torch.nn.functional.normalize(torch.from_numpy(rows), dim=-1), atol=1e-6
    )
    expected = torch.log1p(torch.relu(torch.from_numpy(ROWS))).amax(dim=0)
    np.testing.assert_allclose(library_heads.splade(ROWS), expected.numpy(), rtol=1e-6)


class Weights(dict[str, torch.Tensor]):
    def read(self, name: str) -> torch.Tensor:
        return self[name]

    def find(self, name: str, prefixes: tuple[str, ...] = ()) -> str | None:
        return next(
            (found for found in (name, *(prefix + name for prefix in prefixes)) if found in self), None
        )

    def rows(self, name: str, rows: list[int]) -> torch.Tensor:
        return self[name][rows]


def read(
    kind: str = "embed", *, architecture: str = "BertModel", weights: Weights | None = None, **config: Any
) -> Any:
    ids = {"no": 1, "yes": 3}
    return SimpleNamespace(
        kind=kind, architecture=architecture, config=config, weights=weights or Weights(),
        family=SimpleNamespace(pooled=None, projection=()),
        text=SimpleNamespace(tokenizer=SimpleNamespace(token_to_id=ids.get)),
    )  # fmt: skip


def plan(
    task: str,
    pools: tuple[str, ...],
    *,
    activation: str = "l2",
    after: tuple[Any, ...] = (),
    before: Any = (),
    **head: Any,
) -> Any:
    part = SimpleNamespace(task=task, pools=pools, before=before, after=after)
    made = Head(output="o", dim=6, pool=pools[0] if pools else "cls", activation=activation, **head)  # type: ignore[arg-type]
    return SimpleNamespace(parts=[part], heads={task: made})


def test_only_what_follows_from_hidden_states_is_said():
    mean, two = ROWS.mean(0), np.concatenate([ROWS[0], ROWS.max(0)])

    def said(asked: Any, checkpoint: Any = None, *, pooled: bool = False) -> dict[Any, Any]:
        return library_heads.answers(checkpoint or read(), asked, ROWS, pooled_by_library=pooled)

    np.testing.assert_allclose(
        said(plan("embed", ("mean",)))["embed"], mean / np.linalg.norm(mean), rtol=1e-5
    )
    np.testing.assert_allclose(
        said(plan("embed", ("mean",), activation="identity"))["embed"], mean, rtol=1e-5
    )
    np.testing.assert_allclose(said(plan("embed", ("cls", "max"), activation="identity"))["embed"], two)
    np.testing.assert_allclose(
        said(plan("token_embed", ("tokens",)), pooled=True)["token_embed"], library_heads.unit(ROWS)
    )
    assert said(plan("embed", ("mean",)), pooled=True) == {}
    assert said(plan("embed", ("splade",))) == {}
    steps: tuple[dict[str, Any], ...] = (
        {"after": ("step",)},
        {"before": ("step",)},
        {"sparse": True},
        {"keep_ids": (1,)},
    )
    for left_out in steps:
        assert said(plan("embed", ("mean",), **left_out)) == {}
    for own in ({"pooled": "mask", "projection": ()}, {"pooled": None, "projection": ("layer",)}):
        checkpoint = read()
        checkpoint.family = SimpleNamespace(**own)
        assert said(plan("embed", ("mean",)), checkpoint) == {}


def test_rewards_are_two_layers_on_every_token():
    from torch import nn

    torch.manual_seed(0)
    score = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    weights = Weights({f"score.{name}": tensor for name, tensor in score.state_dict().items()})
    for name in ("Qwen2ForRewardModel", "Qwen2ForProcessRewardModel"):
        found = library_heads.answers(
            read("reward", architecture=name, weights=weights),
            plan("token_classify", ("tokens",)),
            ROWS,
            pooled_by_library=False,
        )
        np.testing.assert_allclose(
            found["token_classify"], score(torch.from_numpy(ROWS)).detach().numpy(), rtol=1e-5, atol=1e-6
        )
    other = read("reward", architecture="InternLM2ForRewardModel", weights=weights)
    assert (
        library_heads.answers(other, plan("token_classify", ("tokens",)), ROWS, pooled_by_library=False) == {}
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["from_2_way_softmax", "no_post_processing", None])
def test_classifiers_from_tokens_are_rows_of_the_output_matrix(tied: bool, method: str | None):
    torch.manual_seed(1)
    weights = Weights({"model.embed_tokens.weight": torch.randn(5, 6), "lm_head.weight": torch.randn(5, 6)})
    config: dict[str, Any] = {
        "classifier_from_token": ["no", "yes"],
        "tie_word_embeddings": tied,
        "method": method,
    }
    if method is None:
        config["is_original_qwen3_reranker"] = True
    checkpoint = read("classify", weights=weights, **config)
    found = library_heads.answers(checkpoint, plan("classify", ("last",)), ROWS, pooled_by_library=False)[
        "classify"
    ]
    matrix = weights["model.embed_tokens.weight" if tied else "lm_head.weight"].numpy()
    no, yes = matrix[1] @ ROWS[-1], matrix[3] @ ROWS[-1]
    np.testing.assert_allclose(
        found, [no, yes] if method == "no_post_processing" else [yes - no], rtol=1e-4, atol=1e-5
    )
    assert found.dtype == np.float32
    missing: dict[str, Any] = config | {"classifier_from_token": ["no", "maybe"]}
    unknown = read("classify", weights=weights, **missing)
    assert library_heads.answers(unknown, plan("classify", ("last",)), ROWS, pooled_by_library=False) == {}


# --- measures
# ------------------------------------------------------------------------------------------------------------


def test_a_cosine_is_the_least_of_all_rows():
    cosine = library_distances.least_cosine
    one, other = np.array([[1, 0], [1, 0]], np.float32), np.array([[2, 0], [1, 1]], np.float32)
    assert cosine(one, other) == pytest.approx(math.sqrt(0.5))
    assert cosine(one[0], other[0]) == pytest.approx(1)
    assert cosine(one[0], -one[0]) == pytest.approx(-1)
    zero = np.zeros(2, np.float32)
    assert cosine(zero, zero) == 1
    assert cosine(zero, one[0]) == 0
    assert cosine(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)) == 1
    for strange in (np.nan, np.inf):
        assert cosine(np.array([strange], np.float32), np.ones(1, np.float32)) == -1
        assert cosine(np.ones(1, np.float32), np.array([strange], np.float32)) == -1


def test_a_difference_is_a_share_of_what_is_large():
    difference = library_distances.largest_difference
    one = np.array([0.5, 100], np.float32)
    assert difference(one, np.array([0.25, 100], np.float32)) == pytest.approx(0.25)
    assert difference(one, np.array([0.5, 200], np.float32)) == pytest.approx(0.5)
    assert difference(np.array([-3], np.float32), np.array([-2], np.float32)) == pytest.approx(0.5)
    assert difference(one[:0], one[:0]) == 0
    assert math.isinf(difference(one, np.array([np.nan, 0], np.float32)))
    assert math.isinf(difference(np.array([np.inf, 0], np.float32), one))
    assert library_distances.lengths_apart(
        np.array([[3.0, 4], [1, 0]]), np.array([[0, 5.0], [0, 2]])
    ) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("what", "ours", "theirs", "problem"),
    [
        ("embed", [1, 0], [1, 0], None),
        ("embed", [1, 4e-3], [1, 0], None),
        ("embed", [1, 6e-3], [1, 0], "at least 0.99999 is expected"),
        ("embed", [1.0005, 0], [1, 0], None),
        ("embed", [1.002, 0], [1, 0], "the same direction, but lengths"),
        ("embed", [0.998, 0], [1, 0], "the same direction, but lengths"),
        ("classify", [1.00005], [1], None),
        ("classify", [1.0002], [1], "[1.0002], the library's [1.0000]"),
        ("classify score", [0.5], [0.5002], "classify score of"),
        ("token_classify", [[0.0]], [[0.1]], "token_classify of"),
        ("classify", [1, 2], [1], "shape [2], the library's [1]"),
        ("embed", [float("nan"), 0], [1, 0], "cosine -1"),
    ],
)
def test_how_far_apart_is_a_problem(what: str, ours: list[Any], theirs: list[Any], problem: str | None):
    comparison = library_comparison.Comparison.__new__(library_comparison.Comparison)
    comparison.problems = []
    measured: dict[str, list[tuple[float, float]]] = {}
    comparison._measure(
        measured, what, Case(text="mars"), np.array(ours, np.float32), np.array(theirs, np.float32)
    )
    assert len(comparison.problems) == (problem is not None)
    assert all(str(problem) in line and "'mars'" in line for line in comparison.problems)
    assert (what in measured) == (np.shape(ours) == np.shape(theirs))


def test_what_is_told_is_short():
    assert (
        library_distances.shown_numbers(np.arange(5, dtype=np.float32))
        == "[0.0000, 1.0000, 2.0000, 3.0000, ...]"
    )
    assert library_distances.shown_numbers(np.arange(4, dtype=np.float32)).endswith("3.0000]")
    assert library_distances.shown_ids(range(20), 10) == "[..., 8, 9, 10, 11, 12, 13, ...]"
    assert library_distances.shown_ids([1, 2, 3], 0) == "[1, 2, 3]"
    assert library_distances.shown_ids([1, 2, 3, 4, 5, 6, 7], 1) == "[1, 2, 3, 4, 5, 6, ...]"
    assert library_distances.shown_ids(range(9), 8) == "[..., 6, 7, 8]"


# --- texts
# ------------------------------------------------------------------------------------------------------------


def test_added_tokens_stand_in_texts_of_all_kinds():
    assert list(library_texts.of_tokens(["[A]", " ", "<b>", "[A]"])) == [
        "[A] <b>",
        "what [A] IS this <b> then",
        "[A]<b>",
        "[a] <B>",
    ]
    many = [f"<{number}>" for number in range(1000)]
    found = " ".join(library_texts.of_tokens(many)).split()
    assert {"<0>", "<191>", "<808>", "<999>"} <= set(found)
    assert not {"<192>", "<807>"} & set(found)
    assert len(list(library_texts.of_tokens(many[:384]))) == 4 * 16
    assert len(list(library_texts.of_tokens(many))) == 4 * 16


@pytest.mark.parametrize("limit", [16, 4096])
def test_texts_for_ids_reach_beyond_the_limit(limit: int):
    def cases(**options: bool) -> list[Case]:
        return library_texts.for_ids(
            ["[A]"], limit=limit, **{"pairs": False, "templated": False, "empty": True} | options
        )

    single = cases()
    assert {"", "[A]", texts.QUERY, texts.LONG, *library_texts.WRITTEN, *texts.OTHER_LANGUAGES} <= {
        case.text for case in single
    }
    assert all(case.document is None for case in single)
    assert max(len(case.text) for case in single) >= limit * 8
    assert not [case for case in cases(empty=False) if not case.text]
    pairs = cases(pairs=True)
    assert all(case.text and case.document for case in pairs)
    assert [(len(case.text) >= limit * 8, len(case.document or "") >= limit * 8) for case in pairs[-3:]] == [
        (False, True), (True, False), (True, True),
    ]  # fmt: skip
    assert all(len(case.text) < limit * 8 or limit == 16 for case in cases(pairs=True, templated=True))
    assert len(cases(pairs=True, templated=True)) == len(pairs) - 3
    sides = library_texts.sides(["query"], ["stored"], limit=limit)
    assert {case.text for case in sides if case.role == "query"} - {
        case.text for case in sides if case.prompt_name == "stored"
    } == {""}
    assert max(len(case.text) for case in sides) >= limit * 8


def test_texts_for_numbers_are_of_all_lengths_and_roles():
    plain = library_texts.for_numbers(["query"], limit=600, pairs=False, templated=False)
    assert {case.role for case in plain} == {None, "query"}
    assert len(plain) == 12
    for role in (None, "query"):
        lengths = [len(case.text) for case in plain if case.role == role]
        assert min(lengths) == 1
        assert max(lengths) >= 600 * 8
    pairs = library_texts.for_numbers([], limit=600, pairs=True, templated=False)
    assert [len(case.document or "") >= 4800 for case in pairs] == [False] * 4 + [True]
    assert library_texts.for_numbers([], limit=600, pairs=True, templated=True) == pairs[:-1]


def test_a_case_is_named_in_one_short_line():
    assert str(Case(text="a")) == "'a'"
    assert str(Case(text="a" * 60)) == repr("a" * 60)
    assert str(Case(text="a" * 61, document="b" * 50)) == f"'{'a' * 57}...' with '{'b' * 40}'"
    assert str(Case(text="a", role="query")) == "'a' as query"
    assert str(Case(text="a", prompt_name="p")) == "'a' with the prompt 'p'"

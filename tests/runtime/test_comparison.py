"""Which pairs are compared, and how: by hand, from rows that a test gives, for every kind of score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from poolrt.runtime.answers import pair_scores, score_request
from poolrt.runtime.answers.pair_scores import ranked
from poolrt.runtime.answers.params import PoolingParams
from poolrt.runtime.answers.score_request import ScoreRequest, sides
from poolrt.runtime.artifact.manifest import Head, Manifest, Role
from poolrt.runtime.batching.queue import Answer
from poolrt.runtime.errors import InputError, UnsupportedTask
from poolrt.runtime.inputs.items import Item, TokenLimits
from poolrt.runtime.inputs.preparation import Preparation
from poolrt.runtime.outputs import Outputs, RequestOutput, ScoringOutput

from tests.runtime.vocabularies import ALL
from tests.runtime.vocabularies import manifest as plain

QUERY, DOCUMENTS = "what is the capital", ["paris is the capital of france", "the quick brown fox", "berlin"]
RNG = np.random.default_rng(0)
HEADS = {
    "bi-encoder": {"embed": Head(output="e", dim=4, pool="mean", activation="identity")},
    "late-interaction": {"token_embed": Head(output="t", dim=4, pool="tokens", activation="l2")},
    "cross-encoder": {"classify": Head(output="c", dim=1, pool="cls", activation="sigmoid")},
}


@pytest.fixture
def opened(tmp_path: Path) -> Any:
    def make(scoring: Any, style: Any = "model", **text: Any) -> tuple[Manifest, Preparation]:
        tokenizer = ALL["wordpiece"]()
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        heads = text.pop("heads", None) or HEADS[scoring]
        made = dataclasses.replace(plain(tokenizer, **text), scoring=scoring, heads=heads, tasks=tuple(heads))
        return made, Preparation(tmp_path, made, style=style)

    return make


class Prepared(NamedTuple):
    """A score whose items are all prepared."""

    task: str
    items: list[Item]
    finish: Callable[[Answer], Outputs[ScoringOutput]]


def prepared(
    model: tuple[Manifest, Preparation], first: list[str], second: list[str], **asked: Any
) -> Prepared:
    asked = {"limits": TokenLimits(), "params": PoolingParams()} | asked
    result = pair_scores.prepare(*model, first, second, ScoreRequest(**asked))
    return Prepared(
        result.task, [item for step in result.steps for _, item in sorted(step.items())], result.finish
    )


def cosine(one: Any, other: Any) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def scores(made: Prepared, rows: list[Any]) -> list[float]:
    return [one.outputs.score for one in made.finish(Answer(rows, 10, slots=15))]


@pytest.mark.parametrize("queries", [1, 3])
def test_vectors_are_compared_by_their_cosine(opened: Any, queries: int):
    made = prepared(opened("bi-encoder"), [QUERY] * queries, DOCUMENTS)
    assert made.task == "embed"
    rows = [RNG.standard_normal(4).astype(np.float32) for _ in made.items]
    assert len(rows) == queries + 3
    expected = [cosine(rows[index if queries == 3 else 0], rows[queries + index]) for index in range(3)]
    assert scores(made, rows) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("style", "squared"), [("model", False), ("vllm", True)])
def test_sparse_vectors_are_compared_as_their_authors_or_vllm_do(opened: Any, style: str, squared: bool):
    head = Head(output="e", dim=4, pool="splade", activation="identity", sparse=True)
    made = prepared(opened("bi-encoder", style, heads={"embed": head}), [QUERY], DOCUMENTS[:1])
    one, other = np.array([3, 0, 4, 0], np.float32), np.array([2, 1, 0, 0], np.float32)
    assert scores(made, [one, other]) == pytest.approx([cosine(one, other) if squared else 6.0], abs=1e-6)


def test_token_vectors_are_compared_by_maxsim(opened: Any):
    made = prepared(opened("late-interaction"), [QUERY], DOCUMENTS)
    rows = [RNG.standard_normal((len(item.ids), 4)).astype(np.float32) for item in made.items]
    unit = [row / np.linalg.norm(row, axis=1, keepdims=True) for row in rows]
    expected = [
        sum(max(float(one @ other) for other in document) for one in unit[0]) for document in unit[1:]
    ]
    assert scores(made, rows) == pytest.approx(expected, abs=1e-5)


def test_pairs_are_scored_as_one_text_and_remember_their_logit(opened: Any):
    made = prepared(opened("cross-encoder"), [QUERY], DOCUMENTS)
    assert [made.task, len(made.items)] == ["classify", 3]
    rows = [np.array([value], np.float32) for value in (-1.0, 30.0, 40.0)]
    answered = made.finish(Answer(rows, 10, slots=15))
    assert [one.outputs.score for one in answered] == pytest.approx([1 / (1 + np.exp(1.0)), 1.0, 1.0])
    assert [one.outputs.rank_value for one in answered] == [-1.0, 30.0, 40.0]
    assert [result.index for result in ranked(answered, DOCUMENTS)] == [2, 1, 0]
    assert [result.document for result in ranked(answered, DOCUMENTS, 2)] == [DOCUMENTS[2], DOCUMENTS[1]]
    assert answered.padding == 0.5
    raw = prepared(opened("cross-encoder"), [QUERY], DOCUMENTS, params=PoolingParams(use_activation=False))
    assert scores(raw, rows) == [-1.0, 30.0, 40.0]


def test_equal_scores_keep_their_order():
    answered = Outputs(tuple(RequestOutput(ScoringOutput(score), [1], 1) for score in (0.5, 0.9, 0.5, 0.9)))
    assert [result.index for result in ranked(answered, "abcd")] == [1, 3, 0, 2]


@pytest.mark.parametrize("pad", [True, False])
def test_a_score_counts_what_vllm_counts(opened: Any, pad: bool):
    special = {"pad_token": "[PAD]"} if pad else {}
    made = prepared(opened("bi-encoder", special_tokens=special, pad_id=0), [QUERY], DOCUMENTS[:2])
    query, *documents = made.items
    rows = [np.ones(4, np.float32)] * 3
    for one, document in zip(made.finish(Answer(rows, 1, slots=1)), documents, strict=True):
        assert list(one.prompt_token_ids) == [*query.ids, *([0] if pad else []), *document.ids]
        assert one.prompt_tokens == len(query.ids) + pad + len(document.ids)
    assert [one.request_id for one in made.finish(Answer(rows, 1, slots=1))] == ["0", "1"]


def test_each_side_has_its_role_and_its_own_cut(opened: Any):
    texts = {"roles": {"query": Role(prefix="the "), "document": Role(prefix="fox ")}}
    model = opened("bi-encoder", **texts)
    made = prepared(model, [QUERY], DOCUMENTS[:2], max_tokens_per_query=2, max_tokens_per_doc=1)
    assert [item.ids for item in made.items] == [
        item.ids for item in model[1].singles(["the what is", "fox paris", "fox the"])
    ]  # fmt: skip
    answered = made.finish(Answer([np.ones(4, np.float32)] * 3, 1, slots=1))
    assert [one.truncated for one in answered] == [True, True]
    whole = prepared(model, ["what"], DOCUMENTS[:1]).finish(Answer([np.ones(4, np.float32)] * 2, 1, slots=1))
    assert [one.truncated for one in whole] == [False]
    query_only = prepared(model, [QUERY], ["fox"], max_tokens_per_query=1).finish(
        Answer([np.ones(4, np.float32)] * 2, 1, slots=1)
    )
    assert [one.truncated for one in query_only] == [True]


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (["a", "b"], ["c"], "1:1, 1:N or N:N"), (["a", "b"], ["c", "d", "e"], "1:1, 1:N or N:N"),
        ([], ["c"], "At least one text element"),
        (["a"], [], "At least one text_pair element"),
        (["a"], ["b", 5], r"data_2\[1\]: expected text, found int"),
        ([None], ["b"], r"data_1\[0\]: expected text"), (5, ["b"], "data_1: expected text or a list"),
        ("a", b"b", "data_2: expected text"),
        ({"text": "a"}, "b", "a list `content`"), ({"content": []}, "b", "found no part"),
        ("a", {"content": [{"type": "image_url", "image_url": {}}]}, "found a part 'image_url'"),
        ("a", [{"content": [{"type": "text", "text": 5}]}], "found a part 'text'"),
    ],
    ids=str,
)  # fmt: skip
def test_sides_that_do_not_fit_are_refused_in_vllms_words(opened: Any, first: Any, second: Any, told: str):
    _, preparation = opened("bi-encoder")
    with pytest.raises(InputError, match=told):
        sides(preparation, first, second)


def test_sides_are_one_to_one_one_to_many_or_paired(opened: Any):
    _, preparation = opened("bi-encoder")
    assert sides(preparation, "a", "b") == (["a"], ["b"])
    assert sides(preparation, ["a"], ("b", "c")) == (["a"], ["b", "c"])
    assert sides(preparation, ["a", "b"], np.array(["c", "d"])) == (["a", "b"], ["c", "d"])
    parts = {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert sides(preparation, parts, [parts, "c"]) == (["a\nb"], ["a\nb", "c"])


@pytest.mark.parametrize("scoring", ["bi-encoder", "late-interaction"])
def test_a_template_is_for_pairs_that_are_read_together(opened: Any, scoring: str):
    with pytest.raises(InputError, match="chat_template is for cross-encoders"):
        prepared(opened(scoring), [QUERY], DOCUMENTS, template="{{ 1 }}")


def test_models_without_scores_say_what_they_have(opened: Any):
    manifest, _ = opened("bi-encoder")
    bare = dataclasses.replace(manifest, scoring=None, tasks=("embed", "token_embed"))
    with pytest.raises(UnsupportedTask, match="Its tasks are embed, token_embed"):
        score_request.task_of(bare)
    classes = {"classify": Head(output="c", dim=3, pool="cls", activation="softmax")}
    with pytest.raises(UnsupportedTask, match=r"num_labels == 1\. This model has 3"):
        score_request.task_of(dataclasses.replace(bare, heads=classes))


@pytest.mark.parametrize(
    ("scoring", "roles", "sparse", "style"),
    [
        ("bi-encoder", False, False, "model"), ("bi-encoder", True, False, "vllm"),
        ("bi-encoder", False, True, "vllm"),
        ("late-interaction", True, False, "vllm"), ("late-interaction", False, False, "model"),
        ("cross-encoder", True, True, "vllm"),
    ],
)  # fmt: skip
def test_vllms_way_is_another_only_where_it_differs(
    opened: Any, scoring: str, roles: bool, sparse: bool, style: str
):
    task, head = next(iter(HEADS[scoring].items()))
    heads = {task: dataclasses.replace(head, sparse=sparse)}
    manifest, _ = opened(scoring, heads=heads, roles={"query": Role(prefix="q")} if roles else {})
    assert score_request.style(manifest, "vllm") == style
    assert score_request.style(manifest, "model") == "model"
    with pytest.raises(InputError, match="is not 'model' or 'vllm'"):
        score_request.style(manifest, "other")  # pyright: ignore[reportArgumentType]


@pytest.fixture
def listwise(opened: Any, tmp_path: Path) -> tuple[Manifest, Preparation]:
    """Marks are words of the vocabulary: `fox` behind each document, `dog` behind the query."""
    ids = ALL["wordpiece"]().get_vocab()
    head = Head(output="t", dim=4, pool="tokens", activation="identity", keep_ids=(ids["fox"], ids["dog"]))
    (tmp_path / "list.jinja").write_text(
        "{% for one in documents %}{{ one }} fox {% endfor %}{{ query }} dog {{ instruction }}"
    )
    return opened("listwise", heads={"token_embed": head}, score_template="list.jinja")


def test_a_list_is_one_text_and_every_document_a_score(listwise: Any):
    made = prepared(listwise, ["capital fox dog"], ["paris", "berlin fox"])
    assert made.task == "token_embed"
    (item,) = made.items
    assert ALL["wordpiece"]().decode(item.ids) == "paris fox berlin fox capital dog"
    rows = RNG.standard_normal((len(item.ids), 4)).astype(np.float32)
    fox, dog = (ALL["wordpiece"]().get_vocab()[word] for word in ("fox", "dog"))
    documents = [index for index, token in enumerate(item.ids) if token == fox]
    expected = [cosine(rows[place], rows[item.ids.index(dog)]) for place in documents]
    answered = made.finish(Answer([rows], 10, slots=10))
    assert [one.outputs.score for one in answered] == pytest.approx(expected, abs=1e-6)
    assert [one.truncated for one in answered] == [False, False]


def test_queries_of_a_list_have_one_document_each(listwise: Any):
    made = prepared(listwise, ["capital", "what"], ["paris", "berlin"], max_tokens_per_doc=1)
    assert len(made.items) == 2
    rows = [RNG.standard_normal((len(item.ids), 4)).astype(np.float32) for item in made.items]
    assert len(scores(made, rows)) == 2


def test_a_list_that_does_not_fit_is_refused_whole(listwise: Any):
    with pytest.raises(InputError, match="30 documents need more than the 64 tokens"):
        prepared(listwise, ["capital"], ["paris is"] * 30, limits=TokenLimits(truncate_prompt_tokens=-1))
    cut = prepared(listwise, ["capital"], ["paris is the capital", "berlin"], max_tokens_per_doc=1)
    answered = cut.finish(Answer([np.ones((len(cut.items[0].ids), 4), np.float32)], 1, slots=1))
    assert [one.truncated for one in answered] == [True, False]

"""Scores that others published: compared as they were computed, within what was published."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from poolrt.exporter.files import recipe
from poolrt.exporter.files.recipe import PublishedScores, Recipe
from poolrt.exporter.proof import published_scores

VECTORS = {"q": [3.0, 4.0], "a": [4.0, 3.0], "b": [0.0, 2.0]}


class Model:
    """Notes how it is asked."""

    def __init__(
        self, *, sparse: bool = False, roles: tuple[str, ...] = (), prompts: tuple[str, ...] = ()
    ) -> None:
        text = SimpleNamespace(roles=dict.fromkeys(roles), prompts=dict.fromkeys(prompts, "p: "))
        self.manifest = SimpleNamespace(text=text, heads={"embed": SimpleNamespace(sparse=sparse)})
        self.asked: list[dict[str, Any]] = []

    def embed(self, texts: list[str], **options: Any) -> Any:
        self.asked.append(options)
        return np.array([VECTORS[text] for text in texts], np.float32)

    def score(self, query: str, documents: list[str]) -> Any:
        assert query == "q"
        return [
            SimpleNamespace(outputs=SimpleNamespace(score=float(index))) for index, _ in enumerate(documents)
        ]


def reference(task: Any, scores: tuple[float, ...], tolerance: float = 1e-6, **facts: Any) -> PublishedScores:
    return PublishedScores(
        task=task, query="q", documents=("a", "b"), scores=scores, tolerance=tolerance, source="card", **facts
    )


@pytest.mark.parametrize(
    ("model", "scores"), [(Model(), (0.96, 0.8)), (Model(sparse=True), (24.0, 8.0))], ids=["cosine", "dot"]
)
def test_similarities_are_cosines_except_of_sparse_vectors(model: Any, scores: tuple[float, ...]):
    told, holds = published_scores._compared(model, reference("similarity", scores))
    assert holds, told
    assert not published_scores._compared(model, reference("similarity", (scores[0], scores[1] + 1e-3)))[1]


@pytest.mark.parametrize(
    ("roles", "prompts", "asked"),
    [
        ((), (), [{"prompt_name": None}, {"prompt_name": None}]),
        ((), ("query",), [{"prompt_name": "query"}, {"prompt_name": None}]),
        (("query", "document"), ("query",), [{"role": "query"}, {"role": "document"}]),
    ],
    ids=["plain", "prompts", "roles"],
)
def test_each_side_is_embedded_as_its_library_does(
    roles: tuple[str, ...], prompts: tuple[str, ...], asked: list[dict[str, Any]]
):
    model: Any = Model(roles=roles, prompts=prompts)
    published_scores._compared(model, reference("similarity", (0.0, 0.0)))
    assert model.asked == asked


@pytest.mark.parametrize("task", ["rerank", "maxsim"])
@pytest.mark.parametrize(
    ("scores", "tolerance", "relative", "holds"),
    [
        ((0.0, 1.0), 1e-9, False, True), ((0.01, 1.0), 0.01, False, True), ((0.01, 1.0), 0.009, False, False),
        ((0.0, 1.02), 0.01, False, False),
        ((0.0, 0.8), 0.25, False, True), ((1e-9, 0.8), 0.2, True, False), ((1.0, 0.9), 0.5, True, False),
    ],
    ids=str,
)  # fmt: skip
def test_scores_hold_within_what_was_published(
    task: Any, scores: tuple[float, ...], tolerance: float, relative: bool, holds: bool
):
    model: Any = Model()
    published = reference(task, scores, tolerance, relative=relative)
    assert published_scores._compared(model, published)[1] == holds


def test_a_relative_tolerance_is_a_share_of_the_score():
    class Far(Model):
        def score(self, query: str, documents: list[str]) -> Any:
            return [SimpleNamespace(outputs=SimpleNamespace(score=score)) for score in (101.0, -202.0)]

    model: Any = Far()
    told, holds = published_scores._compared(
        model, reference("maxsim", (100.0, -200.0), 0.011, relative=True)
    )
    assert holds
    assert "at most 0.01000 of the score apart, 0.011 is allowed" in told
    assert not published_scores._compared(model, reference("maxsim", (100.0, -200.0), 0.009, relative=True))[
        1
    ]
    assert not published_scores._compared(model, reference("maxsim", (100.0, -200.0), 0.011))[1]


def manifest(size: int, precision: str, dim: int, external: int = 0) -> Any:
    graph = SimpleNamespace(file="model.onnx", external=("model.data",) if external else (), stored=precision)
    files = {"model.onnx": SimpleNamespace(size=size), "model.data": SimpleNamespace(size=external)}
    heads = {"embed": SimpleNamespace(dim=dim)}
    return SimpleNamespace(graph=lambda *_: graph, files=files, heads=heads)


@pytest.mark.parametrize(
    ("size", "precision", "external", "checked"),
    [
        (12_000_000, "fp32", 0, True), (11_999_999, "fp32", 0, False), (6_000_000, "fp16", 0, True),
        (5_999_999, "bf16", 0, False),
        (3_000_000, "int8", 0, True), (1_000, "fp32", 12_000_000, True), (2_999_999, "int8", 0, False),
    ],
)  # fmt: skip
def test_a_toy_of_that_name_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, size: int, precision: str, external: int, checked: bool
):
    monkeypatch.setattr(published_scores, "is_large_graph", lambda *_: False)
    named = Recipe(name="m", match=("m",), summary="", task="embed", dimensions=8)
    reason = published_scores._not_checkable(None, manifest(size, precision, 8, external), named)  # pyright: ignore[reportArgumentType]
    assert (reason is None) == checked


@pytest.mark.parametrize(
    ("task", "dimensions", "large", "told"),
    [("embed", 16, False, "8 dimensions, the published model's 16"), ("rerank", 16, False, None),
    ("embed", None, False, None),
     ("embed", 8, True, "too large"), ("sparse", 9, False, "published model's 9"),
     ("late-interaction", 9, False, "published model's 9")],
)  # fmt: skip
def test_another_width_or_a_graph_too_large_is_not_judged(
    monkeypatch: pytest.MonkeyPatch, task: Any, dimensions: int | None, large: bool, told: str | None
):
    monkeypatch.setattr(published_scores, "is_large_graph", lambda *_: large)
    named = Recipe(name="m", match=("m",), summary="", task=task, dimensions=dimensions)
    reason = published_scores._not_checkable(None, manifest(10**8, "fp32", 8), named)  # pyright: ignore[reportArgumentType]
    assert (reason is None) if told is None else told in str(reason)


@pytest.mark.parametrize(
    ("match", "asked", "found"),
    [
        (("Org/Model-*",), "org/model-7b", True), (("Org/Model-*",), "MODEL-7B", True),
        (("Org/Model",), "org/model-7b", False),
        (("Org/Model",), "other/model", False), (("a/b", "c/d"), "d", True),
        (("Org/Model",), "my-model", False),
    ],
)  # fmt: skip
def test_a_recipe_is_for_the_names_it_lists(
    monkeypatch: pytest.MonkeyPatch, match: tuple[str, ...], asked: str, found: bool
):
    named = Recipe(name="m", match=match, summary="", task="embed")
    monkeypatch.setattr(recipe, "all_recipes", lambda: (named,))
    assert (recipe.find(asked) is named) == found


def test_recipes_are_in_the_order_of_their_names():
    names = [each.name for each in recipe.all_recipes()]
    assert names == sorted(names)
    assert len(names) == len(set(names)) > 50


def test_published_pictures_are_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictured = reference("maxsim", (0.0, 1.0), pictures="https://example.com/pages")
    assert published_scores._missing(pictured) == ["a", "b"]
    assert published_scores._missing(reference("maxsim", (0.0, 1.0))) == []
    for name in pictured.documents:
        (tmp_path / name).touch()
    monkeypatch.setenv(published_scores.PICTURES, str(tmp_path))
    assert published_scores._missing(pictured) == []
    assert published_scores._documents(pictured) == [tmp_path / "a", tmp_path / "b"]

"""Which model answers: by its names, by what it can, adapters behind the models they adapt."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from poolrt.runtime.errors import ArtifactError
from poolrt.serve.endpoints.routes import absent
from poolrt.serve.errors import ApiError
from poolrt.serve.models.registry import Registry, Served


def served(
    *names: str,
    tasks: tuple[str, ...] = ("embed",),
    parent: Served | None = None,
    checkpoint: str = "org/hub",
) -> Served:
    manifest = SimpleNamespace(source=SimpleNamespace(checkpoint=checkpoint), scoring=None, heads={})
    events: list[str] = []
    model: Any = SimpleNamespace(
        name=f"{names[0]}-artifact", tasks=tasks, manifest=manifest, events=events,
        warm_up=lambda: events.append("warm"),
        close=lambda: events.append("closed"),
    )  # fmt: skip
    return Served(names=names, open=lambda: model, parent=parent)


def registry(*models: Served, **options: Any) -> Registry:
    made = Registry(list(models), **options)
    assert not made.ready.is_set()
    made.open()
    assert made.ready.is_set()
    return made


def test_a_model_is_found_by_its_names_its_artifacts_and_its_checkpoints():
    first, second = served("a", "b"), served("c", checkpoint="org/other")
    models = registry(first, second)
    for name in ("a", "b", "a-artifact", "org/hub", None, ""):
        assert models.find(name) is first
    for name in ("c", "c-artifact", "org/other"):
        assert models.find(name) is second
    assert list(models) == [first, second]
    assert (first.model.events, first.name, first.told_name) == (["warm"], "a", "a")  # pyright: ignore[reportAttributeAccessIssue]
    models.close()
    assert second.model.events == ["warm", "closed"]  # pyright: ignore[reportAttributeAccessIssue]


def test_models_are_opened_meanwhile_and_what_fails_is_raised_later():
    models = Registry([served("a")])
    assert not models.begun
    models.begin()
    models.open()
    assert models.begun
    assert models.ready.is_set()
    assert models.find("a").model.events == ["warm"]  # pyright: ignore[reportAttributeAccessIssue]

    def broken() -> Any:
        raise ArtifactError("no such folder")

    refused = Registry([Served(names=("a",), open=broken)])
    refused.begin()
    with pytest.raises(ArtifactError, match="no such folder"):
        refused.open()
    assert not refused.ready.is_set()
    refused.close()


def test_given_names_win_over_aliases_and_the_first_over_later_ones():
    first, second, third = served("a"), served("org/hub"), served("b", checkpoint="org/hub")
    models = registry(first, second, third)
    assert models.find("org/hub") is second
    assert models.find("b") is third
    assert registry(served("x"), third).find("org/hub").name == "x"


def test_a_name_that_is_not_served_is_told_short():
    models = registry(served("a", "b"), served("c"))
    with pytest.raises(ApiError) as refused:
        models.find("n" * 5000, param="model")
    assert (refused.value.status, refused.value.param) == (404, "model")
    assert str(refused.value) == f"The model `{'n' * 200}` does not exist. Valid aliases: a, b, c."


def test_unchecked_names_are_the_first_models_except_an_adapters():
    base = served("a")
    models = registry(base, check_names=False)
    adapter = served("lora", parent=base)
    adapter.model = adapter.open()
    assert models.put(adapter) is None
    assert models.find("whatever") is models.find("a") is base
    assert models.find("lora") is adapter
    assert adapter.told_name == "a"


def test_adapters_come_and_go_behind_the_models():
    base = served("a")
    models = registry(base)
    first, second = (served("lora", parent=base) for _ in range(2))
    for adapter in (first, second):
        adapter.model = adapter.open()
    assert models.put(first) is None
    assert models.put(second) is first
    assert (list(models), models.adapters, models.adapter("lora"), models.adapter("a")) == (
        [base, second],
        [second],
        second,
        None,
    )
    models.remove(second)
    assert (list(models), models.adapter("lora")) == ([base], None)
    with pytest.raises(ApiError):
        models.find("lora")


def test_an_adapter_has_no_alias_of_its_base():
    base = served("a")
    adapter = served("lora", parent=base)
    models = registry(base, adapter)
    assert adapter.aliases == ()
    assert models.find("org/hub") is base


def test_a_route_that_is_not_there_says_what_is():
    models = Registry([served("a"), served("b", tasks=("classify",))])
    assert absent("/score", models) == "/score is not there"
    models.open()
    told = absent("/score", models)
    assert told.startswith(
        "no model served here can answer /score: `a` can embed, `b` can classify. This "
        "server has /v1/embeddings, "
    )
    assert told.endswith("/pooling, /classify, /embed, /predict, /similarity")


def test_a_request_finds_a_model_that_can():
    first, second = served("a"), served("b", tasks=("classify",))
    third = served("lora", tasks=("rank",), parent=first)
    models = registry(first, second, third)
    assert models.able(None, "classify", "Classification") is second
    assert models.able("", "embed", "Embeddings") is first
    # Adapters answer only where they are named; where nothing can, the first model says so itself.
    assert models.able(None, "rank", "Rerank") is first
    assert models.able("lora", "rank", "Rerank") is third
    with pytest.raises(
        ApiError, match="The model `a` does not support the Classification API; these do: b"
    ) as refused:
        models.able("a", "classify", "Classification")
    assert (refused.value.status, refused.value.param) == (400, "model")
    assert "rank" in models.abilities
    assert "fly" not in models.abilities

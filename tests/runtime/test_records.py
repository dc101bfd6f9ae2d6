"""Records from plain values: what they declare and nothing else, every problem with its path, and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from poolrt.runtime.artifact.records import RecordError, from_plain, to_plain


@dataclass(frozen=True, kw_only=True)
class Inner:
    kind: Literal["a", "b", 1] = "a"
    size: int

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size is negative")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    share: float = 0.5
    flag: bool = False
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    pair: tuple[int, str] = (1, "x")
    listed: list[int] = field(default_factory=list)
    named: dict[str, int] = field(default_factory=dict)
    either: int | str | None = None
    free: object = None


def made(**value: Any) -> Outer:
    return from_plain(Outer, {"name": "n", **value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({}, Outer(name="n")), ({"share": 2}, Outer(name="n", share=2.0)),
        ({"inner": {"size": 1}}, Outer(name="n", inner=Inner(size=1))),
        ({"inner": None}, Outer(name="n")), ({"many": [{"size": 0}, {"size": 1, "kind": "b"}]},
                                             Outer(name="n", many=(Inner(size=0), Inner(size=1, kind="b")))),
        ({"pair": [2, "y"]}, Outer(name="n", pair=(2, "y"))),
        ({"listed": [1, 2]}, Outer(name="n", listed=[1, 2])),
        ({"named": {"a": 1, 2: 3}}, Outer(name="n", named={"a": 1, "2": 3})),
        ({"either": "x"}, Outer(name="n", either="x")),
        ({"either": 5}, Outer(name="n", either=5)), ({"free": [{"x": 1}]}, Outer(name="n", free=[{"x": 1}])),
    ],
    ids=str,
)  # fmt: skip
def test_values_become_records(value: dict[str, Any], expected: Outer):
    assert made(**value) == expected
    assert type(made(**value).share) is float
    assert from_plain(Outer, to_plain(expected)) == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"name": 5}, "name: expected str, found int 5"),
        ({"share": "x"}, "share: expected float, found str 'x'"),
        ({"share": True}, "share: expected float, found bool True"),
        ({"flag": 1}, "flag: expected bool, found int 1"),
        ({"inner": {"size": True}}, "inner.size: expected int, found bool True"),
        ({"inner": {}}, "inner.size: missing"),
        ({"inner": {"size": 1, "x": 2}}, "inner.x: unknown key; known are kind, size"),
        ({"inner": []}, "inner: expected an object, found list []"),
        ({"inner": {"size": -1}}, "inner: size is negative"),
        ({"inner": {"size": 1, "kind": "c"}}, "inner.kind: 'c' is not one of 'a', 'b', 1"),
        ({"inner": {"size": 1, "kind": True}}, "inner.kind: True is not one of"),
        ({"many": {"size": 1}}, "many: expected a list, found dict"),
        ({"many": [{"size": 1}, {"size": "x"}]}, "many[1].size: expected int, found str 'x'"),
        ({"pair": [1]}, "pair: expected 2 items, found 1"),
        ({"pair": [1, 2]}, "pair[1]: expected str, found int 2"),
        ({"named": []}, "named: expected an object, found list"),
        ({"named": {"a": "x"}}, "named.a: expected int, found str"), ({"either": 1.5}, "either: expected"),
        ({"other": 1}, "other: unknown key"),
        ({"name": "x" * 60, "flag": "y" * 60},
        "flag: expected bool, found str 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy..."),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_not_declared_is_refused_with_its_path(value: dict[str, Any], problem: str):
    with pytest.raises(RecordError) as refused:
        made(**value)
    assert problem in str(refused.value)
    assert len(refused.value.problems) == 1


def test_all_problems_are_told_at_once():
    with pytest.raises(RecordError) as refused:
        from_plain(Outer, {"flag": 1, "x": 2, "many": [{"size": "a"}, {"kind": "c"}]})
    assert list(refused.value.problems) == [
        f"x: unknown key; known are {', '.join(sorted(Outer.__dataclass_fields__))}",
        "name: missing", "flag: expected bool, found int 1", "many[0].size: expected int, found str 'a'",
        "many[1].kind: 'c' is not one of 'a', 'b', 1", "many[1].size: missing",
    ]  # fmt: skip
    for wrong in ([], "x", None):
        with pytest.raises(RecordError, match="Outer: expected an object"):
            from_plain(Outer, wrong)


def test_defaults_are_left_out_and_types_count():
    assert to_plain(Outer(name="n")) == {"name": "n"}
    assert to_plain(Outer(name="n", free=0, share=1.0, listed=[1], inner=Inner(size=2))) == {
        "name": "n", "free": 0, "share": 1.0, "listed": [1], "inner": {"size": 2},
    }  # fmt: skip
    assert to_plain(Outer(name="n", flag=0)) == {"name": "n", "flag": 0}  # pyright: ignore[reportArgumentType]
    assert to_plain({1: (Inner(size=1), [None])}) == {"1": [{"size": 1}, [None]]}

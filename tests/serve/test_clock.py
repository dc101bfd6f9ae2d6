"""The clock of all connections and what it counts, without a connection: who goes when
there are too many, and when."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest
from poolrt.serve.errors import ApiError
from poolrt.serve.http import connections
from poolrt.serve.http.connections import (
    BODY,
    HEAD,
    IDLE,
    LINGER,
    SPARE,
    WORK,
    Clock,
    ConnectionLimits,
    Unsent,
    affordable,
)
from poolrt.serve.http.memory_budget import MOST_NUMBERS, VALUE_BYTES, Budget, Hold, check_items, check_values


class Fake:
    def __init__(
        self, state: int = IDLE, since: float = 0.0, unsent: int = 0, unsent_since: float = 0.0
    ) -> None:
        self.state, self.since, self.unsent, self.unsent_since = state, since, unsent, unsent_since
        self.gone = False
        self.looks = 0

    def look(self, now: float) -> int:
        self.looks += 1
        return self.unsent

    def evict(self) -> None:
        self.gone = True


def turn(step: Any) -> Any:
    async def run() -> Any:
        return await step(asyncio.get_running_loop())

    return asyncio.run(run())


def test_every_state_has_its_time():
    limits = ConnectionLimits(head_s=1, body_s=2, idle_s=3, linger_s=4)
    assert [limits.seconds(state) for state in (HEAD, BODY, WORK, IDLE, LINGER)] == [1, 7.0, math.inf, 3, 4]


@pytest.mark.parametrize(
    ("facts", "period_s"),
    [
        ({}, 0.5),
        ({"head_s": 1.0}, 0.25),
        ({"write_s": 0.4}, 0.1),
        ({"linger_s": 0.01}, 0.02),
        ({"idle_s": 2.0}, 0.5),
        ({"body_s": 1.2}, 0.3),
    ],
)
def test_the_clock_looks_four_times_in_the_shortest_time(facts: dict[str, float], period_s: float):
    assert ConnectionLimits(**facts).period_s == pytest.approx(period_s)  # pyright: ignore[reportArgumentType]


def filled(clock: Clock, loop: Any, fakes: list[Fake]) -> None:
    for fake in fakes:
        assert clock.add(fake, loop)


def test_those_that_wait_longest_for_their_client_go_first():
    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(connections=5))
        working, sending, begun = Fake(WORK), Fake(BODY, 1.0), Fake(HEAD, 1.0)
        older, newer = Fake(IDLE, 5.0), Fake(IDLE, 9.0)
        filled(clock, loop, [working, sending, begun, newer, older])
        gone = []
        for _ in range(4):
            assert clock.add(Fake(WORK), loop)
            gone += [
                fake for fake in (working, sending, begun, newer, older) if fake.gone and fake not in gone
            ]
        assert gone == [older, newer, begun, sending]
        assert not working.gone
        assert len(clock.connections) == 5

    turn(run)


def test_an_answered_connection_goes_before_an_idle_one_and_an_unseen_one_last():
    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(connections=3))
        unseen, seen, lingering = Fake(IDLE, 0.0), Fake(IDLE, 7.0), Fake(LINGER, 9.0)
        filled(clock, loop, [unseen, seen, lingering])
        for expected in (lingering, seen, unseen):
            clock.add(Fake(WORK), loop)
            assert expected.gone

    turn(run)


def test_one_in_sixteen_makes_room():
    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(connections=64))
        fakes = [Fake(IDLE, number + 1.0) for number in range(64)]
        filled(clock, loop, fakes)
        assert not clock.full
        clock.add(Fake(), loop)
        assert [fake.gone for fake in fakes].count(True) == 4
        assert all(fake.gone for fake in fakes[:4])
        assert len(clock.connections) == 61

    turn(run)


def test_beyond_the_limit_only_a_few_are_spared():
    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(connections=2))
        filled(clock, loop, [Fake(WORK) for _ in range(2 + SPARE)])
        assert clock.full
        assert not clock.add(Fake(WORK), loop)
        first = next(iter(clock.connections))
        clock.discard(first)
        clock.discard(first)
        assert clock.add(Fake(WORK), loop)

    turn(run)


def test_the_clock_looks_at_all_and_stops_with_the_last():
    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(head_s=0.04))
        first, second = Fake(), Fake(WORK)
        filled(clock, loop, [first, second])
        await asyncio.sleep(0.1)
        assert min(first.looks, second.looks) >= 1
        clock.discard(first)
        clock.discard(second)
        await asyncio.sleep(0.05)
        assert clock._timer is None
        seen = second.looks
        assert clock.add(second, loop)
        await asyncio.sleep(0.06)
        assert second.looks > seen
        clock.discard(second)

    turn(run)


@pytest.mark.parametrize(
    ("sizes", "gone"),
    [([30, 40, 30], []), ([30, 41, 30], [0]), ([10, 90, 90], [0, 1]), ([101, 1, 1], [0]), ([100, 0, 0], [])],
    ids=str,
)
def test_answers_that_wait_longest_go_when_all_take_too_much(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], gone: list[int]
):
    monkeypatch.setattr(connections, "MOST_UNSENT", 100)

    async def run(loop: Any) -> None:
        clock = Clock(ConnectionLimits(head_s=0.04))
        fakes = [Fake(WORK, unsent=size, unsent_since=float(place)) for place, size in enumerate(sizes)]
        filled(clock, loop, fakes[::-1])
        await asyncio.sleep(0.03)
        assert [place for place, fake in enumerate(fakes) if fake.gone] == gone
        for fake in fakes:
            clock.discard(fake)

    turn(run)


@pytest.mark.parametrize(
    ("sizes", "stuck_at"),
    [
        ([200_000] * 4, 1), ([200_000, 200_000 - 16384, 200_000 - 2 * 16384], None),
        ([200_000, 200_000 - 16383], 1), ([0, 0, 0], None),
        ([200_000, 0, 200_000, 200_000], 3), ([200_000, 150_000, 150_000], 2), ([10, 10], 1),
    ],
    ids=str,
)  # fmt: skip
def test_a_client_takes_at_least_sixteen_kilobytes_a_second(sizes: list[int], stuck_at: int | None):
    unsent = Unsent()
    found = next(
        (second for second, size in enumerate(sizes) if unsent.stuck(100.0 + second, size, 1.0)), None
    )
    assert found == stuck_at


def test_a_client_is_not_judged_before_its_time():
    unsent = Unsent()
    assert not unsent.stuck(100.0, 50_000, 2.0)
    assert unsent.since == 100.0
    assert not unsent.stuck(101.9, 50_000, 2.0)
    assert unsent.stuck(102.0, 50_000, 2.0)
    assert not unsent.stuck(103.0, 0, 2.0)
    assert unsent.since == 0.0


def test_connections_are_no_more_than_files():
    import resource

    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, most), most))
        assert affordable(20) == 20
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == min(300, most)
        grown = affordable(400)
        assert grown == 400 or grown < most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


# --- the budget
# ------------------------------------------------------------------------------------------------------------


def test_a_budget_is_shared_and_given_back():
    budget = Budget(100)
    first, second = Hold(budget), Hold(budget)
    first.take(60)
    first.take(60)  # alone it may take what it needs
    assert budget.used == 120
    for refused in (lambda: second.take(1), lambda: budget.check(1)):
        with pytest.raises(ApiError, match="more than 100 bytes") as told:
            refused()
        assert (told.value.status, told.value.headers) == (429, {"Retry-After": "1"})
    first.give_back()
    first.give_back()
    assert (budget.used, first.size) == (0, 0)
    budget.check(1000)
    second.take(40)
    first.take(60)
    assert budget.used == 100
    with pytest.raises(ApiError):
        second.take(1)
    assert second.size == 40


@pytest.mark.parametrize(
    ("content", "size"),
    [
        (b'{"input": "a"}', 3),
        (b'{"input": ["a", "b"]}', 5),
        (b"[1, 2, 3]", None),
        (b"", 0),
        (b'{"a": 1}', None),
    ],
)
def test_values_cost_what_python_makes_of_them(content: bytes, size: int | None):
    taken = check_values(content, 10)
    assert taken % VALUE_BYTES == 0
    if size is not None:
        assert taken == size * VALUE_BYTES


def test_very_many_values_are_not_parsed():
    assert check_values(b"[" + b"1," * (MOST_NUMBERS - 2) + b"1]", 10) > 0
    with pytest.raises(ApiError, match=f"more than {MOST_NUMBERS} numbers") as told:
        check_values(b"[" + b"1," * (MOST_NUMBERS + 2) + b"1]", 10)
    assert told.value.status == 413
    check_values(b"[" + b'"a",' * 100 + b"1]", 16)
    with pytest.raises(ApiError, match="128 are admitted") as told:
        check_values(b"[" + b'"a",' * 130 + b"1]", 16)
    assert (told.value.status, "--max-items" in str(told.value)) == (413, True)
    with pytest.raises(ApiError, match="128 are admitted"):
        check_values(b"[" + b'"a",' * 130 + b"1]", 1)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"input": ["a"] * 3}, None), ({"input": ["a"] * 4}, "input"), ({"input": [1] * 9}, None),
        ({"input": [1.5] * 9}, None),
        ({"input": [[1]] * 4}, "input"), ({"inputs": {"sentences": ["a"] * 4}}, "inputs.sentences"),
        ({"inputs": {"x": ["a"] * 3}}, None),
        (["a"] * 9, None), ("text", None), ({"a": {"b": {"c": ["x"] * 9}}}, None),
        ({"k" * 200: ["a"] * 4}, "k" * 80),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_items_of_a_request_are_bounded_by_name(value: Any, field: str | None):
    if field is None:
        check_items(value, 3)
        return
    with pytest.raises(ApiError, match="4 items, 3 are admitted") as told:
        check_items(value, 3)
    assert (told.value.status, told.value.param) == (400, field)

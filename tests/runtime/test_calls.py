"""The line of one kind of items: sorted by length, taken in runs, filled up from below."""

from __future__ import annotations

import pytest
from poolrt.runtime.batching.plan import BatchLimits
from poolrt.runtime.batching.queue import Answer, Call, Counters, Entry, Pool, Ticket
from poolrt.runtime.inputs.items import Item

LIMITS = BatchLimits(max_tokens=100, launch_tokens=4)


def entries(*lengths: int, call: Call | None = None, start: int = 0) -> list[Entry]:
    owner = call or Call(Ticket(), Answer([], 0), len(lengths), 0.0, None)
    made = [
        Entry(owner, index, Item(ids=[1] * length), length, ("pooled",))
        for index, length in enumerate(lengths)
    ]
    for arrival, entry in enumerate(made, start):
        entry.order = (entry.cost, arrival)
    return made


def pool(*lengths: int) -> tuple[Pool, list[Entry]]:
    made, given = Pool(), entries(*lengths)
    made.add(given)
    return made, given


def test_items_are_sorted_by_length_then_arrival():
    made, given = pool(5, 3, 5, 1)
    assert made.costs == [1, 3, 5, 5]
    assert [given.index(entry) for entry in made.entries] == [3, 1, 0, 2]
    (late,) = entries(3, start=9)
    made.add([late])
    assert made.costs == [1, 3, 3, 5, 5]
    assert made.entries[2] is late


def test_a_run_is_taken_around_its_seed_and_leaves_the_rest():
    made, given = pool(1, 7, 8, 9, 30)
    taken = made.take(given[2], LIMITS)
    assert sorted(entry.cost for entry in taken) == [7, 8, 9]
    assert made.costs == [1, 30]
    assert [entry.cost for entry in made.entries] == [1, 30]


@pytest.mark.parametrize(
    ("width", "rows", "padding", "taken"),
    [
        (8, 9, 0, [8, 8]), (8, 9, 1, [7, 8, 8]), (8, 9, 2, [7, 8, 8]), (8, 9, 3, [6, 7, 8, 8]),
        (8, 2, 9, [8, 8]), (8, 1, 9, [8]),
        (8, 0, 9, []), (7, 9, 0, [7]), (5, 9, 0, []), (5, 9, 3, []), (5, 9, 4, [1]), (100, 9, 99, [30]),
        (9, 9, 1, [8]), (9, 9, 2, [8, 8]),
    ],
)  # fmt: skip
def test_what_fits_beside_a_batch_is_the_longest_short_of_its_padding(
    width: int, rows: int, padding: int, taken: list[int]
):
    made, _ = pool(1, 6, 7, 8, 8, 30)
    found = made.beside(width, rows, padding)
    assert [entry.cost for entry in found] == taken
    left = [1, 6, 7, 8, 8, 30]
    for length in taken:
        left.remove(length)
    assert made.costs == [entry.cost for entry in made.entries] == left


def test_a_call_that_leaves_takes_its_items_along():
    first, second = (Call(Ticket(), Answer([], 0), 2, 0.0, None) for _ in range(2))
    made = Pool()
    made.add([*entries(3, 9, call=first), *entries(5, 4, call=second, start=5)])
    made.drop({id(first)})
    assert made.costs == [4, 5]
    assert {entry.call for entry in made.entries} == {second}


def test_padding_is_a_share_of_the_tokens_asked_for():
    assert Counters(tokens=10, slots=15).padding == 0.5
    assert Counters().padding == -1.0
    entry = entries(3)[0]
    assert entry.kind == (("pooled",), 0, 0)

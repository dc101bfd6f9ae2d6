"""What is kept of prefixes: the longest shared beginning, its copies, the bytes and the salt."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from poolrt.runtime.batching.prefix_cache import LEAST, Ids, PrefixCache, beginning, common
from poolrt.runtime.inputs.items import Prefix

BYTES_PER_TOKEN = 4 * 2 * 3 + 4
"""Two layers and heads of width 3 in one, and the token's id."""


def ids(*numbers: int) -> Ids:
    return np.array(numbers, np.int32)


def counted(count: int, *end: int) -> Ids:
    return ids(*range(count), *end)


def past(tokens: Ids) -> NDArray[np.float32]:
    """Keys and values that say which token they are of: [2, 1, tokens, 3]."""
    return np.broadcast_to(tokens[:, None].astype(np.float32), (2, 1, len(tokens), 3)).copy()


def holds(prefix: Prefix | None, tokens: Ids) -> bool:
    return prefix is not None and prefix.past is not None and np.array_equal(prefix.past, past(tokens))


@pytest.fixture
def cache() -> PrefixCache:
    return PrefixCache(100 * BYTES_PER_TOKEN)


def test_a_text_finds_the_longest_prefix_that_it_begins_with(cache: PrefixCache) -> None:
    for count in (20, 40, 30):
        cache.put(counted(count), "", past(counted(count)))
    assert holds(cache.longest(counted(35, 99), ""), counted(30))
    assert cache.longest(ids(*range(1, 40)), "") is None


def test_the_beginning_of_a_longer_prefix_is_copied_and_kept(cache: PrefixCache) -> None:
    cache.put(counted(40), "", past(counted(40)))
    copied = cache.longest(counted(23, 99, 98), "")
    assert holds(copied, counted(23))
    assert cache.longest(counted(23, 97), "") is copied, "texts behind the same prefix share batches"
    assert cache.bytes == 63 * BYTES_PER_TOKEN


def test_a_prefix_in_whole_is_preferred_to_a_copy_that_saves_little(cache: PrefixCache) -> None:
    cache.put(counted(20), "", past(counted(20)))
    cache.put(counted(60), "", past(counted(60)))
    assert holds(cache.longest(counted(20 + LEAST - 1, 99), ""), counted(20))
    assert holds(cache.longest(counted(20 + LEAST, 99), ""), counted(20 + LEAST))


def test_a_beginning_may_be_cut_to_steps(cache: PrefixCache) -> None:
    cache.put(counted(60), "", past(counted(60)))
    assert holds(cache.longest(counted(45, 99), "", step=LEAST), counted(32))


def test_few_shared_tokens_are_no_prefix(cache: PrefixCache) -> None:
    cache.put(counted(40), "", past(counted(40)))
    assert cache.longest(counted(LEAST - 1, 99, 98), "") is None
    assert cache.longest(counted(LEAST, 99, 98), "") is not None


def test_a_salt_hides_prefixes_from_other_salts(cache: PrefixCache) -> None:
    cache.put(counted(40), "mine", past(counted(40)))
    assert cache.longest(counted(40), "") is None
    assert cache.longest(counted(40), "other") is None
    assert cache.longest(counted(40), "mine") is not None


def test_prefixes_used_longest_ago_make_room(cache: PrefixCache) -> None:
    first, second, third = (ids(*range(start, start + 40)) for start in (100, 200, 300))
    cache.put(first, "", past(first))
    cache.put(second, "", past(second))
    assert cache.longest(first, "") is not None
    cache.put(third, "", past(third))
    assert cache.bytes == 80 * BYTES_PER_TOKEN
    assert cache.longest(second, "") is None
    assert cache.longest(first, "") is not None


def test_a_prefix_larger_than_the_cache_serves_its_own_call_only(cache: PrefixCache) -> None:
    cache.put(counted(40), "", past(counted(40)))
    assert holds(cache.put(counted(101), "", past(counted(101))), counted(101))
    assert len(cache) == 1
    assert cache.bytes == 40 * BYTES_PER_TOKEN


def test_the_same_prefix_is_kept_once(cache: PrefixCache) -> None:
    kept = cache.put(counted(40), "", past(counted(40)))
    assert cache.put(counted(40), "", past(counted(40))) is kept
    assert cache.bytes == 40 * BYTES_PER_TOKEN


ROWS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=5)


@given(ROWS)
def test_the_beginning_of_texts_leaves_a_token_of_each(rows: list[list[int]]) -> None:
    shared = beginning(rows)
    assert all(row[: len(shared)] == shared.tolist() and len(row) > len(shared) for row in rows)
    longer = len(shared) + 1
    assert len({tuple(row[:longer]) for row in rows}) > 1 or longer == min(map(len, rows))


@given(st.lists(st.integers(0, 2), max_size=8), st.lists(st.integers(0, 2), max_size=8))
def test_common_is_where_two_texts_part(a: list[int], b: list[int]) -> None:
    shared = common(ids(*a), ids(*b))
    assert a[:shared] == b[:shared]
    assert shared in (len(a), len(b)) or a[shared] != b[shared]

"""The bookkeeping of shape buckets and captured graphs, which needs no GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from poolrt.exporter.profiles import profiles
from poolrt.runtime.artifact.manifest import Engine
from poolrt.runtime.engines.cuda_graphs import LeastRecent, bucket, choose
from poolrt.runtime.engines.trt_buffers import fill
from poolrt.runtime.engines.trt_library import mismatch

SHAPES = profiles(8192)


@given(rows=st.integers(1, 256), tokens=st.integers(1, 8192))
def test_a_bucket_holds_its_batch_and_stays_inside_its_profile(rows: int, tokens: int) -> None:
    index = choose(rows, tokens, SHAPES)
    assert index is not None
    profile = SHAPES[index]
    rows = min(rows, profile.largest[0])
    padded = bucket(rows, tokens, profile)[:2]
    assert rows <= padded[0] <= profile.largest[0]
    assert tokens <= padded[1] <= profile.largest[1]
    assert padded[1] <= max(8, tokens * 1.13 + 8), "more than an eighth of the row is filler"
    assert bucket(*padded, profile)[:2] == padded, "a bucket is its own bucket"


def test_the_number_of_buckets_is_small() -> None:
    (profile,) = [profile for profile in SHAPES if profile.largest[1] == 512]
    assert len({bucket(1, tokens, profile)[1] for tokens in range(1, 513)}) <= 36


def test_more_tokens_than_any_profile_takes_are_told() -> None:
    assert choose(1, 8193, SHAPES) is None


def test_a_profile_with_room_for_all_rows_comes_first() -> None:
    assert SHAPES[choose(200, 30, SHAPES)].largest == (256, 32)  # type: ignore[index]
    assert SHAPES[choose(1, 33, SHAPES)].largest == (128, 128)  # type: ignore[index]


def test_the_least_recently_used_one_is_released_first() -> None:
    released: list[str] = []
    held: LeastRecent[int, str] = LeastRecent(2, released.append)
    assert [held.get(key, lambda key=key: f"graph {key}") for key in (1, 2, 1, 3)] == [
        "graph 1",
        "graph 2",
        "graph 1",
        "graph 3",
    ]
    assert released == ["graph 2"]
    assert (1 in held, 2 in held, 3 in held) == (True, False, True)
    held.clear()
    assert (released, held.released, len(held)) == (["graph 2", "graph 1", "graph 3"], 3, 0)


def test_the_old_one_goes_before_the_new_one_is_made() -> None:
    alive: list[int] = []
    held: LeastRecent[int, int] = LeastRecent(1, alive.remove)

    def make(key: int) -> int:
        assert not alive, "both would have to fit at once"
        alive.append(key)
        return key

    for key in (1, 2, 3):
        held.get(key, lambda key=key: make(key))
    assert alive == [3]


def test_filler_rows_attend_to_something() -> None:
    mask = np.full((4, 8), 9, np.int64)
    fill(mask, np.array([[1, 1, 1], [1, 0, 0]], np.int64), 0)
    assert (
        mask.tolist() == [[1, 1, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0]] + [[1, 1, 1, 0, 0, 0, 0, 0]] * 2
    )


ENGINE = Engine(
    backend="tensorrt-rtx",
    file="engines/tensorrt-rtx-sm89-1.7.1-fp16/model.engine",
    graph="model.onnx",
    device="sm89",
    version="1.7.1",
    precision="fp16",
    profiles=profiles(512),
)


@pytest.mark.parametrize(
    ("device", "version", "told"),
    [
        ("sm90", "1.7.1", "compiled for sm89, this GPU is sm90"),
        ("sm89", "1.8.0", "compiled by tensorrt-rtx 1.7.1, installed is 1.8.0"),
        (None, "1.7.1", "no NVIDIA GPU"),
        ("sm90", "1.8.0", "this GPU is sm90 and compiled by tensorrt-rtx 1.7.1"),
    ],
    ids=["device", "library", "no GPU", "both"],
)
def test_a_mismatch_says_exactly_what_differs(device: str | None, version: str, told: str) -> None:
    message = mismatch(ENGINE, device=device, version=version)
    assert message is not None
    assert told in message
    assert "model.onnx" in message, "the way out is named"


def test_a_fitting_engine_has_no_mismatch() -> None:
    assert mismatch(ENGINE, device="sm89", version="1.7.1") is None

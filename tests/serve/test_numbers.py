"""Number formats are bit for bit torch's and ml_dtypes'."""

from __future__ import annotations

import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from poolrt.runtime.answers.sparse import sparse_weights
from poolrt.serve.encodings import WidthError, bfloat16, convert, int8, packed, to_bytes

TORCH = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn,
    "fp8_e5m2": torch.float8_e5m2,
}
# Every 65537 * 3rd bit pattern: all exponents, both signs, infinities and NaNs among them.
PATTERNS = np.arange(0, 2**32, 65537 * 3, dtype=np.uint64).astype(np.uint32).view(np.float32)
EDGES = np.array(
    [0, -0.0, 448, 449, 463.99, 464, 465, 480, 57344, 61439, 61440, 65519, 65520, 2**-9, 2**-10, 1.5 * 2**-10,
    2**-16, 2**-17, 2**-18,
     np.inf, -np.inf, 1e-45, 3.4e38], dtype=np.float32,
)  # fmt: skip


@pytest.mark.parametrize("values", [PATTERNS, EDGES], ids=["patterns", "edges"])
@pytest.mark.parametrize("dtype", TORCH)
def test_bits_are_torchs(dtype, values):
    ours = convert(values, dtype)
    theirs = torch.from_numpy(values.copy()).to(TORCH[dtype])
    bits = theirs.view(torch.uint16 if theirs.element_size() == 2 else torch.uint8).numpy()
    told = ~np.isnan(values)  # a NaN has many spellings
    np.testing.assert_array_equal(ours.view(bits.dtype)[told], bits[told])
    assert np.isnan(theirs.float().numpy()[~told]).all()


@pytest.mark.parametrize(
    ("dtype", "kind"), [("bfloat16", ml_dtypes.bfloat16), ("fp8_e5m2", ml_dtypes.float8_e5m2)]
)
def test_nan_stays_nan(dtype, kind):
    assert np.isnan(convert(np.array([np.nan], np.float32), dtype).view(kind).astype(np.float32)).all()


@given(arrays(np.float32, 16, elements=st.floats(-500, 500, width=32)))
def test_fp8_is_the_nearest_of_all_fp8_numbers(values):
    every = np.arange(256, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    every = every[~np.isnan(every)]
    ours = convert(values, "fp8_e4m3").view(ml_dtypes.float8_e4m3fn).astype(np.float64)
    nearest = np.abs(every[None, :] - values[:, None].astype(np.float64)).min(axis=1)
    np.testing.assert_array_equal(np.abs(ours - values), nearest)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "fp8_e4m3", "int8", "ubinary"])
def test_orders_differ_by_a_swap_per_element(dtype):
    values = np.random.default_rng(0).standard_normal(64).astype(np.float32)
    little, big, native = (to_bytes(values, dtype, order) for order in ("little", "big", "native"))
    size = convert(values, dtype).itemsize
    swapped = np.frombuffer(little, np.uint8).reshape(-1, size)[:, ::-1].tobytes()
    assert big == swapped
    assert native == (little if sys.byteorder == "little" else big)


def test_bits_of_a_matrix_are_row_major():
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert to_bytes(values.T, "bfloat16", "little") == bfloat16(np.ascontiguousarray(values.T)).tobytes()


def test_int8_keeps_the_direction():
    values = np.random.default_rng(0).standard_normal((20, 384)).astype(np.float32)
    coarse = int8(values).astype(np.float32)
    cosine = (values * coarse).sum(1) / np.linalg.norm(values, axis=1) / np.linalg.norm(coarse, axis=1)
    assert cosine.min() > 0.9999  # steps of 1/127 of the largest value: worst measured 0.99995
    assert np.abs(int8(values)).max() == 127
    np.testing.assert_array_equal(convert(values, "uint8").astype(int) - 128, int8(values))


@pytest.mark.parametrize(
    ("values", "byte"),
    [
        ([1, -1] * 4, 170),
        ([-1, 1, -1, 1, -1, -1, 1, -1], 82),
        ([1] * 8, 255),
        ([-1] * 8, 0),
        ([0.0, -0.0] * 4, 255),
        ([-5e-45] * 8, 0),
    ],
    ids=["alternating", "mixed", "positive", "negative", "zeros", "tiny"],
)
def test_bits_are_packed_as_cohere_packs_them(values, byte):
    array = np.array(values, np.float32)
    assert packed(array).tolist() == [byte]
    assert convert(array, "binary").tolist() == [byte - 128]


@pytest.mark.parametrize("width", [7, 10])
def test_a_width_that_is_no_multiple_of_eight_is_refused(width):
    with pytest.raises(WidthError, match="multiple of 8"):
        packed(np.zeros(width, np.float32))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]], ids=str)
def test_the_largest_weight_of_a_repeated_token_counts(order):
    weights = np.array([0.25, 0.75, 0.5], np.float32)[order]
    assert sparse_weights(weights, [7, 7, 7], frozenset()) == {7: 0.75}


def test_sparse_weights_leave_out_special_tokens_and_zeros():
    weights = np.array([0.5, 0.25, 0.0, -1.0, 0.75, 0.125], np.float32)
    assert sparse_weights(weights, [0, 7, 8, 9, 2, 11], frozenset({0, 2})) == {7: 0.25, 11: 0.125}
    assert sparse_weights(np.array([1e-6], np.float32), [7], frozenset()) == {7: pytest.approx(1e-6)}
    # One weight for every id of a vocabulary: places are ids, and none is special.
    assert sparse_weights(weights, [0, 7], frozenset({0, 2})) == {0: 0.5, 1: 0.25, 4: 0.75, 5: 0.125}

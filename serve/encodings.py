"""float32 arrays in every number format that a client may ask for, without torch.

bfloat16 and the two fp8 formats round to nearest, ties to even, in integer arithmetic. The tests compare them
with torch and ml_dtypes.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

TINY = np.float32(np.finfo(np.float32).tiny)
INTEGERS = frozenset({"int8", "uint8", "binary", "ubinary"})
"""Formats that a JSON answer shows as lists of integers."""


class WidthError(ValueError):
    """A width that cannot be packed into bytes."""


def convert(values: Floats, dtype: str) -> NDArray[Any]:
    """`values` in `dtype`: one element per value, or one per eight values (binary, ubinary).

    bfloat16 and fp8 are returned as raw bits. Raises WidthError.
    """
    match dtype:
        case "float32":
            return np.ascontiguousarray(values, dtype=np.float32)
        case "float16":
            with np.errstate(over="ignore"):
                return values.astype(np.float16)
        case "bfloat16":
            return bfloat16(values)
        case "fp8_e4m3":
            return fp8(values, exponent_bits=4, mantissa_bits=3, infinite=False)
        case "fp8_e5m2":
            return fp8(values, exponent_bits=5, mantissa_bits=2, infinite=True)
        case "int8":
            return int8(values)
        case "uint8":
            return (int8(values).astype(np.int16) + 128).astype(np.uint8)
        case "ubinary":
            return packed(values)
        case "binary":
            return (packed(values).astype(np.int16) - 128).astype(np.int8)
    raise AssertionError(f"no number format {dtype!r}")


def to_bytes(values: Floats, dtype: str, endianness: str) -> bytes:
    """Row-major raw bytes; `native` is this machine's byte order. Raises WidthError."""
    converted = convert(values, dtype)
    if endianness not in ("native", sys.byteorder) and converted.itemsize > 1:
        converted = converted.byteswap()
    return converted.tobytes()


def bfloat16(values: Floats) -> NDArray[np.uint16]:
    """Raw bits: the upper half of float32, rounded."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    # Rounding up the bits of a NaN could turn it into infinity.
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def fp8(values: Floats, *, exponent_bits: int, mantissa_bits: int, infinite: bool) -> NDArray[np.uint8]:
    """Raw bits. In a format without infinity (e4m3fn) what exceeds the largest value becomes that value, as
    in torch 2.13."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    bits = values.view(np.uint32)
    sign = ((bits >> np.uint32(24)) & np.uint32(0x80)).astype(np.uint8)
    finite = np.isfinite(values)
    magnitude = np.where(finite, np.abs(np.where(finite, values, 0)), 0).astype(np.float64)
    bias = 2 ** (exponent_bits - 1) - 1
    # The exponent of each value, at least that of the smallest normal number: below it the step between
    # numbers stays the same (subnormals).
    exponent = np.where(magnitude == 0, 1 - bias, np.maximum(np.frexp(magnitude)[1] - 1, 1 - bias))
    steps = np.rint(magnitude * 2.0 ** (mantissa_bits - exponent).astype(np.float64))
    # `steps` counts units in the last place, and 2^m of them are the next exponent. So a value that rounds up
    # to the next exponent gets the right code without a special case.
    code = (exponent + bias - 1) * 2**mantissa_bits + steps
    if infinite:
        infinity = (2**exponent_bits - 1) * 2**mantissa_bits
        code = np.where(np.isinf(values), infinity, np.minimum(code, infinity))
        code = np.where(np.isnan(values), infinity + 2 ** (mantissa_bits - 1), code)
    else:
        nan = 2 ** (exponent_bits + mantissa_bits) - 1
        code = np.where(np.isnan(values), nan, np.where(finite, np.minimum(code, nan - 1), nan - 1))
    return (code.astype(np.uint8) | sign).astype(np.uint8)


def int8(values: Floats) -> NDArray[np.int8]:
    """Each vector (last axis) scaled by its largest magnitude to -127..127: keeps cosine similarity, not
    length."""
    scale = np.maximum(np.abs(values).max(axis=-1, keepdims=True), TINY)
    return np.rint(values / scale * np.float32(127)).astype(np.int8)


def packed(values: Floats) -> NDArray[np.uint8]:
    """One bit per value, 1 where it is at least zero (-0.0 included), most significant first.
    Raises WidthError."""
    if values.shape[-1] % 8:
        raise WidthError(
            f"binary embeddings need a width that is a multiple of 8, this one is {values.shape[-1]}"
        )
    return np.packbits(values >= 0, axis=-1)

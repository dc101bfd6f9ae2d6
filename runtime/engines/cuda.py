"""The CUDA runtime by cuda-bindings, which is imported only when an engine is opened."""

from __future__ import annotations

import ctypes
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError


class Cuda:
    """cuda-bindings' runtime API. A call returns what the function returns besides its error code, and raises
    EngineError for a code that is not success."""

    def __init__(self) -> None:
        try:
            self.api = importlib.import_module("cuda.bindings.runtime")
        except ModuleNotFoundError:
            raise EngineError(
                "running TensorRT engines needs cuda-bindings; pip install "
                "'poolrt[tensorrt-rtx]' or 'poolrt[tensorrt]'"
            ) from None

    def __call__(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self.api, function)(*arguments)
        if code != self.api.cudaError_t.cudaSuccess:
            raise EngineError(f"{function}: {code.name} ({self.describe(code)})")
        return results[0] if len(results) == 1 else results or None

    def describe(self, code: Any) -> str:
        _, text = self.api.cudaGetErrorString(code)
        return text.decode() if isinstance(text, bytes) else str(text)

    def device(self) -> str | None:
        """`sm89` of the current GPU, None without a usable one."""
        code, count = self.api.cudaGetDeviceCount()
        if code != self.api.cudaError_t.cudaSuccess or not count:
            return None
        current, names = self("cudaGetDevice"), self.api.cudaDeviceAttr
        major = self("cudaDeviceGetAttribute", names.cudaDevAttrComputeCapabilityMajor, current)
        return f"sm{major}{self('cudaDeviceGetAttribute', names.cudaDevAttrComputeCapabilityMinor, current)}"


def host_array(address: int, size: int) -> NDArray[np.uint8]:
    """[size] bytes of host memory at an address; the caller keeps them allocated."""
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

"""Engine libraries, one file each, behind one protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..manifest import Profile

Arrays = Mapping[str, NDArray[Any]]


class Session(Protocol):
    """An opened engine. Owned by one worker thread: `run` is never called from two threads at once."""

    @property
    def backend(self) -> str:
        """`onnxruntime`, `tensorrt-rtx`, ..."""
        ...

    @property
    def profiles(self) -> Sequence[Profile]:
        """Shapes it accepts; empty: any."""
        ...

    def run(self, inputs: Arrays, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """Runs one batch. `inputs` are int64 [batch, tokens], names as in the manifest's graph; `outputs` names the graph outputs
        wanted, answered in that order as float32. Raises EngineError."""
        ...

    def close(self) -> None: ...

"""A .npy file of vectors that grows. It can be loaded after every `append`, so a program that ends early
keeps the finished vectors."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from ..errors import InputError
from ..outputs import Floats

SAME = 0.99
"""Least cosine of a text's vector with itself, computed in another batch or by another engine. The cosine of
different texts is far below."""


class VectorFile:
    """[rows, dim] float32 at `path`. The first `append` replaces an existing file; with `resume` it goes on
    with it. Raises InputError for a file that cannot be written, or resumed.
    """

    def __init__(self, path: Path, *, resume: bool = False) -> None:
        self.path = path
        self.rows, self.dim = 0, 0
        if not path.parent.is_dir():
            raise self._unwritable(OSError(errno.ENOENT, os.strerror(errno.ENOENT)))
        if resume and path.exists():
            self.rows, self.dim = self._known().shape

    def check(self, vector: Floats) -> None:
        """Raises InputError unless the last row is this vector, [dim]: else the file comes from other texts,
        or from a model of other weights or width."""
        last = np.array(self._known()[self.rows - 1])
        lengths = np.linalg.norm(last) * np.linalg.norm(vector) if last.shape == vector.shape else 0.0
        if lengths == 0 or float(last @ vector) / lengths < SAME:
            raise InputError(
                f"--resume: row {self.rows} of {self.path} is not the vector that text {self.rows} has "
                "here; give the same texts and model, or write to another file",
                field="resume",
            )

    def append(self, vectors: Floats) -> None:
        """Writes rows [n, dim] float32, then the header that counts them. Raises InputError for a file
        that cannot be written."""
        if self.rows == 0:
            self.dim = vectors.shape[1]
        data = np.ascontiguousarray(vectors, dtype="<f4")
        try:
            with self.path.open("r+b" if self.rows else "wb") as file:
                # numpy pads the header for a first axis of any length, so its size never changes.
                npy.write_array_header_1_0(file, self._header(self.rows))
                file.seek(self.rows * self.dim * 4, os.SEEK_CUR)
                file.write(data.tobytes())
                file.truncate()
                file.flush()
                file.seek(0)
                npy.write_array_header_1_0(file, self._header(self.rows + len(data)))
        except OSError as error:
            raise self._unwritable(error) from None
        self.rows += len(data)

    def _header(self, rows: int) -> dict[str, object]:
        return {"descr": "<f4", "fortran_order": False, "shape": (rows, self.dim)}

    def _known(self) -> Floats:
        try:
            vectors = npy.open_memmap(self.path, mode="r")
        except (OSError, ValueError):
            vectors = None
        if (
            vectors is None
            or vectors.ndim != 2
            or vectors.dtype != np.dtype("<f4")
            or not vectors.flags.c_contiguous
        ):
            raise InputError(
                f"--resume: {self.path} holds no vectors that poolrt wrote; write to another file",
                field="resume",
            )
        return vectors

    def _unwritable(self, error: OSError) -> InputError:
        return InputError(f"--out {self.path}: cannot be written ({error.strerror})", field="out")

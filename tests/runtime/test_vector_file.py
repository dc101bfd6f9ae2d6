"""A .npy file that grows: whole after every piece, and gone on with only by the vectors that it holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from poolrt.runtime.commands.vector_file import SAME, VectorFile
from poolrt.runtime.errors import InputError

ROWS = np.arange(1, 13, dtype=np.float32).reshape(4, 3)


def test_a_file_can_be_loaded_after_every_piece(tmp_path: Path):
    file = VectorFile(tmp_path / "vectors.npy")
    assert (file.rows, file.dim) == (0, 0)
    for start, end in ((0, 1), (1, 3), (3, 4)):
        file.append(ROWS[start:end].astype(np.float64))  # pyright: ignore[reportArgumentType]
        loaded = np.load(tmp_path / "vectors.npy", allow_pickle=False)
        assert loaded.dtype == np.dtype("<f4")
        assert loaded.tolist() == ROWS[:end].tolist()
        assert (file.rows, file.dim) == (end, 3)


def test_a_file_is_replaced_unless_it_is_resumed(tmp_path: Path):
    path = tmp_path / "vectors.npy"
    np.save(path, ROWS)
    resumed = VectorFile(path, resume=True)
    assert (resumed.rows, resumed.dim) == (4, 3)
    resumed.append(ROWS[:2])
    assert np.load(path).tolist() == [*ROWS.tolist(), *ROWS[:2].tolist()]
    anew = VectorFile(path)
    assert np.load(path).shape == (6, 3)  # nothing is lost before there is something new
    anew.append(ROWS[:1, :2])
    assert np.load(path).tolist() == ROWS[:1, :2].tolist()
    assert VectorFile(tmp_path / "new.npy", resume=True).rows == 0


def test_the_last_row_must_be_the_vector_of_the_same_text(tmp_path: Path):
    path = tmp_path / "vectors.npy"
    np.save(path, np.array([[1.0, 0.0], [0.0, 2.0]], np.float32))
    file = VectorFile(path, resume=True)
    sine = (1 - SAME**2) ** 0.5
    file.check(np.array([0.0, 5.0], np.float32))
    file.check(np.array([sine * 0.9, SAME], np.float32))
    for other in ([1.0, 0.0], [0.0, -1.0], [0.2, 0.9], [0.0, 0.0], [0.0, 2.0, 0.0]):
        with pytest.raises(InputError, match=r"row 2 of .* is not the vector that text 2 has") as error:
            file.check(np.array(other, np.float32))
        assert error.value.field == "resume"
    assert 0.98 < SAME < 1


@pytest.mark.parametrize(
    "content",
    [
        np.zeros(3, np.float32),
        np.zeros((2, 2), np.float64),
        np.asfortranarray(np.zeros((2, 3), np.float32)),
        b"",
        b"no numbers",
        None,
    ],
    ids=["one axis", "float64", "columns", "empty", "text", "archive"],
)
def test_a_file_that_is_not_ours_is_refused_and_stays(tmp_path: Path, content: np.ndarray | bytes | None):
    path = tmp_path / "vectors.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is None:
        with path.open("wb") as file:
            np.savez(file, a=ROWS)
    else:
        np.save(path, content)
    before = path.read_bytes()
    with pytest.raises(InputError, match="holds no vectors that poolrt wrote") as error:
        VectorFile(path, resume=True)
    assert error.value.field == "resume"
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_said_before_the_work_and_later(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be written \\(No such file or directory\\)") as error:
        VectorFile(tmp_path / "nowhere" / "vectors.npy")
    assert error.value.field == "out"
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written \\(Is a directory\\)"):
        VectorFile(tmp_path / "folder").append(ROWS)

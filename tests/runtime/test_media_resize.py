"""The two forms of the resize, numpy and compiled, give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from poolrt.runtime.inputs.media import native
from poolrt.runtime.inputs.media.resize import PANEL, by_numpy, resized

from tests.pictures import drawn


@pytest.fixture(autouse=True)
def _forgets_what_it_knows_of_the_library() -> Iterator[None]:
    native._agrees.cache_clear()
    yield
    native._agrees.cache_clear()


def sizes(count: int) -> list[tuple[int, int, int, int]]:
    """(width, height) of a picture and of its result, from 1 to some hundred pixels."""
    generator = np.random.default_rng(0)
    return [tuple(int(side) for side in np.exp(generator.uniform(0, 6, 4))) for _ in range(count)]  # pyright: ignore[reportReturnType]


def both(planes: np.ndarray, height: int, width: int, resample: Any, kernel: Any) -> tuple[Any, np.ndarray]:
    whole = ((0, height), (0, width))
    return (
        native._computed(planes, height, width, resample, kernel),
        by_numpy(planes, height, width, resample, kernel, *whole),
    )


@pytest.mark.parametrize("kernel", ["torchvision", "pillow"])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos"])
def test_the_compiled_form_gives_the_bytes_of_the_numpy_form(resample: str, kernel: str) -> None:
    for number, (width, height, wide, tall) in enumerate(sizes(40)):
        planes = drawn(width, height, number % 5).transpose(2, 0, 1)
        compiled, plain = both(planes, tall, wide, resample, kernel)
        np.testing.assert_array_equal(compiled, plain, err_msg=f"{width}x{height} to {wide}x{tall}")


@pytest.mark.parametrize("resample", ["box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_two_passes_of_any_pillow_give_the_bytes_of_the_numpy_form(resample: str) -> None:
    code = Image.Resampling[resample.upper()]
    for number, (width, height, wide, tall) in enumerate(sizes(30)):
        pixels = drawn(width, height, number % 5)
        image = Image.fromarray(pixels)
        # One pass for each axis: Pillow 13 would turn their order for some sizes.
        expected = image.resize((wide, height), code).resize((wide, tall), code)
        _, plain = both(pixels.transpose(2, 0, 1), tall, wide, resample, "pillow")
        np.testing.assert_array_equal(plain, np.asarray(expected).transpose(2, 0, 1))


@pytest.mark.parametrize("kernel", ["torchvision", "pillow"])
def test_results_wider_than_a_panel_are_put_together_from_their_parts(kernel: Any) -> None:
    for width, height, wide, tall in (
        (50, 37, 2 * PANEL + 70, 33), (PANEL + 5, 90, PANEL + 5, 200), (3000, 300, PANEL + 33, 41),
    ):  # fmt: skip
        planes = drawn(width, height).transpose(2, 0, 1)
        for resample in ("bicubic", "lanczos"):
            compiled, plain = both(planes, tall, wide, resample, kernel)
            np.testing.assert_array_equal(compiled, plain, err_msg=f"{width}x{height} to {wide}x{tall}")


@pytest.mark.parametrize("kernel", ["torchvision", "pillow"])
def test_a_part_is_the_part_of_the_whole(kernel: Any) -> None:
    planes = drawn(150, 90).transpose(2, 0, 1)
    for height, width in ((60, 200), (200, 50), (90, 300), (33, 150)):
        whole = resized(planes, height, width, resample="bicubic", kernel=kernel)
        part = by_numpy(planes, height, width, "bicubic", kernel, (5, 29), (11, 48))
        np.testing.assert_array_equal(part, whole[:, 5:29, 11:48])


def test_black_and_white_stay_what_they_are_and_overshoot_is_cut() -> None:
    edge = np.zeros((40, 40, 3), np.uint8)
    edge[:, 20:] = 255
    for kernel in ("torchvision", "pillow"):
        values = both(edge.transpose(2, 0, 1), 31, 97, "lanczos", kernel)[1]
        assert (values[:, :, 0] == 0).all()
        assert (values[:, :, -1] == 255).all()


class Wrong:
    """A library whose results are off by one, or that panics."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def from_json(self, settings: str, backend: str, kind: None) -> Wrong:
        return self

    def preprocess_images(self, pictures: Any, threads: int, layout: None) -> np.ndarray:
        if self.error is not None:
            raise self.error
        return np.zeros((1, 3, 17, 70), np.float32)


class PanicException(BaseException):
    pass


@pytest.mark.parametrize(
    "library",
    [None, Wrong(), Wrong(ValueError()), Wrong(PanicException())],
    ids=["missing", "wrong", "fails", "panics"],
)
def test_a_library_that_is_missing_wrong_or_fails_is_not_used(library: Any, monkeypatch: Any) -> None:
    planes = drawn(100, 80).transpose(2, 0, 1)
    expected = resized(planes, 17, 70, resample="bicubic", kernel="torchvision")
    native._agrees.cache_clear()
    monkeypatch.setattr(native, "_library", lambda: library)
    result = resized(planes, 17, 70, resample="bicubic", kernel="torchvision")
    np.testing.assert_array_equal(result, expected)
    assert result.any()

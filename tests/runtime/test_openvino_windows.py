"""Attention within a window is computed by blocks, and is what numpy computes of all keys."""

from __future__ import annotations

import numpy as np
import pytest
from poolrt.runtime.engines import openvino_windows

library = pytest.importorskip("openvino")
HEADS, WIDTH = 2, 4
# float32 sums of a few dozen keys in another order, of values around 1.
ROUNDING = 2e-6
MASKED = np.float32(-3e38)


def attention() -> object:
    """A graph as the exporter writes it: softmax(q k + mask) v."""
    ops = library.opset13
    q, keys, v = (
        ops.parameter([-1, HEADS, *shape], np.float32, name)
        for name, shape in (("q", (-1, WIDTH)), ("k", (WIDTH, -1)), ("v", (-1, WIDTH)))
    )
    mask = ops.parameter([-1, 1, -1, -1], np.float32, "mask")
    weights = ops.softmax(ops.add(ops.matmul(q, keys, False, False), mask), 3)
    weights.set_friendly_name("softmax")
    return library.Model([ops.matmul(weights, v, False, False)], [q, keys, v, mask])


@pytest.mark.parametrize(
    ("left", "right", "tokens"),
    [(2, 2, 1), (2, 2, 4), (2, 2, 21), (5, 0, 23), (0, 3, 9), (1, 4, 40), (4, 4, 33)],
)
def test_a_window_gives_what_all_keys_with_its_mask_give(left: int, right: int, tokens: int) -> None:
    rng = np.random.default_rng(tokens)
    q, v = (rng.normal(size=(3, HEADS, tokens, WIDTH)).astype(np.float32) for _ in range(2))
    k = rng.normal(size=(3, HEADS, WIDTH, tokens)).astype(np.float32)
    away = np.arange(tokens) - np.arange(tokens)[:, None]
    lengths = np.array([tokens, max(1, tokens // 2), 1])
    reached = ((-left <= away) & (away <= right))[None] & (np.arange(tokens) < lengths[:, None])[:, None]
    mask = np.where(reached, np.float32(0), MASKED)[:, None]
    model = attention()
    assert openvino_windows.cut(model, library, {"softmax": (left, right)}) == 1
    compiled = library.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    ours = compiled([q, k, v, mask])[0]
    scores = q @ k + mask
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    expected = weights / weights.sum(-1, keepdims=True) @ v
    for row, length in enumerate(lengths):  # rows of padding are not read
        np.testing.assert_allclose(ours[row, :, :length], expected[row, :, :length], atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("blocks/3 (keys -64 to 64)", (64, 64)),
        ("blocks/3 (keys -256 to 0)", (256, 0)),
        ("blocks/3 (keys -4096 to 0)", None),  # too wide
        ("blocks/3 (keys 1 to 9)", None),  # without a query's own key
        ("blocks/3", None),
    ],
)
def test_windows_are_read_from_names(name: str, window: tuple[int, int] | None) -> None:
    assert openvino_windows.of_name(name) == window

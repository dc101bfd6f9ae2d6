"""What scales are calibrated on: sentences, every shape class, texts that are no prose, and random tokens.

Prose alone leaves ranges too narrow for anything else. Real MiniLM, least cosine of ten texts of code,
numbers and repetition, and of five of random tokens: 0.930 and 0.965 without these, 0.980 and 0.986 with them
(docs/decisions/int8.md).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from ...runtime.artifact.manifest import Manifest
from ...runtime.inputs.items import Item, TokenLimits
from ...runtime.loader import prepared_for
from ..proof import texts

NO_PROSE = (
    "class Tree:\n    def __init__(self, left=None):\n        self.left = left",
    "for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }",
    "UPDATE orders SET total = 12.50 WHERE id IN (17, 18) AND state <> 'paid';",
    '{"name": "x", "values": [0.1, 0.25, 1e-3], "ok": true, "none": null}',
    '<div class="row"><a href="/index.html">Home</a></div>',
    "https://www.example.org/search?q=blue+whale&page=2#results",
    "2024-01-31 12:45:07,118 ERROR [worker-3] timeout after 30000 ms",
    "| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |",
    "0 0 0 0 0 0 0 0 0 0 0 0",
    "3.14159 2.71828 1.41421 1.61803 0.57721",
    "XXXXXXXXXXXXXXXX",
    "... --- ... !!! ???",
    "no no no no no no no no",
    "qwrtz plmk vbnq zzx",
    "sin(x)^2 + cos(x)^2 = 1",
    "ISBN 978-3-16-148410-0, +1 (555) 010-9999",
)


def items(folder: Path, manifest: Manifest) -> list[Item]:
    """Every other sentence, and all of the others."""
    preparation, limits = prepared_for(folder, manifest), TokenLimits(truncate_prompt_tokens=-1)
    cases = [item for shape in texts.cases(manifest, preparation).values() for item in shape]
    several = [*NO_PROSE, *texts.DOCUMENTS[:4], texts.LONG, texts.LONG * 2]
    if manifest.scoring == "cross-encoder":
        strange = preparation.pairs(several, [*several[1:], several[0]], limits=limits)
    else:
        strange = preparation.singles(several, limits=limits)
    rng = np.random.default_rng(0)
    random = [_scrambled(item, manifest.text.vocab_size, rng) for item in strange[len(NO_PROSE) :]]
    return [*texts.many(manifest, preparation)[::2], *cases, *strange[: len(NO_PROSE)], *random]


def _scrambled(item: Item, vocabulary: int, rng: np.random.Generator) -> Item:
    """The item with random tokens between its first and its last."""
    inner = rng.integers(0, vocabulary, max(len(item.ids) - 2, 0)).tolist()
    return dataclasses.replace(item, ids=[*item.ids[:1], *inner, *item.ids[1:][-1:]])

"""The memory of a server that reads many pictures: it grows until its caches are full, and no further."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.end_to_end.commands import post, running
from tests.painted import png, url
from tests.pictures import drawn

from .test_picture_goldens import artifact

PICTURES, FILLED = 2000, 800
GROWTH_BYTES = 192 << 20
"""Between FILLED pictures and all of them. A server gives memory back where it has grown by 48 MB, and leaked
pictures of random size would be more than a gigabyte."""
CACHE_GB = 0.03
"""Of features, so that the cache is full after a few hundred pictures."""


def resident(process: int) -> int:
    """Bytes."""
    fields = Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def bodies(count: int, seed: int) -> list[Callable[[], dict[str, Any]]]:
    """Requests with a picture of random size each, drawn when they are sent."""
    generator = np.random.default_rng(seed)

    def body(width: int, height: int, number: int) -> dict[str, Any]:
        address = url(png(drawn(width, height, number)))
        return {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": address}]}]}

    sizes = np.exp(generator.uniform(3, 7, (count, 2))).astype(int).tolist()
    return [
        lambda width=width, height=height, number=number: body(width, height, number)
        for number, (width, height) in enumerate(sizes)
    ]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["qwen3_vl_embedding", "clip"])
@pytest.mark.parametrize("cache_gb", [CACHE_GB, 0])
def test_memory_stays_flat_over_two_thousand_pictures(name: str, cache_gb: float) -> None:
    flags = ["--mm-processor-cache-gb", str(cache_gb)]
    with running(artifact(name), flags=flags) as (address, process), ThreadPoolExecutor(4) as threads:

        def send(body: Callable[[], dict[str, Any]]) -> int:
            return len(post(f"{address}/v1/embeddings", body())["data"])

        rests: list[int] = []
        requests = bodies(PICTURES, 0)
        for part in (requests[:FILLED], requests[FILLED:]):
            assert sum(threads.map(send, part)) == len(part)
            rests.append(resident(process))
    assert rests[1] - rests[0] < GROWTH_BYTES, rests

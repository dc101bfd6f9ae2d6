"""The shapes that engines are compiled for: few profiles, whose largest bound the memory of a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from ..runtime.artifact.images import Images
from ..runtime.artifact.manifest import Graph, Profile
from ..runtime.batching.prefix_cache import LEAST
from ..runtime.engines.cuda_graphs import Shape

# Tokens of the largest batch of a profile. The runtime's token budget is not larger, so no batch is split.
BATCH_TOKENS = 16384
FEATURE_TOKENS = 8192
"""Of a text graph that reads features."""
MOST_ROWS = 256
PREFIX_TOKENS = 2048
"""Most tokens of a prefix: the prompt that documents share, with examples in it."""
PREFIX_BYTES = 256 << 20
"""Most of the keys and values of a prefix, which a session holds on the device twice for each set of buffers:
1 168 tokens of Qwen3-0.6B, 896 of the 4B and 8B."""
BEST_PREFIX = 256
"""Tokens of the prefix that kernels are tuned for: a system prompt, an instruction and a query."""
BATCH_KEYS = 4 * BATCH_TOKENS
"""Keys of the largest batch behind the longest prefix, which is repeated for each row: with those of
Qwen3-0.6B, 0.5 GB per layer in float32."""
# Most tokens of each profile. A kernel tuned for 128 tokens runs 33..128 well, and five profiles cover 8192.
_CEILINGS = (32, 128, 512, 2048, 8192, 32768, 131072)


def profiles(longest: int, *, least: int = 1, together: int = BATCH_TOKENS) -> tuple[Profile, ...]:
    """Returns shapes for texts of up to `longest` tokens, or pictures of so many patches: many rows of short
    ones, few rows of long ones.

    `least`: the shortest, `together`: tokens of the largest batch.
    """
    shapes: list[Profile] = []
    longest = min(longest, _CEILINGS[-1])
    for ceiling in _CEILINGS:
        width = min(ceiling, longest)
        if width < least:
            continue
        rows = max(1, min(MOST_ROWS, together // width))
        shapes.append(Profile(smallest=(1, least), best=(max(1, rows // 4), width), largest=(rows, width)))
        if width == longest:
            break
    return tuple(shapes)


def shapes_of(graph: Graph, max_tokens: int, images: Images | None) -> tuple[Profile, ...]:
    """Returns the shapes that the engine of a graph accepts."""
    if graph.role == "text":
        reads = any(tensor.name == "features" for tensor in graph.inputs)
        # A batch's features are as wide as several hidden states, for as many tokens as a batch may have.
        shapes = profiles(max_tokens, together=FEATURE_TOKENS if reads else BATCH_TOKENS)
        return behind_prefixes(shapes, longest_prefix(graph, max_tokens))
    assert images is not None, "a vision graph has pictures"
    if images.patches is None:
        rows = max(1, min(MOST_ROWS, BATCH_TOKENS // max(1, images.cost)))
        sizes = ((1, images.cost), (max(1, rows // 4), images.cost), (rows, images.cost))
        return (Profile(smallest=sizes[0], best=sizes[1], largest=sizes[2]),)
    merged, size = images.patches.merge**2, images.patches.size**2
    pixels = images.patches.max_pixels
    if images.videos is not None:
        frames = 1 if images.videos.per_frame else images.videos.min_frames
        pixels = max(pixels, images.videos.max_pixels // frames)
    most = -(-pixels // (size * merged)) * merged
    return tuple(
        dataclasses.replace(shape, best=_whole(shape.best, merged), largest=_whole(shape.largest, merged))
        for shape in profiles(most, least=merged)
    )


def _whole(shape: tuple[int, int], merged: int) -> tuple[int, int]:
    """A shape whose patches are whole features."""
    return shape[0], -(-shape[1] // merged) * merged


def longest_prefix(graph: Graph, max_tokens: int) -> int:
    """Returns the most tokens of a prefix that texts of up to `max_tokens` are computed behind; 0: the graph
    takes none, or no text is long enough."""
    if graph.past is None:
        return 0
    per_token = 4 * math.prod(axis for axis in graph.past.axes if isinstance(axis, int))
    most = min(PREFIX_TOKENS, PREFIX_BYTES // per_token, max_tokens - 1)
    return most // LEAST * LEAST


def behind_prefixes(shapes: Sequence[Profile], longest: int) -> tuple[Profile, ...]:
    """Returns the shapes with prefixes of up to `longest` tokens, and one of a single row for computing them;
    the shapes as they are where it is 0.

    A shape whose rows would attend to more than BATCH_KEYS keys stays for whole texts, beside one of fewer
    rows.
    """
    if not longest:
        return tuple(shapes)
    complete: list[Profile] = []
    for shape in shapes:
        rows, width = shape.largest
        fewer = max(1, min(rows, BATCH_KEYS // (longest + width)))
        if fewer < rows:
            complete.append(shape)
        best = (min(shape.best[0], fewer), shape.best[1])
        complete.append(dataclasses.replace(shape, best=best, largest=(fewer, width), past=longest))
    # One row: keys and values of many rows would be the largest output by far.
    best = (1, min(BEST_PREFIX, longest))
    prefix = Profile(smallest=(1, 1), best=best, largest=(1, longest), past=longest, returns_past=True)
    return (*complete, prefix)


def sizes(shape: Profile) -> tuple[Shape, Shape, Shape]:
    """Returns the smallest, the best and the largest batch of a profile, with tokens that all stand for
    features, and prefixes of none, of some and of the most tokens."""
    least, best, most = (
        Shape(*size, features=size[0] * size[1] + 1, past=past, kept=size[1] if shape.returns_past else 0)
        for size, past in (
            ((1, shape.smallest[1]), 0),
            (shape.best, min(BEST_PREFIX, shape.past)),
            (shape.largest, shape.past),
        )
    )
    return least._replace(features=1), best, most

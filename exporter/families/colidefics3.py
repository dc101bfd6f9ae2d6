"""ColIdefics3 and ColSmolVLM (https://arxiv.org/abs/2407.01449, vidore/colSmol-256M): Idefics3 with one
vector of each token, in colpali-engine's layout. The published repositories hold an adapter beside the
checkpoint that it fits.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import _idefics3, _pages, idefics3
from .registry import Config, Layer

CLASSES = ("ColIdefics3",)
PROMPT = "<|im_start|>User:<image>Describe the image.<end_of_utterance>\nAssistant:"
"""Around a page."""


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether config.json names the class, or a projection of tokens lies beside the weights of Idefics3."""
    named = any(name in CLASSES for name in config.get("architectures") or ())
    return named or any(_pages.spelled(name, idefics3.PREFIXES, ()) == "linear.weight" for name in shapes)


ARCHITECTURE = _pages.family(
    model_types=idefics3.ARCHITECTURE.model_types,
    names=CLASSES,
    load=idefics3.load,
    matches=matches,
    translate=lambda config: {**idefics3.translate(config), "architectures": list(CLASSES)},
    prefixes=idefics3.PREFIXES,
    spelled=idefics3.spelled,
    pool="last",
    # colpali-engine drops transparency before anything else.
    images=lambda files: idefics3.images(files, background="none"),
    load_vision=idefics3.load_vision,
    projection=(Layer(name="linear"),),
    roles=lambda files: _idefics3.roles(files, PROMPT),
)

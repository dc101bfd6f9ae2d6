"""Language models with stretched rotary angles behind a tower, beside transformers' classes: texts shorter
and longer than the original length, and a picture, padded together."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poolrt.runtime.inputs.items import Item
from poolrt.runtime.inputs.media import prepared
from poolrt.runtime.inputs.multimodal.feature_tokens import feature_order

from tests.families import converted, gemmas, idefics, llava, proof
from tests.families.pages import PAGES
from tests.families.pictured import Pictured, pictured

COSINE = 1 - 1e-6  # float32 on both sides
ORIGINAL, FACTOR, HALF = 16, 4.0, 16
"""Tokens that the angles were trained for, how far they are stretched, and pairs of a head's numbers."""
KINDS: dict[str, dict[str, Any]] = {
    "dynamic": {"factor": FACTOR},
    "longrope": {
        "short_factor": [1.0] * HALF, "long_factor": [1.0 + place / 4 for place in range(HALF)],
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": {"factor": FACTOR, "original_max_position_embeddings": ORIGINAL},
    "llama3": {
        "factor": FACTOR, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "linear": {"factor": FACTOR},
}  # fmt: skip
WORDS = "what is the capital of france"


def paligemma(folder: Path) -> Path:
    gemmas._paligemma(folder, seed=70, kind="gemma").save_pretrained(folder)
    return folder


class Llava:
    """As converted.Reference."""

    def __init__(self, folder: Path) -> None:
        self.theirs = llava.Reference(folder)

    def last(self, prompt: str, *pages: Any) -> tuple[list[int], Any]:
        tokens = 0
        if pages:
            sizes = self.theirs.pixels(*pages)
            model: Any = self.theirs.model.model
            features = model.get_image_features(sizes["pixel_values"], sizes["image_sizes"], return_dict=True)
            tokens = sum(len(rows) for rows in features.pooler_output)
        ids = self.theirs.ids(prompt, tokens)
        return ids, self.theirs.last(ids, *pages).numpy()


FAMILIES: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "llava_next": (llava.e5_v, Llava),
    "smolvlm": (
        idefics.smolvlm,
        lambda folder: converted.Reference(folder, "SmolVLM", processor="Idefics3"),
    ),
    "paligemma": (paligemma, lambda folder: converted.Reference(folder, "PaliGemma", pictures="Siglip")),
    "gemma3": (gemmas.gemma3, lambda folder: converted.Reference(folder, "Gemma3")),
}


def stretched(folder: Path, kind: str) -> Path:
    """A checkpoint whose text model has rotary angles of that kind."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    text = config["text_config"]
    wanted = KINDS[kind] | {"rope_type": kind}
    known = text["rope_parameters"]
    if "full_attention" in known:
        known["full_attention"] |= wanted
    else:
        known |= wanted
    # What linear and dynamic stretch; the other kinds state it themselves.
    text["max_position_embeddings"] = ORIGINAL if kind in ("dynamic", "linear") else ORIGINAL * 8
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def vectors(both: Pictured, rows: list[tuple[list[int], tuple[Any, ...]]]) -> list[Any]:
    """Embeddings of prompts, as one padded batch."""
    assert both.plan.vision is not None
    images = both.plan.vision.images
    number, items = both.tokenizer.token_to_id(images.token), []
    for ids, pages in rows:
        item = Item(ids=ids)
        media = [prepared.image(images, page, options={"backend": "pil"}) for page in pages]
        item.feature_places = np.flatnonzero(np.array(ids) == number) if media else np.zeros(0, np.int64)
        if media:
            features = np.concatenate([part for medium in media for part in both.features(medium.items)])
            order = feature_order(media)
            item.features = features if order is None else features[order]
        items.append(item)
    return both.answered("embed", items)


# The angles of the other kinds are the same for texts of any length.
BY_LENGTH = [(family, "dynamic") for family in FAMILIES] + [("smolvlm", "longrope"), ("gemma3", "longrope")]
OTHERS = [(family, kind) for family in FAMILIES for kind in KINDS if (family, kind) not in BY_LENGTH]


@pytest.mark.parametrize(
    ("family", "kind"), [*BY_LENGTH, *(pytest.param(*pair, marks=pytest.mark.slow) for pair in OTHERS)]
)
def test_stretched_angles_are_those_of_transformers(family: str, kind: str, tmp_path: Path) -> None:
    assert worst(family, kind, tmp_path) > COSINE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_computes_stretched_angles_by_row(family: str, kind: str, tmp_path: Path) -> None:
    assert worst(family, kind, tmp_path, tmp_path / "out") > COSINE


def worst(family: str, kind: str, place: Path, out: Path | None = None) -> float:
    """The lowest cosine of a family's prompts to transformers' vectors, by torch or, with `out`, by ONNX."""
    write, reference = FAMILIES[family]
    folder = stretched(write(place / family), kind)
    both, theirs = pictured(folder, out, convert="embed"), reference(folder)
    assert both.plan.vision is not None
    placeholder = both.plan.vision.images.placeholder
    # By length: transformers keeps the angles of the longest text so far.
    prompts = [("red", ()), (WORDS, ()), (f"{placeholder} {WORDS}", PAGES[1:2]), (f"{WORDS} " * 40, ())]
    read = [theirs.last(text, *pages) for text, pages in prompts]
    lengths = [len(ids) for ids, _ in read]
    assert lengths == sorted(lengths)
    assert lengths[0] < ORIGINAL < lengths[2]
    expected = [vector / np.linalg.norm(vector) for _, vector in read]
    ours = vectors(both, [(ids, pages) for (ids, _), (_, pages) in zip(read, prompts, strict=True)])
    return float(proof.cosines(ours, expected).min())

"""The texts and pictures that an artifact is proved on: a few by shape class, and some hundred sentences for
the drift of int8."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources

import numpy as np

from ...runtime.artifact.manifest import Manifest
from ...runtime.inputs.items import Item, TokenLimits
from ...runtime.inputs.multimodal.contents import Content, Source
from ...runtime.inputs.preparation import Preparation
from .pictures import drawn

# Beyond this, PyTorch's eager attention alone would need gigabytes and minutes for one text.
LONGEST_TOKENS = 2048
MOST_OF_LARGE = 96
"""Tokens of a large model's prompt with a picture."""
PICTURES = "pictures"
"""The shape class of prompts with one picture each."""

QUERY = "how do plants turn sunlight into food"
DOCUMENTS = (
    (
        "Photosynthesis is the process by which green plants use sunlight to make sugar from "
        "carbon dioxide and water."
    ),
    "The stock market closed higher on Friday after a week of losses.",
    "Chlorophyll, the green pigment in leaves, absorbs mostly red and blue light.",
    (
        "Add the onions and fry them gently until they are soft and golden, which takes about ten "
        "minutes over a low flame."
    ),
    "A leaf takes in carbon dioxide through small openings called stomata.",
    "Penguins are birds that cannot fly.",
    "Solar panels turn light into electricity.",
)
LONG = (
    "The lighthouse stood at the end of the long stone pier, and for a hundred and fifty years its keepers "
    "had climbed the same narrow stairs each evening to light the lamp. They wrote down the weather, the "
    "ships that passed and the oil that was burned, and when the lamp became electric they went on writing, "
    "because nobody had told them to stop. The notebooks fill two shelves in the harbour museum. Historians "
    "of the climate read them now: the keepers measured the temperature of the sea three times a day, with "
    "the same brass thermometer, at the same step of the landing, and such an unbroken series is rare. It "
    "shows how the cold years around 1890 gave way to a slow warming, how storms came earlier in autumn, "
    "and how the herring left the bay twice and came back once. What began as a duty that looked pointless "
    "has become the most valuable thing that the lighthouse ever made. "
)
OTHER_LANGUAGES = (
    "Der Zug nach München fährt heute zwanzig Minuten später ab.",
    "L'eau bout à cent degrés au niveau de la mer.",
    "我们明天早上在图书馆门口见面。",
    "Библиотека закрыта по понедельникам.",
    "القطار يصل في الساعة السابعة مساء.",
    "नमस्ते, आप कैसे हैं? 🙂",
)
HARDLY_ANYTHING = (".", "a", "42", "😀")


def cases(manifest: Manifest, preparation: Preparation, *, large: bool = False) -> dict[str, list[Item]]:
    """Shape class -> the items that run as one batch.

    Cross-encoders read pairs, the others single texts, ColBERT both of its roles. A `large` model takes a
    minute for a pass, so it reads a few short texts together, two of them beside a longer one, and both ends
    of a prompt with a picture.
    """
    if large:
        return _cases_of_large(manifest, preparation)
    longest = min(manifest.text.max_tokens, LONGEST_TOKENS)
    limits = TokenLimits(truncate_prompt_tokens=-1, max_tokens=longest)
    endless = LONG * (longest // 100 + 1)
    if manifest.scoring == "cross-encoder":

        def items(*documents: str, query: str = QUERY) -> list[Item]:
            return preparation.pairs([query] * len(documents), list(documents), limits=limits)
    else:

        def items(*documents: str, query: str = "") -> list[Item]:
            return preparation.singles(list(documents), limits=limits)

    shapes = {
        "one short": items(DOCUMENTS[5]),
        "one long": items(LONG),
        "odd batch": items(*DOCUMENTS),
        "padded rows": items(DOCUMENTS[5], LONG, DOCUMENTS[0]),
        "longest": items(endless),
        "hardly anything": items(*HARDLY_ANYTHING, query="?"),
        "other languages": items(*OTHER_LANGUAGES),
    }
    for role in ("query", "document"):
        if role in manifest.text.roles:
            shapes[f"role {role}"] = preparation.singles(
                [QUERY, *DOCUMENTS[:4], LONG], limits=limits, role=role
            )
    return shapes | (_shown(manifest, preparation, drawn.sources()) if manifest.images is not None else {})


def _shown(
    manifest: Manifest, preparation: Preparation, sources: Mapping[str, drawn.Pixels]
) -> dict[str, list[Item]]:
    """Shape class -> prompts with pictures."""
    assert manifest.images is not None, "the model reads pictures"
    shapes = {PICTURES: with_pictures(manifest, preparation, sources)}
    if not manifest.images.apart and manifest.images.most != 1:
        first, second, *_ = sources.values()
        shapes["two pictures"] = _prompts(manifest, preparation, [((first, second), DOCUMENTS[0])])
    return shapes


def with_pictures(
    manifest: Manifest,
    preparation: Preparation,
    sources: Mapping[str, drawn.Pixels],
    *,
    large: bool = False,
) -> list[Item]:
    """One prompt for each picture."""
    return [
        item
        for number, source in enumerate(sources.values())
        for item in with_picture(manifest, preparation, source, number, large=large)
    ]


def with_picture(
    manifest: Manifest, preparation: Preparation, source: drawn.Pixels, number: int, *, large: bool = False
) -> list[Item]:
    """The prompt of the picture of this number. Every other one has a text too, unless pictures are embedded
    apart. Of a `large` model's prompt the ends."""
    apart = manifest.images is not None and manifest.images.apart
    items = _prompts(manifest, preparation, [((source,), "" if apart or number % 2 else DOCUMENTS[5])])
    return [_ends(item) for item in items] if large and not apart else items


def _ends(item: Item) -> Item:
    """The first and the last tokens of a prompt with the features that belong to them, at their positions.

    The whole picture goes through the vision half, whose rows all depend on one another.
    """
    count, half = len(item.ids), MOST_OF_LARGE // 2
    if count <= MOST_OF_LARGE or item.feature_places is None:
        return item
    kept = np.r_[:half, count - half : count]
    places = item.feature_places
    order = np.arange(len(places)) if item.feature_order is None else item.feature_order
    stays = np.isin(places, kept)

    def of(numbers: list[int] | None) -> list[int] | None:
        return None if numbers is None else [numbers[place] for place in kept]

    return replace(
        item,
        ids=[item.ids[place] for place in kept],
        type_ids=of(item.type_ids),
        attention=of(item.attention),
        kinds=of(item.kinds),
        keep=None if item.keep is None else item.keep[kept],
        feature_places=np.searchsorted(kept, places[stays]),
        feature_order=order[stays],
        positions=None if item.positions is None else item.positions[:, kept],
    )


def _prompts(
    manifest: Manifest, preparation: Preparation, prompts: list[tuple[tuple[drawn.Pixels, ...], str]]
) -> list[Item]:
    contents = [
        Content(text, tuple(Source("image", drawn.source_of(source)) for source in pictures))
        for pictures, text in prompts
    ]
    if manifest.scoring == "cross-encoder":
        return preparation.pairs([QUERY] * len(contents), contents)
    role = "document" if "document" in manifest.text.roles else None
    return preparation.singles(contents, role=role)


def _cases_of_large(manifest: Manifest, preparation: Preparation) -> dict[str, list[Item]]:
    def items(*documents: str, tokens: int) -> list[Item]:
        most = min(manifest.text.max_tokens, around + tokens)
        limits = TokenLimits(truncate_prompt_tokens=-1, max_tokens=most)
        if manifest.scoring == "cross-encoder":
            return preparation.pairs([QUERY] * len(documents), list(documents), limits=limits)
        return preparation.singles(list(documents), limits=limits)

    # A prompt stays whole, whatever is cut off the document in it.
    prompted = manifest.scoring == "cross-encoder" and manifest.text.score_template is not None
    around = len(preparation.pairs([QUERY], [""])[0].ids) if prompted else 0
    short = items(QUERY, *DOCUMENTS[:4], tokens=16)
    shapes = {"odd batch": short, "padded rows": [*short[:2], *items(LONG, tokens=48)]}
    if manifest.images is None:
        return shapes
    return shapes | {PICTURES: with_pictures(manifest, preparation, drawn.strip(), large=True)}


@functools.cache
def sentences() -> tuple[str, ...]:
    """Some hundred English sentences on many subjects, one per line of sentences.txt."""
    text = (resources.files("poolrt.exporter.proof") / "sentences.txt").read_text(encoding="utf-8")
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def many(manifest: Manifest, preparation: Preparation) -> list[Item]:
    """All of `sentences()` as this model reads them; a cross-encoder reads each with its neighbour."""
    limits, texts = TokenLimits(truncate_prompt_tokens=-1), list(sentences())
    if manifest.scoring == "cross-encoder":
        return preparation.pairs(texts, [*texts[1:], texts[0]], limits=limits)
    return preparation.singles(texts, limits=limits)

"""What is measured: models of the sizes that people run, and what is asked of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import prepare, shapes, towers
from .texts import MIXES, Mix

QWEN3_RERANKER = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
TEMPLATE = Path(__file__).resolve().parents[1] / "recipes/templates/qwen3_reranker.jinja"
"""As vLLM's own example has it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of request."""

    says: str
    connections: int
    texts: int
    """Per request."""
    mix: Mix
    route: Literal["embeddings", "rerank"] = "embeddings"


@dataclass(frozen=True, slots=True)
class Work:
    """A model and its requests."""

    name: str
    title: str
    says: str
    cases: tuple[Case, ...]
    mixes: tuple[Mix, ...] = ()
    """For libraries in one process; empty: over HTTP alone."""
    shape: str | None = None
    """Of bench/shapes.py; None: the real all-MiniLM-L6-v2."""
    tokens: int = 512
    """Longest text that servers prepare for."""
    overrides: dict[str, object] | None = None
    template: Path | None = None
    """Of the prompt in which query and document are put."""
    precisions: tuple[str, ...] = ("fp32", "int8")
    """Of poolrt's artifacts."""
    tower: towers.Tower | None = None
    """A vision tower, in one process alone; `mixes` are then of pictures."""
    seconds: float = 1.0
    """Factor of the measured time, for requests that take long."""

    def checkpoint(self, folder: Path, *, tiny: bool = False) -> Path:
        if self.tower is not None:
            return towers.write(self.tower, folder, tiny=tiny)
        if self.shape is None:
            return prepare.checkpoint()
        return shapes.write(self.shape, folder, tokenizer=prepare.minilm(), tiny=tiny)


def words(count: int, most: int | None = None) -> Mix:
    """Texts of `count` words, or of up to `most`."""
    least = count * 1.15
    return Mix(f"{count} words", 512, round(least), round(least if most is None else most * 1.15), "")


TWENTY = words(20)
PASSAGES = words(20, 50)
LONG = Mix("long", 4, 1900, 2000, "about 2 048 tokens")
EMBED = (
    Case("1 text of 20 words, concurrency 1", 1, 1, TWENTY),
    Case("1 text of 20 words, concurrency 16", 16, 1, TWENTY),
)
WORKS = {
    work.name: work
    for work in (
        Work(
            "minilm",
            "MiniLM",
            "all-MiniLM-L6-v2 (22.7 million parameters), the real weights",
            (
                *EMBED,
                Case("1 text of 20 words, concurrency 64", 64, 1, TWENTY),
                Case("32 texts of mixed length, concurrency 2", 2, 32, MIXES[-1]),
                Case("rerank of 100 documents of mixed length, concurrency 2", 2, 100, MIXES[-1], "rerank"),
            ),
            MIXES,
            tokens=256,
        ),
        Work(
            "base",
            "BERT-base",
            "the size of bge-base and e5-base (109 million parameters), random weights",
            (
                *EMBED,
                Case("32 texts of mixed length, concurrency 2", 2, 32, MIXES[-1]),
                Case("rerank of 50 documents of 20 to 50 words, concurrency 1", 1, 50, PASSAGES, "rerank"),
            ),
            (Mix("queries", 64, 7, 13, MIXES[0].says), Mix("passages", 16, 158, 205, MIXES[1].says)),
            shape="base",
            seconds=2,
        ),
        Work(
            "large",
            "XLM-R-large",
            "the size of bge-m3 (568 million parameters), random weights",
            (
                *EMBED,
                Case("rerank of 20 documents of 20 to 50 words, concurrency 1", 1, 20, PASSAGES, "rerank"),
            ),
            (Mix("queries", 32, 7, 13, MIXES[0].says), Mix("passages", 8, 158, 205, MIXES[1].says)),
            shape="large",
            seconds=3,
        ),
        Work(
            "long",
            "ModernBERT-base, 2 048 tokens",
            "149 million parameters, random weights",
            (
                Case("1 text of about 2 048 tokens, concurrency 1", 1, 1, LONG),
                Case("1 text of 20 words, concurrency 16", 16, 1, TWENTY),
            ),
            (LONG,),
            shape="long",
            tokens=4096,
            seconds=4,
        ),
        Work(
            "decoder",
            "Qwen3-Embedding-0.6B",
            "the size of Qwen3-Embedding-0.6B, random weights",
            (
                *EMBED,
                Case("8 texts of about 120 tokens, concurrency 1", 1, 8, Mix("120", 64, 110, 130, "")),
            ),
            (Mix("passages", 8, 110, 130, "passages, about 120 tokens"),),
            shape="decoder",
            precisions=("fp32", "int8-weights"),
            tokens=2048,
            seconds=4,
        ),
        Work(
            "reranker",
            "Qwen3-Reranker-0.6B",
            "the size of Qwen3-Reranker-0.6B, random weights, in the prompt of its authors",
            (Case("rerank of 20 documents of 20 to 50 words, concurrency 1", 1, 20, PASSAGES, "rerank"),),
            shape="reranker",
            precisions=("fp32", "int8-weights"),
            tokens=2048,
            overrides=QWEN3_RERANKER,
            template=TEMPLATE,
            seconds=6,
        ),
        Work(
            "siglip",
            "SigLIP's vision tower",
            "the size of siglip-base-patch16-224 (93 million parameters), random weights",
            (),
            (Mix("pictures", 16, 0, 0, "pictures of 640 x 480"),),
            precisions=("fp32",),
            tower="siglip",
        ),
        Work(
            "qwen3-vl",
            "Qwen3-VL-2B's vision tower",
            "its published sizes, random weights; 300 features of a picture",
            (),
            (Mix("pictures", 2, 0, 0, "pictures of 640 x 480"),),
            precisions=("fp32",),
            tower="qwen3-vl",
        ),
    )
}
GROUPS = {"decoder": ("decoder", "reranker")}
"""Names that stand for several."""


def chosen(names: str) -> list[Work]:
    """Works by their names, with commas between; `all`. Raises SystemExit."""
    if names == "all":
        return list(WORKS.values())
    wanted = [work for name in names.split(",") for work in GROUPS.get(name, (name,))]
    unknown = [name for name in wanted if name not in WORKS]
    if unknown:
        raise SystemExit(f"bench: no work {', '.join(unknown)}; it has all, {', '.join(WORKS)}")
    return [WORKS[name] for name in dict.fromkeys(wanted)]

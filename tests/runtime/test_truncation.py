"""A long text gives the tokens that tokenising all of it would, and costs what is kept."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from poolrt.runtime.inputs import truncation
from tokenizers import Tokenizer

from tests.runtime.vocabularies import ALL, CORPUS

FRAGMENTS = [
    *(
        "the quick brown fox",
        "capital of France",
        " ",
        "  ",
        "   ",
        " " * 40,
        "\n",
        "\t",
        "\r\n",
        "\u00a0",
        "\u3000",
    ),
    *(
        "北京是中国的首都",
        "汉字测试",
        "，",
        "。",
        "булок",
        "ещё",
        "Être",
        "e\u0301",
        "\u0301",
        "हिन्दी",
        "ไทย",
        "한국어",
        "العربية",
    ),
    *(
        "😀",
        "👨‍👩‍👧",
        "🇫🇷",
        "\u200d",
        "\ufe0f",
        "a",
        "aa",
        "ab",
        "aaaaaaaa",
        "abababab",
        "0",
        "1234567890",
        "x" * 130,
        "?!",
        "...",
        "==",
    ),
    *(
        "[SEP]",
        "<s>",
        "</s>",
        "<mask>",
        " <mask> ",
        "<|im_start|>",
        "<|im_end|>",
        "'s",
        "don't",
        "Σ",
        "ΣΑΣ",
        "İ",
        "ﬁ",
        "Å",
        "ß",
        "\x00",
        "\ufffd",
    ),
]
texts = st.lists(st.one_of(st.sampled_from(FRAGMENTS), st.text(max_size=6)), min_size=1, max_size=40).flatmap(
    lambda parts: st.builds(
        lambda joint, times: joint.join(parts) * times,
        st.sampled_from(["", " ", " ", "\n"]),
        st.integers(1, 60),
    )
)


@pytest.fixture(params=sorted(ALL))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return ALL[request.param]()


@pytest.mark.parametrize("side", ["right", "left"])
def test_part_of_a_text_gives_the_tokens_of_all_of_it(tokenizer, side, monkeypatch):
    # Small steps, so that short texts already take every path.
    monkeypatch.setattr(truncation, "CHARACTERS_PER_TOKEN", 1)
    monkeypatch.setattr(truncation, "WHOLE", 1)
    monkeypatch.setattr(truncation, "_SLICE", 200)
    boundaries = truncation.Boundaries(tokenizer, tokenizer.get_vocab())
    partial = 0

    @settings(max_examples=400, deadline=None, derandomize=True)
    @given(texts, st.integers(1, 40), st.booleans())
    def check(text: str, wanted: int, lowercase: bool) -> None:
        nonlocal partial
        if any("\ud800" <= character <= "\udfff" for character in text):
            return
        whole = tokenizer.encode(text.lower() if lowercase else text, add_special_tokens=False).ids
        found = truncation.content(tokenizer, text, wanted, boundaries, side, lowercase=lowercase)
        partial += not found.whole
        if found.whole:
            assert found.ids == whole
        else:
            assert len(found.ids) >= wanted
            assert (
                (found.ids[:wanted] == whole[:wanted])
                if side == "right"
                else (found.ids[-wanted:] == whole[-wanted:])
            )

    check()
    assert partial > 10, "the texts were too short to try anything"


@pytest.mark.parametrize(
    "unit",
    [
        "the quick brown fox ",
        "北京是中国的首都",
        "汉字，测试。",
        "ab",
        "a" + " " * 50,
        "😀👨‍👩‍👧",
        "aGVsbG8=",
        "\n\n",
        "e\u0301",
    ],
    ids=[
        "words",
        "chinese",
        "chinese punctuation",
        "letters",
        "spaces",
        "emoji",
        "base64",
        "newlines",
        "marks",
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_long_text_gives_the_same_first_tokens(tokenizer, unit, side):
    text = unit * (60_000 // len(unit)) + CORPUS[0]
    whole = tokenizer.encode(text, add_special_tokens=False).ids
    found = truncation.content(
        tokenizer, text, 65, truncation.Boundaries(tokenizer, tokenizer.get_vocab()), side
    )
    if side == "right":
        assert found.ids[:65] == whole[:65]
    else:
        assert found.ids[-65:] == whole[-65:]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "unit", ["the quick brown fox ", "北京是中国的首都，东京是日本的首都"], ids=["words", "chinese"]
)
def test_what_is_thrown_away_costs_nothing(tokenizer, unit, side):
    boundaries = truncation.Boundaries(tokenizer, tokenizer.get_vocab())

    def seconds(characters: int) -> float:
        text = unit * (characters // len(unit))
        times = []
        for _ in range(5):
            start = time.perf_counter()
            found = truncation.content(tokenizer, text, 65, boundaries, side)
            times.append(time.perf_counter() - start)
            assert not found.whole
        return min(times)

    # 250 times the text; ten times the time leaves room for a busy machine, tokenising it
    # all would take 250 times.
    assert seconds(10_000_000) < 10 * seconds(40_000) + 0.01


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 70))
@settings(max_examples=300, deadline=None)
def test_pair_lengths_are_those_of_the_tokenizers_library(first, second, room):
    tokenizer = _counting()
    tokenizer.enable_truncation(room + 3 if room else 3)
    found = tokenizer.encode("a " * first, "b " * second, add_special_tokens=True)
    ids = found.ids
    kept = (ids.count(1), ids.count(2))
    assert truncation.longest_first(first, second, room) == kept


def _counting() -> Tokenizer:
    from tokenizers import models, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "[S]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[S] $A [S]", pair="[S] $A [S] $B [S]", special_tokens=[("[S]", 3)]
    )
    return tokenizer

"""The artifact's tokenizer is the one that transformers builds from all files of a folder,
whichever of them decides."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from poolrt.exporter.files import tokenizer
from poolrt.runtime.errors import CheckpointError
from tokenizers import Tokenizer

from tests.families import find

Paths = Callable[[str], Path]
TEXTS = (
    "", "The Red PLANET", "naïve FAÇADE", "火星 is 中文", "two  spaces\t\nand\r\nlines ",
    "🙂 👩\u200d👩\u200d👧",
    "e\u0301 ﬁne ２０２４",
    "İstanbul Straße", "what [MASK] IS <mask> this [unused1] <s>x</s>", "<query> capital of france",
    "a<query>b <Doc>C [NEW]d <query",
    "don't I'LL 3.14", "ab" * 80,
)  # fmt: skip


def token(content: str, **more: bool) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
        "special": True,
    } | more


QUERY = {"133": token("<query>"), "134": token("<Doc>", special=False, normalized=True, lstrip=True)}
# Name -> (checkpoint, changes to the settings, other files, changes to config.json); None
# removes a key, and a file.
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "added tokens of the settings alone": ("bert_plain", {"added_tokens_decoder": QUERY}, {}, {}),
    "the same, generic class": ("bert_plain",
    {"added_tokens_decoder": QUERY, "tokenizer_class": "PreTrainedTokenizerFast"}, {}, {}),
    "added_tokens.json": ("bert_plain", {}, {"added_tokens.json": {"<query>": 133, "[NEW]": 134}}, {}),
    "additional special tokens": ("bert_plain", {"additional_special_tokens": ["<query>", "<Doc>"]}, {}, {}),
    "extra special tokens": ("bert_plain", {"extra_special_tokens": {"query_token": "<query>"}}, {}, {}),
    "additional in the map": ("bert_plain", {},
    {"special_tokens_map.json": {"additional_special_tokens": ["<query>", "<Doc>"]}}, {}),
    "the map against the settings": (
        "bert_plain", {"mask_token": "[MASK]"},
        {"special_tokens_map.json": {"mask_token": "[unused1]", "sep_token": "[unused2]"}}, {},
    ),
    "the map beside added tokens": (
        "bert_plain", {"added_tokens_decoder": QUERY},
        {"special_tokens_map.json": {"mask_token": "[unused1]"}}, {},
    ),
    "a marked token of the map": (
        "bert_plain", {}, {"special_tokens_map.json": {"mask_token": {"__type": "AddedToken",
        **token("[unused1]", lstrip=True)}}}, {},
    ),
    "cased settings": ("bert_plain", {"do_lower_case": False}, {}, {}),
    "cased settings, fast name": ("bert_plain",
    {"do_lower_case": False, "tokenizer_class": "BertTokenizerFast"}, {}, {}),
    "cased settings, generic class": ("bert_plain",
    {"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, {}, {}),
    "cased settings, DistilBERT's": ("bert_plain",
    {"do_lower_case": False, "tokenizer_class": "DistilBertTokenizer"}, {}, {}),
    "cased settings, no class": ("bert_plain", {"do_lower_case": False, "tokenizer_class": None}, {}, {}),
    "accents kept": ("bert_plain", {"strip_accents": False}, {}, {}),
    "Chinese characters together": ("bert_plain", {"tokenize_chinese_chars": False}, {}, {}),
    "no settings": ("bert_plain", {}, {"tokenizer_config.json": None, "special_tokens_map.json": None}, {}),
    "special tokens split": ("bert_plain", {"split_special_tokens": True}, {}, {}),
    "a class for another model type": ("bert_plain", {"do_lower_case": False}, {},
    {"model_type": "modernbert"}),
    "MPNet": ("mpnet_embedder", {"do_lower_case": False}, {}, {}),
    "RoBERTa's space in front": ("roberta_embedder", {"add_prefix_space": True}, {}, {}),
    "RoBERTa's space, generic class": (
        "roberta_embedder", {"add_prefix_space": True, "tokenizer_class": "PreTrainedTokenizerFast"}, {}, {},
    ),
    "GPT-2's class": ("roberta_embedder", {"add_prefix_space": True, "tokenizer_class": "GPT2Tokenizer"}, {},
    {"model_type": "gpt2"}),
    "XLM-R": ("xlmr_embedder", {"added_tokens_decoder": {"200": token("<query>")}}, {}, {}),
    "DeBERTa": ("deberta_embedder", {"do_lower_case": True}, {}, {}),
    "ALBERT's class": ("deberta_embedder", {"tokenizer_class": "AlbertTokenizer"}, {},
    {"model_type": "albert"}),
    "T5's class": ("deberta_embedder", {"tokenizer_class": "T5Tokenizer", "extra_ids": 3}, {},
    {"model_type": "t5"}),
    "Qwen2": ("qwen3_embedding", {"added_tokens_decoder": {"277": token("<query>")}}, {}, {}),
    "Llama": ("llama3_causal", {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": False},
    {}, {}),
    "Llama, no space in front": ("llama3_causal",
    {"tokenizer_class": "LlamaTokenizer", "add_prefix_space": False}, {}, {}),
    "Llama, generic class": ("llama3_causal", {"add_bos_token": False, "add_eos_token": True}, {}, {}),
    "Gemma": ("gemma2_embedder", {"tokenizer_class": "GemmaTokenizer"}, {}, {}),
    "ModernBERT": ("modernbert_embedder", {"additional_special_tokens": ["<query>"]}, {}, {}),
    "no tokenizer.json": (
        "bert_plain", {"do_lower_case": False, "added_tokens_decoder": QUERY}, {"tokenizer.json": None}, {},
    ),
}  # fmt: skip


@pytest.fixture
def folder(checkpoints: Paths, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny checkpoint with other settings and files."""
    import tests.checkpoints as tiny

    def change(name: str, settings: dict[str, Any], files: dict[str, Any], config: dict[str, Any]) -> Path:
        if name in tiny.ALL:
            copy = Path(shutil.copytree(checkpoints(name), tmp_path / name))
        else:
            (tmp_path / name).mkdir()
            copy = find(name)(tmp_path / name)
        for file, changes in (("tokenizer_config.json", settings), ("config.json", config)):
            known = {**json.loads((copy / file).read_text(encoding="utf-8")), **changes}
            (copy / file).write_text(
                json.dumps({key: value for key, value in known.items() if value is not None})
            )
        for file, value in files.items():
            (copy / file).unlink(missing_ok=True)
            if value is not None:
                (copy / file).write_text(json.dumps(value))
        return copy

    return change


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_ids_are_those_of_auto_tokenizer(folder: Callable[..., Path], case: tuple[Any, ...]):
    from transformers import AutoTokenizer

    place = folder(*case)
    expected = AutoTokenizer.from_pretrained(str(place), local_files_only=True, trust_remote_code=False)
    read = tokenizer.read(place)
    found = Tokenizer.from_str(read.json.decode())
    found.encode_special_tokens = read.splits_special
    every = " ".join(expected.get_added_vocab())
    for text in (*TEXTS, every, every.lower()):
        assert found.encode(text).ids == expected(text)["input_ids"], text
        assert found.encode(text, "the Moon").ids == expected(text, "the Moon")["input_ids"] or not text, text
    assert {
        role: getattr(expected, role) for role in tokenizer.ROLES if getattr(expected, role)
    } == read.special
    assert read.ids.get("mask_token") == expected.mask_token_id


def test_what_decides_against_tokenizer_json_is_said(folder: Callable[..., Path]):
    read = tokenizer.read(
        folder("bert_plain", {"added_tokens_decoder": QUERY, "do_lower_case": False}, {}, {})
    )
    line = " ".join(map(str, read.guesses))
    assert all(part in line for part in ("added tokens '<query>', '<Doc>'", "normalizer", "BertTokenizer"))


def test_a_folder_that_is_read_as_its_file_says_keeps_its_bytes(folder: Callable[..., Path]):
    place = folder("bert_plain", {}, {}, {})
    read = tokenizer.read(place)
    assert read.json == (place / "tokenizer.json").read_bytes()
    assert not read.guesses


def test_a_tokenizer_of_remote_code_is_read_without_it_and_said(folder: Callable[..., Path]):
    settings = {
        "tokenizer_class": "SecretTokenizer",
        "auto_map": {"AutoTokenizer": [None, "evil.SecretTokenizer"]},
    }
    place = folder("bert_plain", {**settings, "added_tokens_decoder": QUERY}, {}, {"model_type": "secret"})
    (place / "evil.py").write_text("raise SystemExit('ran')")
    read = tokenizer.read(place)
    assert read.encode("<query>")[1] == 133
    assert any("AutoTokenizer cannot read it" in str(guess) for guess in read.guesses)


@pytest.mark.parametrize("kind", ["CanineTokenizer", "BertJapaneseTokenizer"])
def test_a_class_in_python_that_makes_other_ids_is_refused_by_name(folder: Callable[..., Path], kind: str):
    with pytest.raises(CheckpointError, match=f"reads this tokenizer with {kind}, Python code"):
        tokenizer.read(folder("bert_plain", {"tokenizer_class": kind}, {}, {}))


def test_settings_that_transformers_cannot_read_are_one_sentence(folder: Callable[..., Path]):
    place = folder("bert_plain", {"added_tokens_decoder": {"133": "<query>"}}, {}, {})
    with pytest.raises(CheckpointError, match="transformers cannot read this tokenizer") as caught:
        tokenizer.read(place)
    assert "\n" not in str(caught.value)

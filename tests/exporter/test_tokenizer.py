from __future__ import annotations

import json
import shutil
import string
from collections.abc import Callable
from pathlib import Path

import pytest
from poolrt.exporter.files import tokenizer
from poolrt.runtime.errors import CheckpointError
from tokenizers import Tokenizer

Paths = Callable[[str], Path]
TEXTS = (
    "", "the red planet", "Mars, Venus & the MOON!", "learning  about\tParis\n2024", "naïve façade", "火星",
    "🙂", string.punctuation,
    "[MASK] <mask>",
)  # fmt: skip


@pytest.mark.parametrize("name", ["bert_plain", "roberta_embedder"])
def test_a_converted_tokenizer_encodes_like_the_original(name: str, checkpoints: Paths, tmp_path: Path):
    folder = Path(shutil.copytree(checkpoints(name), tmp_path / name))
    expected = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (folder / "tokenizer.json").unlink()
    read = tokenizer.read(folder)
    assert read.converted in ("vocab.txt", "vocab.json")
    made = Tokenizer.from_str(read.json.decode())
    for text in TEXTS:
        assert made.encode(text).ids == expected.encode(text).ids, text
        assert made.encode(text, "what is it").ids == expected.encode(text, "what is it").ids, text
        assert made.encode(text, "what is it").type_ids == expected.encode(text, "what is it").type_ids, text


def test_a_sentencepiece_file_becomes_xlm_rs_tokenizer(checkpoints: Paths, tmp_path: Path):
    import sentencepiece

    folder = Path(shutil.copytree(checkpoints("xlmr_embedder"), tmp_path / "xlmr"))
    (folder / "tokenizer.json").unlink()
    corpus = tmp_path / "corpus.txt"
    corpus.write_text(
        "\n".join((f"the red planet number {n} is called mars, and venus is near the sun") for n in range(50))
    )
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(folder / "sentencepiece.bpe"),
        vocab_size=40,
        model_type="unigram",
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    made = Tokenizer.from_str(tokenizer.read(folder).json.decode())
    for text in ("the red planet", "mars, venus and the sun", "number 7"):
        # fairseq put <s> <pad> </s> <unk> in front: every piece moves up by one.
        assert made.encode(text).ids == [0, *(piece + 1 for piece in pieces.encode(text)), 2], text


def test_the_checkpoints_own_file_is_kept_byte_for_byte(checkpoints: Paths):
    folder = checkpoints("minilm_like")
    assert tokenizer.read(folder).json == (folder / "tokenizer.json").read_bytes()


def test_special_tokens_are_known_by_role(checkpoints: Paths):
    read = tokenizer.read(checkpoints("bge_m3"))
    assert read.special["mask_token"] == "<mask>"
    assert (read.ids["bos_token"], read.ids["pad_token"], read.ids["eos_token"]) == (0, 1, 2)


def test_no_tokenizer_at_all_is_said(checkpoints: Paths, tmp_path: Path):
    shutil.copy(checkpoints("bert_plain") / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"no tokenizer; expected tokenizer\.json or one of vocab\.txt"):
        tokenizer.read(tmp_path)


def test_a_damaged_tokenizer_is_named(checkpoints: Paths, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Sorcery"}}')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a tokenizer"):
        tokenizer.read(tmp_path)


@pytest.mark.parametrize("decoder", [True, False], ids=["added_tokens_decoder", "legacy"])
@pytest.mark.parametrize("role", ["sep_token", "mask_token", "pad_token"])
def test_of_two_files_of_special_tokens_transformers_choice_counts(
    checkpoints: Paths, tmp_path: Path, role: str, decoder: bool
):
    """`special_tokens_map.json` against `tokenizer_config.json`: the first wins in folders of transformers
    4.33 and before, which have no `added_tokens_decoder`; since then it is not read."""
    from transformers import AutoTokenizer

    folder = Path(shutil.copytree(checkpoints("bert_plain"), tmp_path / "bert"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    added = {"0": {"content": "[PAD]", "special": True}} if decoder else None
    config = {
        key: value
        for key, value in (config | {role: "mars", "added_tokens_decoder": added}).items()
        if value is not None
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "special_tokens_map.json").write_text(json.dumps({role: "venus"}))
    theirs = AutoTokenizer.from_pretrained(str(folder))
    read = tokenizer.read(folder)
    assert read.special[role] == getattr(theirs, role) == ("mars" if decoder else "venus")
    assert read.ids[role] == getattr(theirs, f"{role}_id")

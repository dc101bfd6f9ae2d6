"""Tokenizers of the encoder families, small, with the files and special tokens of the real ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.checkpoints import MERGES, TABLE, TEXT

MODERN = {
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "unk_token": "[UNK]",
}
MPNET = {
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>", "pad_token": "<pad>",
    "sep_token": "</s>",
    "unk_token": "[UNK]",
}  # fmt: skip


def modernbert_bpe(folder: Path, *, added: Sequence[str] = (), max_tokens: int = TABLE) -> int:
    """ModernBERT's: byte-level BPE, special tokens behind the pieces, `added` ones (`[Q] `)
    last. Answers the count."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*special[:4], AddedToken("[MASK]", lstrip=True, special=True)])
    for token in added:
        tokenizer.add_tokens([AddedToken(token, normalized=False)])
    ids = {token: tokenizer.token_to_id(token) for token in special}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:0 [SEP]:0",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    reads = ["input_ids", "attention_mask"]
    write(folder / "special_tokens_map.json", MODERN)
    config = {
        **MODERN,
        "model_input_names": reads,
        "model_max_length": max_tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    write(folder / "tokenizer_config.json", config)
    return tokenizer.get_vocab_size(with_added_tokens=True)


def mpnet_wordpiece(folder: Path, *, max_tokens: int = TABLE) -> int:
    """MPNet's: BERT's pieces behind `<s>` 0, `<pad>` 1, `</s>` 2; pairs are `<s> A </s></s> B </s>`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    from tests.checkpoints import wordpiece_vocabulary

    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "[UNK]",
        *(piece for piece in wordpiece_vocabulary() if not piece.startswith("[")),
        "<mask>",
    ]
    ids = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(MPNET.values()))
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "special_tokens_map.json", MPNET)
    config = {
        **MPNET,
        "do_lower_case": True,
        "model_max_length": max_tokens,
        "tokenizer_class": "MPNetTokenizer",
    }
    write(folder / "tokenizer_config.json", config)
    return len(pieces)


def deberta_unigram(folder: Path, *, max_tokens: int = TABLE) -> int:
    """DeBERTa-v3's: `[PAD]` 0, `[CLS]` 1, `[SEP]` 2, `[UNK]` 3, SentencePiece pieces, `[MASK]`
    last; token types 0 and 1."""
    import string

    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    scored = [("[PAD]", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[UNK]", 0.0), ("▁", -3.0)]
    scored += [
        (f"▁{word}", -4.0 - index / 10)
        for index, word in enumerate(word for word in TEXT.split() if not word.startswith("#"))
    ]
    scored += [
        (letter, -6.0 - index / 100)
        for index, letter in enumerate(string.ascii_lowercase + string.punctuation)
    ]
    scored += [("[MASK]", 0.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["[PAD]", "[CLS]", "[SEP]", "[UNK]", AddedToken("[MASK]", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder / "special_tokens_map.json", MODERN)
    config = {
        **MODERN,
        "do_lower_case": False,
        "model_max_length": max_tokens,
        "tokenizer_class": "DebertaV2Tokenizer",
    }
    write(folder / "tokenizer_config.json", config)
    return len(scored)


def write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

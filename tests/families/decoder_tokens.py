"""Tokenizers of decoder families, small, with the files and special tokens of the real ones."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.checkpoints import MERGES, TABLE

from .tokens import write

END = "<|endoftext|>"
QWEN = (END, "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<extra_0>")
ANSWERS = [("y", "e"), ("ye", "s"), ("n", "o"), ("Y", "e"), ("Ye", "s")]


def qwen_bpe(
    folder: Path, *, ends: bool, max_tokens: int = TABLE, added: Sequence[str] = (), **config: Any
) -> int:
    """Qwen's: byte-level BPE, special tokens behind the pieces; `ends`: its post-processor puts
    `<|endoftext|>` after a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    merges = [*MERGES, *ANSWERS]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, merges))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in (*QWEN, *added)]
    )
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = (
        processors.TemplateProcessing(
            single=f"$A:0 {END}:0", pair=f"$A:0 {END}:0 $B:1 {END}:1", special_tokens=[(END, end)]
        )
        if ends
        else processors.ByteLevel(trim_offsets=False)
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"eos_token": "<|im_end|>", "pad_token": END}
    write(
        folder / "tokenizer_config.json",
        {**special, "model_max_length": max_tokens, "tokenizer_class": "Qwen2Tokenizer"} | config,
    )
    return tokenizer.get_vocab_size(with_added_tokens=True)


def sentencepiece_bpe(
    folder: Path,
    *,
    special: Sequence[str],
    roles: dict[str, str],
    template: str,
    prepend: bool,
    max_tokens: int = TABLE,
    **config: Any,
) -> int:
    """Llama's and Gemma's: BPE over SentencePiece's pieces with a token for every byte; `template` is
    what is put around a text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    merges = [pair for pair in (*MERGES, *ANSWERS) if "Ġ" not in pair[0]] + [
        ("▁", "<"),
        ("▁", "a"),
        ("▁", "the"),
    ]
    pieces = [
        *special,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *string.ascii_letters,
        *string.digits,
        *string.punctuation,
    ]
    pieces += ["".join(pair) for pair in merges]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    steps = [normalizers.Prepend("▁")] if prepend else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    used = [token for token in special if token in template]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template,
        pair=f"{template} {template.replace('$A', '$B:1')}",
        special_tokens=[(token, ids[token]) for token in used],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder / "tokenizer_config.json",
        {**roles, "model_max_length": max_tokens, "tokenizer_class": "PreTrainedTokenizerFast"} | config,
    )
    return len(pieces)


def llama_bpe(folder: Path, *, template: str = "<s> $A", **config: Any) -> int:
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    return sentencepiece_bpe(
        folder, special=("<unk>", "<s>", "</s>"), roles=roles, template=template, prepend=True, **config
    )


def gemma_bpe(folder: Path, *, template: str = "<bos> $A", **config: Any) -> int:
    roles = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return sentencepiece_bpe(
        folder,
        special=("<pad>", "<eos>", "<bos>", "<unk>"),
        roles=roles,
        template=template,
        prepend=False,
        **config,
    )


def lfm2_bpe(folder: Path, *, added: Sequence[str] = (), **config: Any) -> int:
    """LFM2's: byte-level BPE between `<|startoftext|>` and nothing; `<|im_end|>` fills
    up queries; no mask token."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    special = ("<|pad|>", "<|startoftext|>", "<|im_end|>")
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in MERGES)]
    tokenizer = Tokenizer(models.BPE({piece: index for index, piece in enumerate(pieces)}, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special))
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A", special_tokens=[("<|startoftext|>", 1)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos_token": "<|startoftext|>", "eos_token": "<|im_end|>", "pad_token": "<|pad|>"}
    write(
        folder / "tokenizer_config.json",
        {**roles, "model_max_length": TABLE, "tokenizer_class": "PreTrainedTokenizerFast"} | config,
    )
    return tokenizer.get_vocab_size(with_added_tokens=True)

"""Small tokenizers of every kind in use, trained here, and manifests to open them with."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poolrt.runtime.artifact.manifest import Graph, Manifest, Source, Tensor, TextPreparation
from poolrt.runtime.inputs.preparation import Preparation
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind it at all.",
    "Paris is the capital of France; Berlin is the capital of Germany. What is the capital of Italy?",
    "Embedding models turn texts into vectors. Rerankers read a query and a document together!",
    "北京是中国的首都，东京是日本的首都。语言模型把文本变成向量。汉字测试文本处理。",
    "Съешь ещё этих мягких французских булок, да выпей чаю. Être où ça, über naïve façade.",
    "def f(x):\n    return x ** 2  # squares\n\n\tindented = [1, 22, 333, 4444]   \n",
    "aaaa aaaaaaaa abababab 0000 1234567890 -- ... === ???",
    "😀 😀😀 👨‍👩‍👧 🇫🇷 e\u0301 n\u0303 हिन्दी ไทย 한국어 العربية",
] * 3

_QWEN = Regex(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| "
    r"?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def wordpiece() -> Tokenizer:
    """BERT's."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def roberta() -> Tokenizer:
    """Byte-level BPE with GPT-2's split and RoBERTa's two separators."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        ),
    )
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def qwen() -> Tokenizer:
    """Byte-level BPE with Qwen's split; adds no special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_QWEN, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return tokenizer


def unigram() -> Tokenizer:
    """XLM-R's: SentencePiece Unigram behind white-space clean-up, words split at ▁."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.UnigramTrainer(
            vocab_size=420, special_tokens=special, unk_token="<unk>", show_progress=False
        ),
    )
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def llama() -> Tokenizer:
    """SentencePiece BPE over the whole text: no words, a space in front of every text, bytes for
    what is unknown; adds <s>."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    tokenizer.model = models.BPE(
        model["vocab"],
        [tuple(merge) for merge in model["merges"]],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


ALL: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": functools.cache(wordpiece),
    "roberta": functools.cache(roberta),
    "qwen": functools.cache(qwen),
    "unigram": functools.cache(unigram),
    "llama": functools.cache(llama),
}


def manifest(
    tokenizer: Tokenizer,
    *,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    **text: Any,
) -> Manifest:
    """Only what `Preparation` reads."""
    settings = {"max_tokens": 64, "vocab_size": tokenizer.get_vocab_size(), "pad_id": 0, **text}
    tensors = tuple(Tensor(name=name, dtype="int64", axes=("batch", "tokens")) for name in inputs)
    return Manifest(
        format=1,
        name="tiny",
        architecture="BertModel",
        source=Source(checkpoint="tiny"),
        tasks=("embed",),
        scoring=None,
        text=TextPreparation(**settings),
        graphs=(Graph(file="model.onnx", precision="fp32", opset=20, inputs=tensors, outputs=()),),
        heads={},
    )


def preparation(
    folder: Path, kind: str, *, style: Any = "model", files: dict[str, str] | None = None, **text: Any
) -> Preparation:
    """Opened from `folder`, where the tokenizer and `files` are written first."""
    tokenizer = ALL[kind]()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in (files or {}).items():
        (folder / name).write_text(content, encoding="utf-8")
    return Preparation(folder, manifest(tokenizer, **text), style=style)

"""Checkpoints with random weights and the published sizes of models that people run, for machines without a
hub.

What they answer means nothing; how fast, and how near to PyTorch, does not depend on what weights learned.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .texts import SENTENCES

Words = Literal["bert", "roberta", "modernbert", "qwen"]
PIECES = 4000
"""Most pieces of a vocabulary that is learned from the sentences. Others follow that no sentence contains, up
to the published size, because a tokenizer of 150 000 pieces takes a while to open."""
SPARE = 16
"""Ids that are left free behind the pieces."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A published size."""

    model: str
    """Class of transformers."""
    settings: Mapping[str, Any]
    words: Words
    pooling: Literal["mean", "cls", "lasttoken"] | None
    """None: a causal LM that answers yes or no."""
    dtype: Literal["float32", "bfloat16"]
    """In which it is published."""
    tokens: int
    """Longest text that is prepared; published models take more."""


QWEN: dict[str, Any] = {
    "hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
    "head_dim": 128, "intermediate_size": 3072, "vocab_size": 151669, "max_position_embeddings": 32768,
    "rope_theta": 1e6, "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
SHAPES: dict[str, Shape] = {
    # google-bert/bert-base-uncased, the size of bge-base and e5-base
    "base": Shape("BertModel", {}, "bert", "mean", "float32", 512),
    # BAAI/bge-m3
    "large": Shape(
        "XLMRobertaModel",
        {
            "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
            "intermediate_size": 4096,
            "vocab_size": 250002, "max_position_embeddings": 8194, "type_vocab_size": 1, "bos_token_id": 0,
            "pad_token_id": 1, "eos_token_id": 2, "layer_norm_eps": 1e-5,
            "position_embedding_type": "absolute",  # of the published file; vLLM reads it
        },
        "roberta", "cls", "float32", 8192,
    ),
    # answerdotai/ModernBERT-base
    "long": Shape(
        "ModernBertModel",
        {"cls_token_id": 1, "bos_token_id": 1, "sep_token_id": 2, "eos_token_id": 2, "pad_token_id": 3},
        "modernbert", "mean", "float32", 4096,
    ),
    # Qwen/Qwen3-Embedding-0.6B and Qwen/Qwen3-Reranker-0.6B
    "decoder": Shape("Qwen3Model", QWEN, "qwen", "lasttoken", "bfloat16", 2048),
    "reranker": Shape("Qwen3ForCausalLM", QWEN, "qwen", None, "bfloat16", 2048),
}  # fmt: skip
TINY: dict[str, Any] = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96,
}  # fmt: skip
TINY_QWEN: dict[str, Any] = TINY | {"num_key_value_heads": 1, "head_dim": 32}


def write(name: str, folder: Path, *, tokenizer: Path | None, tiny: bool = False) -> Path:
    """Writes a checkpoint of the shape `name`, or leaves the one that is there, and returns its folder.

    Args:
        tokenizer: a checkpoint with BERT's own vocabulary, whose files BERT's shape has. None: it learns a
            vocabulary, as the others do.
        tiny: two narrow layers instead, to see that everything works.
    """
    place = folder / (f"{name}-tiny" if tiny else name)
    if (place / "complete").exists():
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    import torch
    import transformers

    shape = SHAPES[name]
    small = {} if not tiny else TINY_QWEN if shape.words == "qwen" else TINY
    kind = getattr(transformers, shape.model)
    config = kind.config_class(**{**shape.settings, **small})
    config.architectures = ["Qwen3ForCausalLM" if shape.words == "qwen" else shape.model]
    torch.manual_seed(0)
    kind(config).to(getattr(torch, shape.dtype)).save_pretrained(place)
    if shape.words == "bert" and tokenizer is not None:
        for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
            if (tokenizer / file).exists():
                shutil.copy(tokenizer / file, place / file)
    else:
        _words(place, shape, config.vocab_size)
    if shape.pooling is not None:
        _sentence_transformers(place, shape, config.hidden_size)
    (place / "complete").touch()
    return place


SPECIAL: dict[Words, dict[str, str]] = {
    "bert": {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"},
    "roberta": {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "modernbert": {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"},
    "qwen": {"pad_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>"},
}
"""In the order of their ids, from 0 on."""
AROUND: dict[Words, tuple[str, str]] = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "roberta": ("<s> $A </s>", "<s> $A </s> </s> $B </s>"),
    "modernbert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]"),
    "qwen": ("$A <|endoftext|>", "$A $B <|endoftext|>"),
}


def _words(place: Path, shape: Shape, size: int) -> None:
    """A byte-level BPE that is learned from the sentences, with the special tokens of its family."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = list(SPECIAL[shape.words].values())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    corpus = [" ".join(sentence) for sentence in SENTENCES]
    # The words that a yes/no reranker answers, and those of its prompt.
    corpus += [
        "yes no",
        "Judge whether the Document meets the requirements based on the Query and the Instruct",
    ]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learn = trainers.BpeTrainer(
        vocab_size=PIECES, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(corpus * 3, learn)
    tokenizer = _filled(tokenizer, size - SPARE)
    tokenizer.add_tokens(["yes", "no"] if shape.pooling is None else [])
    if shape.pooling is not None:
        single, pair = AROUND[shape.words]
        ids = [(token, tokenizer.token_to_id(token)) for token in special]
        tokenizer.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)
    tokenizer.save(str(place / "tokenizer.json"))
    settings = {
        **SPECIAL[shape.words],
        "model_max_length": shape.tokens,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    _json(place / "tokenizer_config.json", settings)


def _filled(tokenizer: Any, size: int) -> Any:
    """The tokenizer with `size` pieces, the new ones of bytes beyond ASCII only."""
    described = json.loads(tokenizer.to_str())
    pieces, merges = described["model"]["vocab"], described["model"]["merges"]
    letters = [piece for piece in pieces if len(piece) == 1 and ord(piece) > ord("~")]
    longer = (head + letter for head in itertools.chain(letters, _pairs(letters)) for letter in letters)
    for piece in itertools.islice(longer, max(0, size - len(pieces))):
        pieces[piece] = len(pieces)
        merges.append([piece[:-1], piece[-1]])
    return type(tokenizer).from_str(json.dumps(described))


def _pairs(letters: Sequence[str]) -> Iterator[str]:
    return (first + second for first in letters for second in letters)


def _sentence_transformers(place: Path, shape: Shape, width: int) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{kind}" if index else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, kind in enumerate(kinds)
    ]
    _json(place / "modules.json", modules)
    flags = {"mean": "mean_tokens", "cls": "cls_token", "lasttoken": "lasttoken"}
    pooling = {f"pooling_mode_{flag}": name == shape.pooling for name, flag in flags.items()}
    _json(place / "1_Pooling/config.json", {"word_embedding_dimension": width, **pooling})
    _json(place / "sentence_bert_config.json", {"max_seq_length": shape.tokens, "do_lower_case": False})
    (place / "2_Normalize").mkdir()


def _json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")

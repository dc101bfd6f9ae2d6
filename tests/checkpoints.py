"""Tiny random checkpoints in the exact layout of published repositories, for tests
that run without a network.

`ALL[name](folder)` writes one and answers the folder. Weights are scaled up and differ between query,
key and value, biases are not zero and norm weights not one, so that a swapped or forgotten tensor
changes the numbers visibly.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

HIDDEN = 64  # two heads of 32: the narrowest that vLLM's CPU attention runs, and goldens come from it
TABLE = 128  # tokens a model can place; RoBERTa's tables have two rows more
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "hidden_dropout_prob": 0.1,
}  # fmt: skip
TEXT = """
    the a of is are in to and what which planet red mars venus known as capital city france paris brazil learn ##ing ##s ##ed
    deep sun moon query passage search document
"""  # noqa: E501
WORDS = TEXT.split()
IDENTITY = "torch.nn.modules.linear.Identity"

MEAN_OLD = {
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
}


# --- tokenizers
# ------------------------------------------------------------------------------------------------------------


def wordpiece_vocabulary() -> list[str]:
    """112 pieces: enough to spell any lower-case ASCII word, all ASCII punctuation, some whole words."""
    pieces = [
        "[PAD]",
        "[unused0]",
        "[unused1]",
        "[unused2]",
        "[unused3]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
    ]
    pieces += [
        *string.punctuation,
        *string.digits,
        *string.ascii_lowercase,
        *(f"##{letter}" for letter in string.ascii_lowercase),
    ]
    return pieces + [word for word in WORDS if len(word) > 1]


def _wordpiece(folder: Path, *, fast: bool = True, max_tokens: int = TABLE, lowercase: bool = True) -> int:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = wordpiece_vocabulary()
    ids = {piece: index for index, piece in enumerate(pieces)}
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    if fast:
        tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS]:0 $A:0 [SEP]:0",
            pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
            special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
        )
        tokenizer.save(str(folder / "tokenizer.json"))
    special = {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    _json(folder / "special_tokens_map.json", special)
    _json(
        folder / "tokenizer_config.json",
        {
            "do_lower_case": lowercase,
            **special,
            "model_max_length": max_tokens,
            "tokenizer_class": "BertTokenizer",
        },
    )
    return len(pieces)


ROBERTA_SPECIAL: dict[str, Any] = {
    "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "sep_token": "</s>", "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": {"__type": "AddedToken", "content": "<mask>", "lstrip": True, "rstrip": False,
    "normalized": False, "single_word": False},
}  # fmt: skip


MERGES = [
    ("t", "h"),
    ("th", "e"),
    ("Ġ", "the"),
    ("i", "n"),
    ("in", "g"),
    ("a", "r"),
    ("ar", "s"),
    ("Ġ", "a"),
    ("e", "d"),
    ("o", "f"),
]
"""Of every byte-level BPE of the tests."""


def _byte_bpe(folder: Path) -> int:
    """RoBERTa's: <s> 0, <pad> 1, </s> 2, <unk> 3, all 256 bytes, some merges, <mask> last."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *("".join(pair) for pair in MERGES),
        "<mask>",
    ]
    ids = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(ids, MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.add_special_tokens([*pieces[:4], AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(folder / "vocab.json", ids)
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES), encoding="utf-8"
    )
    _json(folder / "special_tokens_map.json", ROBERTA_SPECIAL)
    _json(
        folder / "tokenizer_config.json",
        {
            **ROBERTA_SPECIAL,
            "add_prefix_space": False,
            "model_max_length": TABLE,
            "tokenizer_class": "RobertaTokenizer",
        },
    )
    return len(pieces)


def _unigram(folder: Path) -> int:
    """XLM-R's: <s> 0, <pad> 1, </s> 2, <unk> 3, SentencePiece pieces, <mask> last; pairs are
    `<s> A </s></s> B </s>`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    scored = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    words = [word for word in WORDS if not word.startswith("#")]
    scored += [(f"▁{word}", -4.0 - index / 10) for index, word in enumerate(words)]
    scored += [
        (letter, -6.0 - index / 100)
        for index, letter in enumerate(string.ascii_lowercase + string.punctuation)
    ]
    scored += [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(
        ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(folder / "special_tokens_map.json", ROBERTA_SPECIAL)
    _json(
        folder / "tokenizer_config.json",
        {**ROBERTA_SPECIAL, "model_max_length": TABLE, "tokenizer_class": "XLMRobertaTokenizer"},
    )
    return len(scored)


# --- weights
# ------------------------------------------------------------------------------------------------------------


def randomise(module: Any, seed: int = 0) -> Any:
    """Fills every parameter of a torch module, in place, with weights that make each of them count."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                # Embedding rows are normed right after; larger linear maps would only
                # amplify float32's rounding.
                gain = (
                    1.6
                    if "query" in name or "q_proj" in name
                    else 1.1
                    if "key" in name or "k_proj" in name
                    else 1.3
                )
                parameter.copy_(noise * (0.3 if "embeddings" in name else gain / parameter.shape[1] ** 0.5))
            elif name.endswith("weight"):
                parameter.copy_(1.0 + 0.3 * noise)
            else:
                parameter.copy_(0.2 * noise)
    return module.eval()


def _hf(
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    shard: str = "1GB",
    architectures: Sequence[str] | None = None,
    **settings: Any,
) -> Any:
    """Builds transformers' class `name` at toy size, saves it, and answers the module."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    kind = getattr(transformers, name)
    module = randomise(kind(kind.config_class(**settings)), seed)
    module.save_pretrained(folder, max_shard_size=shard)
    if architectures is not None:
        configure(folder, architectures=list(architectures))
    return module


def configure(folder: Path, **values: Any) -> None:
    """Sets keys of config.json; a value of None removes the key."""
    config = {**json.loads((folder / "config.json").read_text(encoding="utf-8")), **values}
    _json(folder / "config.json", {key: value for key, value in config.items() if value is not None})


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def rewrite_weights(
    folder: Path,
    rename: Callable[[str], str | None],
    *,
    add: Mapping[str, Any] | None = None,
    pickle: bool = False,
) -> None:
    """Renames (None: drops) tensors of model.safetensors; `pickle` leaves a
    pytorch_model.bin in its place."""
    import torch
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = {new: tensor for old, tensor in load_file(path).items() if (new := rename(old)) is not None}
    tensors |= add or {}
    if pickle:
        torch.save(tensors, folder / "pytorch_model.bin")
        path.unlink()
    else:
        save_file(tensors, path, metadata={"format": "pt"})


def _bert_settings(folder: Path, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return (
        SIZES
        | {
            "vocab_size": _wordpiece(folder),
            "max_position_embeddings": TABLE,
            "type_vocab_size": 2,
            "pad_token_id": 0,
        }
        | more
    )


def _roberta_settings(folder: Path, tokenizer: Callable[[Path], int], **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    special = {
        "pad_token_id": 1,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "layer_norm_eps": 1e-5,
        "type_vocab_size": 1,
    }
    return SIZES | {"vocab_size": tokenizer(folder), "max_position_embeddings": TABLE + 2} | special | more


# --- Sentence Transformers' files
# -------------------------------------------------------------------------------------------------

OLD_POOLING = {
    "cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens", "max": "pooling_mode_max_tokens",
    "mean_sqrt_len": "pooling_mode_mean_sqrt_len_tokens", "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}  # fmt: skip
OLD_TYPES = {
    name: f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense", "Normalize")
}
NEW_TYPES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
}


def sentence_transformers_files(
    folder: Path,
    *,
    pooling: str = "mean",
    generation: int = 2,
    dense: Sequence[tuple[int, str]] = (),
    normalize: bool = True,
    max_tokens: int | None = 64,
    lowercase: bool = False,
    prompts: Mapping[str, str] | None = None,
    default_prompt: str | None = None,
) -> None:
    """Adds modules.json and what it names. `generation` 2 writes the format before version 6; `dense`
    lists (width, activation)."""
    import torch
    from safetensors.torch import save_file

    kinds = ["Transformer", "Pooling", *["Dense"] * len(dense), *["Normalize"] * normalize]
    types = OLD_TYPES if generation < 6 else NEW_TYPES
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": types[kind]}
        for i, kind in enumerate(kinds)
    ]
    _json(folder / "modules.json", modules)
    if generation < 6:
        flags = {flag: name == pooling for name, flag in OLD_POOLING.items()}
        _json(folder / "1_Pooling/config.json", {"word_embedding_dimension": HIDDEN, **flags})
        if max_tokens is not None:
            _json(
                folder / "sentence_bert_config.json",
                {"max_seq_length": max_tokens, "do_lower_case": lowercase},
            )
        settings: dict[str, Any] = {
            "__version__": {"sentence_transformers": "2.0.0", "transformers": "4.6.1", "pytorch": "1.8.1"}
        }
    else:
        mode = "mean_sqrt_len_tokens" if pooling == "mean_sqrt_len" else pooling
        _json(
            folder / "1_Pooling/config.json",
            {"embedding_dimension": HIDDEN, "pooling_mode": mode, "include_prompt": True},
        )
        reads = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
        task = {
            "transformer_task": "feature-extraction",
            "modality_config": reads,
            "module_output_name": "token_embeddings",
        }
        _json(folder / "sentence_bert_config.json", task | ({"do_lower_case": True} if lowercase else {}))
        if max_tokens is not None:  # version 6 keeps the limit with the tokenizer
            known = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
            _json(folder / "tokenizer_config.json", known | {"model_max_length": max_tokens})
        settings = {
            "__version__": {"sentence_transformers": "6.2.0", "transformers": "5.23.0", "pytorch": "2.13.0"}
        }
        settings |= {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine"}
        prompts = prompts or {"query": "", "document": ""}
    if prompts is not None or default_prompt is not None:
        settings |= {"prompts": dict(prompts or {}), "default_prompt_name": default_prompt}
    _json(folder / "config_sentence_transformers.json", settings)
    if generation >= 6 and normalize:
        _json(folder / modules[-1]["path"] / "config.json", {})
    width = HIDDEN
    for index, (out, activation) in enumerate(dense):
        place = folder / f"{index + 2}_Dense"
        _json(
            place / "config.json",
            {"in_features": width, "out_features": out, "bias": True, "activation_function": activation},
        )
        layer = randomise(torch.nn.Linear(width, out), seed=10 + index)
        save_file(
            {f"linear.{key}": value for key, value in layer.state_dict().items()}, place / "model.safetensors"
        )
        width = out


# --- the checkpoints: embedding
# ---------------------------------------------------------------------------------------------------


def minilm_like(folder: Path) -> Path:
    """sentence-transformers/all-MiniLM-L6-v2: BertModel, mean, normalised, cut at 64 tokens of 128."""
    _hf(folder, "BertModel", **_bert_settings(folder))
    sentence_transformers_files(folder)
    return folder


def bert_plain(folder: Path) -> Path:
    """A BertModel without Sentence Transformers files."""
    _hf(folder, "BertModel", **_bert_settings(folder))
    return folder


def bert_vocab_txt(folder: Path) -> Path:
    """An old BERT repository: vocab.txt instead of tokenizer.json, pytorch_model.bin of a
    masked LM with gamma and beta."""
    import torch

    settings = _bert_settings(folder)
    _hf(folder, "BertModel", architectures=["BertForMaskedLM"], **settings)
    (folder / "tokenizer.json").unlink()
    extra = {
        "cls.predictions.bias": torch.zeros(settings["vocab_size"]),
        "bert.embeddings.position_ids": torch.arange(TABLE)[None],
    }

    def legacy(name: str) -> str:
        return "bert." + name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        )

    rewrite_weights(folder, legacy, add=extra, pickle=True)
    return folder


def bert_sharded(folder: Path) -> Path:
    """BAAI/bge-like: cls pooling, weights in several files with an index."""
    _hf(folder, "BertModel", shard="40KB", **_bert_settings(folder))
    sentence_transformers_files(
        folder, pooling="cls", prompts={"query": "search: ", "document": ""}, default_prompt=None
    )
    return folder


def bert_dense(folder: Path) -> Path:
    """distiluse-like: mean, Dense with tanh, then a plain Dense, not normalised; version-6 files."""
    _hf(folder, "BertModel", **_bert_settings(folder))
    dense = [(24, "torch.nn.modules.activation.Tanh"), (16, IDENTITY)]
    sentence_transformers_files(folder, generation=6, dense=dense, normalize=False)
    return folder


def _pooled(pooling: str, generation: int) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        _hf(folder, "BertModel", **_bert_settings(folder))
        sentence_transformers_files(folder, pooling=pooling, generation=generation, lowercase=True)
        return folder

    write.__name__ = f"bert_{pooling}"
    write.__doc__ = (
        f"BertModel with Sentence Transformers' {pooling} pooling, files of generation {generation}."
    )
    return write


def roberta_embedder(folder: Path) -> Path:
    """sentence-transformers/all-roberta-large-v1: saved as RobertaForMaskedLM,
    byte-level BPE, mean, normalised."""
    _hf(folder, "RobertaForMaskedLM", **_roberta_settings(folder, _byte_bpe))
    sentence_transformers_files(folder, generation=6, max_tokens=None)
    return folder


def xlmr_embedder(folder: Path) -> Path:
    """intfloat/multilingual-e5-base: mean, normalised, prompts `query: ` and `passage: `."""
    _hf(folder, "XLMRobertaModel", **_roberta_settings(folder, _unigram))
    sentence_transformers_files(
        folder, max_tokens=TABLE, prompts={"query": "query: ", "passage": "passage: "}
    )
    return folder


def bge_m3(folder: Path) -> Path:
    """BAAI/bge-m3: XLM-R in pytorch_model.bin, cls, and two more heads in .pt files."""
    import torch

    _hf(folder, "XLMRobertaModel", **_roberta_settings(folder, _unigram))
    rewrite_weights(folder, lambda name: name, pickle=True)
    sentence_transformers_files(folder, pooling="cls", max_tokens=TABLE)
    torch.save(dict(randomise(torch.nn.Linear(HIDDEN, 1), seed=3).state_dict()), folder / "sparse_linear.pt")
    torch.save(
        dict(randomise(torch.nn.Linear(HIDDEN, HIDDEN), seed=4).state_dict()), folder / "colbert_linear.pt"
    )
    return folder


def colbert(folder: Path) -> Path:
    """colbert-ir/colbertv2.0: `bert.*` and a top-level `linear.weight`, settings in artifact.metadata."""
    import torch

    _hf(folder, "BertModel", architectures=["HF_ColBERT"], **_bert_settings(folder))
    projection = {"linear.weight": randomise(torch.nn.Linear(HIDDEN, 16, bias=False), seed=5).weight.detach()}
    rewrite_weights(folder, lambda name: f"bert.{name}", add=projection)
    _json(
        folder / "artifact.metadata",
        {
            "query_token_id": "[unused2]",
            "doc_token_id": "[unused3]",
            "query_token": "[Q]",
            "doc_token": "[D]",
            "dim": 16,
        }
        | {
            "query_maxlen": 16,
            "doc_maxlen": 48,
            "mask_punctuation": True,
            "attend_to_mask_tokens": False,
            "similarity": "cosine",
        },
    )
    return folder


# --- the checkpoints: classification
# ------------------------------------------------------------------------------------------------


def bert_cross_encoder(folder: Path) -> Path:
    """cross-encoder/ms-marco-MiniLM-L6-v2: one label, raw logit."""
    _hf(folder, "BertForSequenceClassification", **_bert_settings(folder, num_labels=1))
    configure(folder, sbert_ce_default_activation_function=IDENTITY)
    return folder


def roberta_cross_encoder(folder: Path) -> Path:
    """cross-encoder/quora-roberta-base: one label, sigmoid."""
    _hf(folder, "RobertaForSequenceClassification", **_roberta_settings(folder, _byte_bpe, num_labels=1))
    return folder


def xlmr_reranker(folder: Path) -> Path:
    """BAAI/bge-reranker-v2-m3: XLM-R, one label, sigmoid."""
    _hf(folder, "XLMRobertaForSequenceClassification", **_roberta_settings(folder, _unigram, num_labels=1))
    return folder


SENTIMENTS = {0: "negative", 1: "neutral", 2: "positive"}
ENTITIES = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC"}


def _labelled(names: Mapping[int, str]) -> dict[str, Any]:
    return {"id2label": dict(names), "label2id": {name: index for index, name in names.items()}}


def bert_classifier(folder: Path) -> Path:
    """Three named labels, softmax."""
    _hf(folder, "BertForSequenceClassification", **_bert_settings(folder, **_labelled(SENTIMENTS)))
    return folder


def roberta_multi_label(folder: Path) -> Path:
    """Three labels that do not exclude one another: a sigmoid each."""
    more = {
        **_labelled({0: "toxic", 1: "spam", 2: "off-topic"}),
        "problem_type": "multi_label_classification",
    }
    _hf(folder, "RobertaForSequenceClassification", **_roberta_settings(folder, _byte_bpe, **more))
    return folder


def bert_tokens(folder: Path) -> Path:
    """boltuix/NeuroBERT-NER: five labels for every token, softmax."""
    _hf(folder, "BertForTokenClassification", **_bert_settings(folder, **_labelled(ENTITIES)))
    return folder


def roberta_tokens(folder: Path) -> Path:
    _hf(
        folder, "RobertaForTokenClassification", **_roberta_settings(folder, _byte_bpe, **_labelled(ENTITIES))
    )
    return folder


def xlmr_tokens(folder: Path) -> Path:
    _hf(
        folder,
        "XLMRobertaForTokenClassification",
        **_roberta_settings(folder, _unigram, **_labelled(ENTITIES)),
    )
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        minilm_like, bert_plain, bert_vocab_txt, bert_sharded, bert_dense, roberta_embedder, xlmr_embedder,
        bge_m3, colbert,
        bert_cross_encoder, roberta_cross_encoder, xlmr_reranker, bert_classifier, roberta_multi_label,
        bert_tokens, roberta_tokens, xlmr_tokens,
        _pooled("cls", 6), _pooled("max", 2), _pooled("mean_sqrt_len", 6), _pooled("weightedmean", 2),
        _pooled("lasttoken", 6),
    )
}  # fmt: skip

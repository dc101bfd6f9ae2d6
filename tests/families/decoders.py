"""Tiny decoder checkpoints, each in the layout of a published repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    ENTITIES,
    HIDDEN,
    TABLE,
    _hf,
    _json,
    _labelled,
    configure,
    randomise,
    rewrite_weights,
    sentence_transformers_files,
)

from .decoder_tokens import END, gemma_bpe, llama_bpe, qwen_bpe

# Fewer key heads than heads; heads of 32 are the narrowest that vLLM's CPU attention runs.
SIZES: dict[str, Any] = {
    "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48,
    "max_position_embeddings": TABLE,
}  # fmt: skip
# Heads wider than hidden / heads
WIDE: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
WINDOW = 8  # far narrower than the texts
INSTRUCT = {
    "query": ("Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"),
    "document": "",
}


def qwen(
    folder: Path, *, ends: bool = False, tokens: Mapping[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    count = qwen_bpe(folder, ends=ends, **tokens or {})
    ids = {"eos_token_id": count - 5 + 1, "bos_token_id": count - 6, "pad_token_id": count - 6}
    return (
        SIZES
        | {"vocab_size": count + 3, "rope_theta": 1e6, "tie_word_embeddings": True, "use_cache": True}
        | ids
        | more
    )


def llama(folder: Path, *, tokens: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    count = llama_bpe(folder, **tokens or {})
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    return SIZES | {"vocab_size": count, "tie_word_embeddings": False, "use_cache": True} | ids | more


def gemma(folder: Path, *, template: str = "<bos> $A", **more: Any) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    count = gemma_bpe(folder, template=template)
    ids = {
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "head_dim": 32,
        "hidden_activation": "gelu_pytorch_tanh",
    }
    return SIZES | {"vocab_size": count, "use_cache": True} | ids | more


# --- Qwen3
# ------------------------------------------------------------------------------------------------------------


def qwen3_embedding(folder: Path, **more: Any) -> Path:
    """Qwen/Qwen3-Embedding-0.6B: called a causal LM, stored without `model.`; the
    tokenizer ends every text."""
    _hf(folder, "Qwen3Model", architectures=["Qwen3ForCausalLM"], **qwen(folder, ends=True, **WIDE | more))
    sentence_transformers_files(folder, pooling="lasttoken", max_tokens=None, prompts=INSTRUCT)
    return folder


def qwen3_embedding_prefixed(folder: Path) -> Path:
    """The same stored as the causal LM it is called, in several bfloat16 files."""
    import torch

    module = _hf(folder, "Qwen3ForCausalLM", seed=3, **qwen(folder, ends=True, **WIDE))
    module.to(torch.bfloat16).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    sentence_transformers_files(folder, pooling="lasttoken", generation=6, max_tokens=None, prompts=INSTRUCT)
    return folder


def qwen3_reranker(folder: Path, **more: Any) -> Path:
    """Qwen/Qwen3-Reranker-0.6B: a causal LM with tied embeddings that answers yes or no."""
    _hf(folder, "Qwen3ForCausalLM", **qwen(folder, **WIDE | more))
    return folder


def qwen3_reranker_card(folder: Path) -> Path:
    """The same in a folder that is called like the repository, with room for the prompt of its card."""
    return qwen3_reranker(folder / "Qwen3-Reranker-0.6B", max_position_embeddings=1024)


def qwen3_seq_cls(folder: Path, **more: Any) -> Path:
    """tomaarsen/Qwen3-Reranker-0.6B-seq-cls."""
    _hf(folder, "Qwen3ForSequenceClassification", **qwen(folder, num_labels=1, **WIDE | more))
    return folder


def qwen3_tokens(folder: Path) -> Path:
    """A decoder's token classifier: `score` with a bias."""
    _hf(folder, "Qwen3ForTokenClassification", **qwen(folder, **WIDE, **_labelled(ENTITIES)))
    return folder


# --- Qwen2
# ------------------------------------------------------------------------------------------------------------


def gte_qwen2(folder: Path, **more: Any) -> Path:
    """Alibaba-NLP/gte-Qwen2-1.5B-instruct: attends both ways; a tokenizer class of its own adds the end that
    tokenizer.json leaves out."""
    tokens = {
        "add_eos_token": True,
        "eos_token": END,
        "auto_map": {"AutoTokenizer": [None, "tokenization_qwen.Qwen2TokenizerFast"]},
    }
    _hf(folder, "Qwen2ForCausalLM", **qwen(folder, tokens=tokens, **more))
    remote = {
        "AutoModel": "modeling_qwen.Qwen2Model",
        "AutoModelForCausalLM": "modeling_qwen.Qwen2ForCausalLM",
    }
    configure(folder, is_causal=False, auto_map=remote)
    sentence_transformers_files(
        folder, pooling="lasttoken", max_tokens=TABLE, prompts={"query": "Instruct: find\nQuery: "}
    )
    return folder


def mxbai_rerank(folder: Path, **more: Any) -> Path:
    """mixedbread-ai/mxbai-rerank-base-v2: a causal LM that answers 0 or 1, here with an
    output matrix of its own."""
    settings: dict[str, Any] = {"tie_word_embeddings": False, **more}
    _hf(folder, "Qwen2ForCausalLM", **qwen(folder, **settings))
    return folder


def qwen2_apeach(folder: Path) -> Path:
    """jason9693/Qwen2.5-1.5B-apeach: two labels."""
    _hf(folder, "Qwen2ForSequenceClassification", **qwen(folder, num_labels=2))
    return folder


def qwen2_ssmits(folder: Path) -> Path:
    """ssmits/Qwen2-7B-Instruct-embed-base: a bare Qwen2Model whose files say nothing of pooling."""
    _hf(folder, "Qwen2Model", **qwen(folder))
    return folder


def qwen2_reward(folder: Path, *, labels: int = 1, name: str = "Qwen2ForRewardModel", **more: Any) -> Path:
    """Qwen/Qwen2.5-Math-RM-72B: two layers judge every token."""
    import torch

    settings = qwen(folder, tie_word_embeddings=False, **more)
    _hf(folder, "Qwen2ForCausalLM", architectures=[name], **settings)
    width = settings["hidden_size"]
    head = randomise(
        torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, labels)),
        seed=8,
    )
    rewrite_weights(
        folder, lambda name: name, add={f"score.{key}": value for key, value in head.state_dict().items()}
    )
    configure(folder, auto_map={"AutoModel": "modeling_qwen2_rm.Qwen2ForRewardModel"})
    return folder


def qwen2_process_reward(folder: Path) -> Path:
    """Qwen/Qwen2.5-Math-PRM-7B: good or bad, at the token behind each step."""
    return qwen2_reward(folder, labels=2, name="Qwen2ForProcessRewardModel")


# --- Llama, Mistral
# ------------------------------------------------------------------------------------------------------------

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def e5_mistral(folder: Path, **more: Any) -> Path:
    """intfloat/e5-mistral-7b-instruct: a window; tokenizer_config.json asks for `</s>`,
    tokenizer.json does not put it."""
    tokens = {"add_bos_token": True, "add_eos_token": True, "tokenizer_class": "LlamaTokenizer"}
    _hf(folder, "MistralModel", **llama(folder, tokens=tokens, sliding_window=WINDOW, **more))
    sentence_transformers_files(
        folder, pooling="lasttoken", max_tokens=TABLE, prompts={"web_search_query": "Instruct: find\nQuery: "}
    )
    return folder


def llama3_causal(folder: Path) -> Path:
    """Any LlamaForCausalLM: Llama 3's stretched angles under their older key, no files
    of Sentence Transformers."""
    _hf(folder, "LlamaForCausalLM", **llama(folder, **WIDE))
    configure(folder, rope_parameters=None, rope_theta=500000.0, rope_scaling=LLAMA3)
    return folder


def nemotron_embed(folder: Path, *, pooling: str = "avg", **more: Any) -> Path:
    """nvidia/llama-nemotron-embed-1b-v2."""
    _hf(folder, "LlamaModel", architectures=["LlamaBidirectionalModel"], **llama(folder, **more))
    remote = {
        "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
        "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel",
    }
    configure(folder, model_type="llama_bidirec", pooling=pooling, temperature=1.0, auto_map=remote)
    sentence_transformers_files(
        folder, max_tokens=TABLE, prompts={"query": "query: ", "document": "passage: "}
    )
    return folder


def nemotron_rerank(folder: Path) -> Path:
    """nvidia/llama-nemotron-rerank-1b-v2: one logit of the mean, divided by a temperature."""
    _hf(
        folder,
        "LlamaForSequenceClassification",
        architectures=["LlamaBidirectionalForSequenceClassification"],
        **llama(folder, num_labels=1),
    )
    name = "LlamaBidirectionalForSequenceClassification"
    remote = {"AutoModelForSequenceClassification": f"llama_bidirectional_model.{name}"}
    configure(folder, model_type="llama_bidirec", pooling="avg", temperature=0.25, auto_map=remote)
    return folder


# --- Gemma
# ------------------------------------------------------------------------------------------------------------


def bge_gemma(folder: Path, **more: Any) -> Path:
    """BAAI/bge-reranker-v2-gemma: a tied causal LM whose logit of `Yes` is the score."""
    _hf(folder, "GemmaForCausalLM", **gemma(folder, **more))
    return folder


def gemma2_embedder(folder: Path) -> Path:
    """BAAI/bge-multilingual-gemma2: capped scores, windows on every second layer, BOS and EOS."""
    settings = gemma(
        folder,
        template="<bos> $A <eos>",
        sliding_window=WINDOW,
        query_pre_attn_scalar=16,
        num_hidden_layers=4,
    )
    # Caps low enough to be felt at this size.
    _hf(folder, "Gemma2Model", **settings, attn_logit_softcapping=2.0, final_logit_softcapping=30.0)
    sentence_transformers_files(folder, pooling="lasttoken", max_tokens=TABLE)
    return folder


def embedding_gemma(folder: Path) -> Path:
    """google/embeddinggemma-300m: both ways, a stored window of 16 that means 9, mean, two Dense modules."""
    settings = gemma(
        folder,
        template="<bos> $A <eos>",
        sliding_window=2 * WINDOW,
        num_hidden_layers=6,
        query_pre_attn_scalar=32,
    )
    types = ["sliding_attention"] * 5 + ["full_attention"]
    _hf(folder, "Gemma3TextModel", **settings, use_bidirectional_attention=True, layer_types=types)
    # The class has halved its window already; the published file holds the whole one.
    configure(folder, sliding_window=2 * WINDOW, layer_types=None, _sliding_window_pattern=6)
    identity = "torch.nn.modules.linear.Identity"
    sentence_transformers_files(
        folder, max_tokens=TABLE, dense=[(96, identity), (HIDDEN, identity)],
        prompts={"query": "task: search result | query: ", "document": "title: none | text: "},
    )  # fmt: skip
    for place in sorted(folder.glob("*_Dense")):
        rewrite_weights(place, lambda name: None if name.endswith("bias") else name)
        _json(place / "config.json", json.loads((place / "config.json").read_text()) | {"bias": False})
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write
    for write in (
        qwen3_embedding, qwen3_embedding_prefixed, qwen3_reranker, qwen3_seq_cls, qwen3_tokens, gte_qwen2,
        mxbai_rerank, qwen2_apeach,
        qwen2_ssmits, qwen2_reward, qwen2_process_reward, e5_mistral, llama3_causal, nemotron_embed,
        nemotron_rerank, bge_gemma,
        gemma2_embedder, embedding_gemma,
    )
}  # fmt: skip


def embedding_gemma2(folder: Path) -> Path:
    """google/embeddinggemma-2: the text tower of a model whose towers for images and sounds are left out."""
    settings = gemma(
        folder,
        template="<bos> $A <eos>",
        num_hidden_layers=6,
        sliding_window=WINDOW,
        max_position_embeddings=262_144,
    )
    more: dict[str, Any] = {
        "hidden_size_per_layer_input": 16,
        "embedding_dim": 48,
        "global_head_dim": 64,
        "num_global_key_value_heads": 1,
    }
    _hf(folder, "EmbeddingGemma2TextModel", **settings | more)
    inner = json.loads((folder / "config.json").read_text())
    rewrite_weights(folder, lambda name: f"language_model.{name}")
    _json(
        folder / "config.json",
        {"architectures": ["EmbeddingGemma2Model"], "model_type": "embedding_gemma2", "text_config": inner},
    )
    sentence_transformers_files(folder, max_tokens=None, prompts={"query": "task: search result | query: "})
    return folder


ALL["embedding_gemma2"] = embedding_gemma2

"""Tiny checkpoints in the flash layout of Jina's XLM-R: with rotary positions and five tasks, as ColBERT,
and with learned positions."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.checkpoints import (
    HIDDEN,
    TABLE,
    _hf,
    _json,
    _roberta_settings,
    _unigram,
    configure,
    randomise,
    rewrite_weights,
)
from tests.checkpoints import sentence_transformers_files as sentence_files

TASKS = ("retrieval.query", "retrieval.passage", "separation", "classification", "text-matching")
RANK = 4
FLASH = "jinaai/xlm-roberta-flash-implementation--"
KEYS: dict[str, Any] = {
    "model_type": "xlm-roberta", "position_embedding_type": "rotary", "rotary_emb_base": 20000.0,
    "rope_parameters": None,
    "use_flash_attn": True, "emb_pooler": None, "truncate_dim": None,
    "auto_map": {
        "AutoConfig": f"{FLASH}configuration_xlm_roberta.XLMRobertaFlashConfig",
        "AutoModel": f"{FLASH}modeling_lora.XLMRobertaLoRA",
    },
}  # fmt: skip
PROMPTS = {
    "retrieval.query": "Represent the query for retrieving evidence documents: ",
    "retrieval.passage": "Represent the document for retrieval: ",
}


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    known = _roberta_settings(folder, _unigram)
    rotary = {"rope_type": "default", "rope_theta": 20000.0}
    return (
        known | {"max_position_embeddings": TABLE + 2, "hidden_act": "gelu", "rope_parameters": rotary} | more
    )


def jina_v3(folder: Path, *, heads: int = 2, seed: int = 0) -> Path:
    """jinaai/jina-embeddings-v3: every matrix with five low-rank corrections, token
    tables the other way round."""
    import torch
    from safetensors.torch import load_file, save_file

    _hf(folder, "JinaEmbeddingsV3Model", seed=seed, **settings(folder, num_attention_heads=heads))
    generator = torch.Generator().manual_seed(100 + seed)
    made = {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if tensor.ndim < 2:
            made[f"roberta.{name}"] = tensor
            continue
        stem = f"roberta.{name.removesuffix('.weight')}.parametrizations.weight"
        rows, columns = tensor.shape
        table = "embeddings" in name
        first = (rows, RANK) if table else (RANK, columns)
        second = (RANK, columns) if table else (rows, RANK)
        made[f"{stem}.original"] = tensor
        made[f"{stem}.0.lora_A"] = 0.4 * torch.randn((len(TASKS), *first), generator=generator)
        made[f"{stem}.0.lora_B"] = 0.4 * torch.randn((len(TASKS), *second), generator=generator)
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    lora = {
        "lora_adaptations": list(TASKS),
        "lora_rank": RANK,
        "lora_alpha": 1,
        "lora_dropout_p": 0.0,
        "lora_main_params_trainable": False,
    }
    names = {
        "architectures": ["XLMRobertaModel"],
        "matryoshka_dimensions": [16, 32, HIDDEN],
        "task_instructions": PROMPTS,
    }
    configure(folder, **KEYS | lora | names)
    sentence_files(folder, max_tokens=TABLE, prompts=PROMPTS)
    modules = (
        (folder / "modules.json")
        .read_text()
        .replace("sentence_transformers.models.Transformer", "custom_st.Transformer")
    )
    (folder / "modules.json").write_text(modules)
    return folder


def jina_colbert(folder: Path) -> Path:
    """jinaai/jina-colbert-v2: `roberta.` and a projection that may be cut, markers behind the
    vocabulary, fillers attended to."""
    import torch
    from tokenizers import AddedToken, Tokenizer

    known = settings(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens(
        [AddedToken(token, normalized=False, special=True) for token in ("[QueryMarker]", "[DocumentMarker]")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    _hf(folder, "JinaEmbeddingsV3Model", **known | {"vocab_size": known["vocab_size"] + 2})
    projection = randomise(torch.nn.Linear(HIDDEN, 32, bias=False), seed=5).weight.detach()
    rewrite_weights(folder, lambda name: f"roberta.{name}", add={"linear.weight": projection})
    configure(folder, **KEYS | {"architectures": ["HF_ColBERT"], "rotary_emb_base": 10000.0})
    _json(
        folder / "artifact.metadata",
        {
            "query_token_id": "[QueryMarker]",
            "doc_token_id": "[DocumentMarker]",
            "query_token": "[Q]",
            "doc_token": "[D]",
            "dim": 32,
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


def jina_reranker(folder: Path) -> Path:
    """jinaai/jina-reranker-v2-base-multilingual: XLM-R's numbers, learned positions, flash names."""
    import torch
    from safetensors.torch import load_file, save_file

    known = _roberta_settings(folder, _unigram)
    _hf(folder, "XLMRobertaForSequenceClassification", num_labels=1, **known)
    made, parts = {}, {}
    names = {
        "attention.output.dense": "mixer.out_proj", "attention.output.LayerNorm": "norm1",
        "intermediate.dense": "mlp.fc1",
        "output.dense": "mlp.fc2", "output.LayerNorm": "norm2", "embeddings.LayerNorm": "emb_ln",
        "encoder.layer.": "encoder.layers.",
    }  # fmt: skip
    for name, tensor in load_file(folder / "model.safetensors").items():
        if found := re.fullmatch(
            r"(.*)encoder\.layer\.(\d+)\.attention\.self\.(query|key|value)\.(weight|bias)", name
        ):
            parts.setdefault(f"{found[1]}encoder.layers.{found[2]}.mixer.Wqkv.{found[4]}", {})[found[3]] = (
                tensor
            )
            continue
        for old, new in names.items():
            name = name.replace(old, new)
        made[name] = tensor
    made |= {
        name: torch.cat([three[part] for part in ("query", "key", "value")]) for name, three in parts.items()
    }
    save_file(made, folder / "model.safetensors", metadata={"format": "pt"})
    auto = {"AutoModelForSequenceClassification": "modeling_xlm_roberta.XLMRobertaForSequenceClassification"}
    configure(folder, auto_map=auto, use_flash_attn=True)
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    write.__name__: write for write in (jina_v3, jina_colbert, jina_reranker)
}


# --- version 5
# ------------------------------------------------------------------------------------------------------------

ADAPTERS = ("retrieval", "text-matching", "classification", "clustering")


def jina_v5(folder: Path, *, encoder: bool = False) -> Path:
    """jinaai/jina-embeddings-v5-text-small: Qwen3 without `model.`, four adapters in PEFT's layout."""
    import torch
    from safetensors.torch import load_file, save_file

    from .decoder_tokens import END
    from .decoders import llama, qwen

    if encoder:
        _hf(
            folder,
            "LlamaModel",
            architectures=["JinaEmbeddingsV5Model"],
            **llama(folder, tokens={"template": "<s> $A </s>"}),
        )
        configure(folder, is_decoder=False)
    else:
        _hf(
            folder,
            "Qwen3Model",
            architectures=["JinaEmbeddingsV5Model"],
            **qwen(folder, ends=True, tokens={"pad_token": END}),
        )
    generator = torch.Generator().manual_seed(7)
    state = load_file(folder / "model.safetensors")
    for task in ADAPTERS:
        made = {}
        for name, tensor in state.items():
            if "proj" in name:
                stem = f"base_model.model.{name.removesuffix('.weight')}"
                made[f"{stem}.lora_A.weight"] = 0.2 * torch.randn(RANK, tensor.shape[1], generator=generator)
                made[f"{stem}.lora_B.weight"] = 0.2 * torch.randn(tensor.shape[0], RANK, generator=generator)
        place = folder / "adapters" / task
        _json(
            place / "adapter_config.json",
            {"peft_type": "LORA", "r": RANK, "lora_alpha": 8, "target_modules": ["q_proj"]},
        )
        save_file(made, place / "adapter_model.safetensors")
    sentence_files(
        folder, pooling="lasttoken", max_tokens=TABLE, prompts={"query": "Query: ", "document": "Document: "}
    )
    return folder


def jina_v5_nano(folder: Path) -> Path:
    """jinaai/jina-embeddings-v5-text-nano: EuroBERT."""
    return jina_v5(folder, encoder=True)


ALL |= {write.__name__: write for write in (jina_v5, jina_v5_nano)}


def jina_reranker_v3(folder: Path) -> Path:
    """jinaai/jina-reranker-v3: Qwen3 under `model.`, a projector of two layers, tokens
    that mark what is compared."""
    from .decoders import WIDE, qwen
    from .reshaped import linear

    marks = {"added": ("<|embed_token|>", "<|rerank_token|>")}
    sizes: dict[str, Any] = {**WIDE, "max_position_embeddings": 2048}
    _hf(folder, "Qwen3Model", architectures=["JinaForRanking"], **qwen(folder, tokens=marks, **sizes))
    projector = {
        "projector.0.weight": linear(HIDDEN // 2, 11),
        "projector.2.weight": linear(24, 12, HIDDEN // 2),
    }
    rewrite_weights(folder, lambda name: f"model.{name}", add=projector)
    configure(folder, auto_map={"AutoModel": "modeling.JinaForRanking"})
    return folder


ALL |= {write.__name__: write for write in (jina_reranker_v3,)}

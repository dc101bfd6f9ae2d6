"""A tiny checkpoint of any text class of transformers, from its own defaults made small, and our graph
of it beside that class."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnxruntime
import torch
import transformers
from poolrt.exporter import checkpoint
from poolrt.exporter.graph import tracing
from poolrt.exporter.heads import planning
from poolrt.runtime.artifact import manifest
from transformers.models.auto import modeling_auto as auto

from tests.families.proof import no_prefix

Kind = Literal["hidden", "classify", "token_classify", "splade"]
DIFFERENCE = 1e-5  # of the largest value; worst measured 2e-6 over all families
VOCABULARY = 128
MOST_PARAMETERS = 10_000_000
TABLES = cast("dict[Kind, Mapping[str, Any]]", {
    "hidden": auto.MODEL_MAPPING_NAMES,
    "classify": auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "token_classify": auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "splade": auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
})  # fmt: skip
TASKS: dict[Kind, manifest.Task] = {
    "hidden": "token_embed", "classify": "classify", "token_classify": "token_classify", "splade": "embed",
}  # fmt: skip

# Value -> the settings that get it, where a config class has them.
SMALL: dict[int, str] = {
    32: """hidden_size d_model n_embd dim emb_dim embed_dim embedding_size d_embed word_embed_proj_dim
        hidden_dim base_hidden_size""",
    2: """num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers num_key_value_heads num_experts_per_tok
        num_experts_per_token moe_topk moe_top_k num_selected_experts multi_query_group_num num_attention_groups linear_num_key_heads""",  # noqa: E501
    4: """num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads num_experts num_local_experts
        n_routed_experts moe_num_experts linear_num_value_heads mamba_n_heads index_n_heads""",  # noqa: E501
    8: """head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim kv_lora_rank q_lora_rank sliding_window linear_key_head_dim
        linear_value_head_dim kv_channels attention_window_size local_attention state_size mamba_d_state index_head_dim d_kv index_topk
        swa_head_dim window_size attention_head_dim""",  # noqa: E501
    9: "conv_kernel_size",
    48: """intermediate_size ffn_dim d_ff n_inner encoder_ffn_dim decoder_ffn_dim moe_intermediate_size shared_expert_intermediate_size
        ffn_hidden_size dff shared_intermediate_size dense_intermediate_size lru_width""",  # noqa: E501
    VOCABULARY: "vocab_size",
    64: "max_position_embeddings n_positions max_seq_len max_sequence_length n_ctx",
}  # fmt: skip
LATENT = (
    "axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 "
    "mistral4 sarvam_mla youtu"
)
NEEDED: dict[str, dict[str, Any]] = {name: {"num_key_value_heads": 4} for name in LATENT.split()} | {
    "big_bird": {"block_size": 4, "num_random_blocks": 1, "max_position_embeddings": 100},
    "bamba": {"attn_layer_indices": [1], "mamba_d_head": 16, "mamba_chunk_size": 8},
    "codegen": {"rotary_dim": 4},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2,
    "first_k_dense_replace": 1},
    "ernie4_5_moe": {"moe_k": 2},
    "esm": {"vocab_size": VOCABULARY, "pad_token_id": 0, "mask_token_id": 4},
    "esmc": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_d_head": 16, "mamba_chunk_size": 8},
    "funnel": {
        "block_sizes": [1, 1], "block_repeats": [1, 1], "d_head": 8, "d_inner": 48, "d_model": 32,
        "n_head": 4, "num_decoder_layers": 1,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "layoutlmv3": {"coordinate_size": 5, "shape_size": 6, "visual_embed": False},
    "lfm2_moe": {"num_dense_layers": 1, "layer_types": ["conv", "full_attention"]},
    "lilt": {"hidden_size": 48, "channel_shrink_ratio": 4},
    "longformer": {"attention_window": [8, 8]},
    "luke": {"entity_vocab_size": 20, "entity_emb_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "qwen3_5_moe_text": {"num_hidden_layers": 4},
    "qwen3_5_text": {"num_hidden_layers": 4},
    "qwen3_next": {"num_hidden_layers": 4},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": 32},
    "reformer": {
        "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [8, 8], "attn_layers": ["local", "lsh"],
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8, "num_hidden_layers": 2, "attention_head_size": 8,
        "feed_forward_size": 48,
    },
    "roc_bert": {"pronunciation_vocab_size": 130, "shape_vocab_size": 130, "pronunciation_embed_dim": 8,
    "shape_embed_dim": 8},
    "opt": {"word_embed_proj_dim": 16},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zaya": {"num_experts_per_tok": 1},
}  # fmt: skip


def config(model_type: str, **settings: Any) -> Any:
    kind = transformers.CONFIG_MAPPING[model_type]
    default = kind()
    fields = {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})} - set(
        kind.attribute_map
    )
    small: dict[str, Any] = {}
    for value, names in SMALL.items():
        for name in set(names.split()) & fields:
            known = getattr(default, name, None)
            if (isinstance(known, int) and not isinstance(known, bool)) or name in (
                "num_key_value_heads",
                "head_dim",
            ):
                small[name] = value
    for name, value in {
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "sep_token_id": 2,
        "decoder_start_token_id": 1,
    }.items():
        known = getattr(default, name, None)
        if isinstance(known, list) or (isinstance(known, int) and known >= VOCABULARY):
            small[name] = value
    if "layer_types" in fields:
        small["layer_types"] = None
    return kind(**small | NEEDED.get(model_type, {}) | settings)


def tokenizer(folder: Path) -> None:
    """A word for every id, `<s>` in front and `</s>` behind."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = {
        "pad_token": "<pad>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    words = [*special.values(), *(f"w{index}" for index in range(len(special), VOCABULARY))]
    made = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.add_special_tokens(list(special.values()))
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    made.save(str(folder / "tokenizer.json"))
    special |= {"tokenizer_class": "PreTrainedTokenizerFast", "cls_token": "<s>", "sep_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(special))


def model(folder: Path, kind: Kind, model_type: str, name: str = "", **settings: Any) -> Any:
    """transformers' class, its weights drawn and saved in `folder`."""
    labels = {"num_labels": 3} if kind in ("classify", "token_classify") else {}
    known = name or TABLES[kind][model_type]
    name = known if isinstance(known, str) else known[0]
    torch.manual_seed(0)
    settings_of_class = config(model_type, **labels, **settings)
    _check_small(getattr(transformers, name), settings_of_class)
    built = getattr(transformers, name)(settings_of_class).float().eval()
    with torch.no_grad():
        for parameter in built.parameters():
            # What the padding token stands for is not zero either, so that what it adds anywhere is seen.
            parameter.mul_(1.0 if parameter.dim() == 1 else 2.0).add_(torch.randn(parameter.shape) * 0.05)
    built.config.architectures = [name]
    folder.mkdir(parents=True, exist_ok=True)
    built.save_pretrained(folder)
    tokenizer(folder)
    return built


def _check_small(kind: Any, settings: Any) -> None:
    """Raises ValueError for a class that its settings did not make small, before its gigabytes are drawn."""
    try:
        with torch.device("meta"):
            parameters = sum(parameter.numel() for parameter in kind(copy.deepcopy(settings)).parameters())
    except (RuntimeError, NotImplementedError):  # a class that reads its own tensors while it is built
        return
    if parameters > MOST_PARAMETERS:
        raise ValueError(f"{kind.__name__}: {parameters} parameters are not small")


def worst_difference(folder: Path, kind: Kind, built: Any) -> float:
    """Exports `folder` and runs it under ONNX Runtime: padded batches, one token, the longest. Each row
    is compared with a fresh copy of `built` on that text alone, as a share of the largest value. Raises
    what the export raises."""
    read = checkpoint.read(folder, recipe=None)
    if kind == "splade":
        read = dataclasses.replace(read, kind="splade")
    plan = planning.plan(read)
    tracing.onnx_from_module(tracing.module(read, plan), plan, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    output, rng, worst = plan.heads[TASKS[kind]].output, np.random.default_rng(0), 0.0
    for lengths in ((1,), (6, 6, 6), (9, 3, 17, 5), (min(plan.text.max_tokens, 150), 4)):
        shape = (len(lengths), max(lengths))
        mask = (np.arange(shape[1]) < np.array(lengths)[:, None]).astype(np.int64)
        ids = np.where(mask == 1, rng.integers(9, 100, shape), plan.text.pad_id)
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        arrays = {name: feed[name] for name in plan.inputs} | no_prefix(session)
        found = np.asarray(session.run([output], arrays)[0])
        for row, length in enumerate(lengths):
            expected = answer(built, kind, torch.from_numpy(ids[row : row + 1, :length]))
            ours = found[row] if kind in ("classify", "splade") else found[row, :length]
            assert ours.shape == expected.shape, f"{ours.shape}, expected {expected.shape}"
            assert np.isfinite(expected).all()
            worst = max(worst, float(np.abs(ours - expected).max() / max(1.0, np.abs(expected).max())))
    return worst


def answer(built: Any, kind: Kind, ids: torch.Tensor) -> np.ndarray:
    """What transformers computes for one text: a fresh copy, because some modules change
    with what they have seen."""
    fresh = copy.deepcopy(built)
    with torch.inference_mode():
        found = fresh(input_ids=ids, attention_mask=torch.ones_like(ids))
    if kind == "hidden":
        return found.last_hidden_state[0].numpy()
    logits = found.logits[0]
    return (torch.log1p(torch.relu(logits)).amax(0) if kind == "splade" else logits).numpy()

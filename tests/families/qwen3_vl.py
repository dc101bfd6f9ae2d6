"""Tiny checkpoints of the families on Qwen3-VL, each in the layout of its published repository."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.checkpoints import _json, randomise

from .decoder_tokens import qwen_bpe

MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
MAX_TOKENS = 2048
TEXT: dict[str, Any] = {
    "attention_bias": False, "attention_dropout": 0.0, "dtype": "float32", "head_dim": 32,
    "hidden_act": "silu", "hidden_size": 64, "initializer_range": 0.02, "intermediate_size": 96,
    "max_position_embeddings": MAX_TOKENS,
    "model_type": "qwen3_vl_text", "num_attention_heads": 4, "num_hidden_layers": 4, "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6, "use_cache": True,
}  # fmt: skip
# 16 frequencies, of which height and width take every third: 1, 4, ... below 15, 2, 5, ... below 15.
ROTARY: dict[str, Any] = {"mrope_interleaved": True, "mrope_section": [6, 5, 5], "rope_type": "default"}
VISION: dict[str, Any] = {
    "deepstack_visual_indexes": [0, 1, 2], "depth": 4, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 64,
    "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 80, "num_heads": 2,
    "num_position_embeddings": 25, "out_hidden_size": 64, "patch_size": 16, "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}  # fmt: skip
PICTURES: dict[str, Any] = {
    "size": {"longest_edge": 1310720, "shortest_edge": 4096}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip
VIDEOS: dict[str, Any] = {
    **PICTURES, "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "video_processor_type": "Qwen3VLVideoProcessor",
}  # fmt: skip
del VIDEOS["image_processor_type"]
CHAT = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- if part.type == 'image' or 'image' in part -%}"
    "{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'video' or 'video' in part -%}"
    "{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif 'text' in part -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""Qwen3-VL's template, as far as it concerns a conversation without tools."""


PAIRS = (
    "<|im_start|>system\nAnswer yes or no.<|im_end|>\n<|im_start|>user\n<Instruct>: Find an answer."
    "{%- for role, mark in [('query', '<Query>:'), ('document', '\n<Document>:')] -%}"
    "{{- mark -}}"
    "{%- for message in messages if message.role == role -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'text' -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endfor -%}"
    "{%- endfor -%}"
    "{{- '<|im_end|>\n' -}}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
"""A reranker's template, which loops over the parts of a query and a document."""


def qwen3_vl(
    folder: Path,
    *,
    name: str = "Qwen3VLForConditionalGeneration",
    model_type: str = "qwen3_vl",
    rename: Callable[[str], str | None] = lambda name: name,
    head: Mapping[str, tuple[int, ...]] | None = None,
    seed: int = 0,
    tied: bool = True,
    modern: bool = False,
    dtype: str = "float32",
    shard: str = "1GB",
    text: Mapping[str, Any] | None = None,
    vision: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A checkpoint of 2B's form.

    Args:
        rename: name in Qwen3VLForConditionalGeneration -> name in the file; None: the tensor is left out.
        head: names and shapes of tensors that transformers' class lacks.
        tied: whether the output matrix is the token table.
        modern: config.json as transformers 5 writes it, else as 4.57 did.
        text, vision: settings of the towers.
        config: further keys of config.json.
    """
    import torch
    from huggingface_hub import save_torch_state_dict
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    folder.mkdir(parents=True, exist_ok=True)
    count = qwen_bpe(folder, ends=False, max_tokens=MAX_TOKENS, added=MARKS)
    start, end, image, video = range(count - 4, count)
    pad = count - 10  # the end of a text is the first of Qwen's own special tokens
    # Published vocabularies are longer than the tokenizer's.
    inner = {**TEXT, "vocab_size": count + 3, "bos_token_id": pad, "eos_token_id": pad + 2, **(text or {})}
    spelled = (
        {"rope_parameters": {**ROTARY, "rope_theta": 5000000}}
        if modern
        else {"rope_scaling": ROTARY, "rope_theta": 5000000, "tie_word_embeddings": tied}
    )
    settings = {
        "architectures": [name], "image_token_id": image, "model_type": model_type,
        "text_config": {**inner, **spelled},
        "tie_word_embeddings": tied, "video_token_id": video,
        "vision_config": {
            **VISION, "model_type": "qwen3_vl_vision" if modern else "qwen3_vl", **(vision or {})
        },
        "vision_end_token_id": end, "vision_start_token_id": start, **config,
    }  # fmt: skip
    _json(folder / "config.json", settings)
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig.from_dict({**json.loads(json.dumps(settings)), "model_type": "qwen3_vl"})
    )
    randomise(model, seed)
    state = {new: value for old, value in model.state_dict().items() if (new := rename(old)) is not None}
    if tied:
        state = {key: value for key, value in state.items() if not key.endswith("lm_head.weight")}
    generator = torch.Generator().manual_seed(seed + 1)
    for key, shape in (head or {}).items():
        state[key] = torch.randn(shape, generator=generator) * (0.2 if len(shape) > 1 else 0.1)
    kind = getattr(torch, dtype)
    save_torch_state_dict(
        {key: value.to(kind).contiguous().clone() for key, value in state.items()},
        folder,
        max_shard_size=shard,
    )
    _json(folder / "preprocessor_config.json", PICTURES)
    _json(folder / "video_preprocessor_config.json", VIDEOS)
    (folder / "chat_template.jinja").write_text(CHAT, encoding="utf-8")
    return folder


def without(prefix: str) -> Callable[[str], str | None]:
    """Takes `prefix` off, and leaves the output matrix out."""
    return lambda name: None if name.startswith("lm_head") else name.removeprefix(prefix)


def behind(prefix: str) -> Callable[[str], str | None]:
    """Puts `prefix` in front."""
    return lambda name: prefix + name


def qwen3_vl_embedding(folder: Path, *, sentence: bool = False, **more: Any) -> Path:
    """Qwen/Qwen3-VL-Embedding-2B: its output matrix is the token table. `sentence`: with files of Sentence
    Transformers, which send everything through the chat template."""
    qwen3_vl(folder, **more)
    if sentence:
        modules = {
            "": "base.modules.transformer.Transformer",
            "1_Pooling": "sentence_transformer.modules.pooling.Pooling",
            "2_Normalize": "base.modules.normalize.Normalize",
        }
        settings = {
            "model_type": "SentenceTransformer", "similarity_fn_name": "cosine",
            "prompts": {"query": "Retrieve images.", "document": ""},
        }  # fmt: skip
        _sentence_files(folder, modules, settings, task="feature-extraction", output="last_hidden_state")
        pooling = {"embedding_dimension": 64, "pooling_mode": "lasttoken", "include_prompt": True}
        _json(folder / "1_Pooling/config.json", pooling)
        _json(folder / "2_Normalize/config.json", {"module_input_name": "sentence_embedding"})
    return folder


def qwen3_vl_sentence(folder: Path) -> Path:
    """The same with files of Sentence Transformers."""
    return qwen3_vl_embedding(folder, sentence=True)


RERANKER: dict[str, Any] = {
    "architectures": ["Qwen3VLForSequenceClassification"], "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}  # fmt: skip
"""vLLM's overrides for one."""


def qwen3_vl_reranker(
    folder: Path, *, sentence: bool = False, path: str = "1_LogitScore", **more: Any
) -> Path:
    """Qwen/Qwen3-VL-Reranker-2B: the same config.json, and `sentence`: Sentence Transformers' cross-encoder,
    whose LogitScore module tells that it answers yes or no. `path`: its folder as modules.json has it."""
    qwen3_vl(folder, **{"seed": 2, **more})
    if sentence:
        from tokenizers import Tokenizer

        known = Tokenizer.from_file(str(folder / "tokenizer.json"))
        _json(folder / "1_LogitScore/config.json", {
            "true_token_id": known.token_to_id("yes"), "false_token_id": known.token_to_id("no"),
            "module_input_name": "causal_logits",
        })  # fmt: skip
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates/reranker.jinja").write_text(PAIRS, encoding="utf-8")
        modules = {
            "": "base.modules.transformer.Transformer", path: "cross_encoder.modules.logit_score.LogitScore"
        }  # fmt: skip
        settings = {
            "model_type": "CrossEncoder", "prompts": {},
            "activation_fn": "torch.nn.modules.activation.Sigmoid",
        }  # fmt: skip
        _sentence_files(folder, modules, settings, task="any-to-any", output="logits", template="reranker")
    return folder


def _sentence_files(
    folder: Path,
    modules: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    task: str,
    output: str,
    template: str | None = None,
) -> None:
    """Sentence Transformers' files of version 6. `modules`: folder -> class; `template`: the name of another
    chat template."""
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.{kind}"}
        for index, (path, kind) in enumerate(modules.items())
    ]
    _json(folder / "modules.json", entries)
    parts = {"method": "forward", "method_output_name": output}
    chat = {"add_generation_prompt": True} | ({} if template is None else {"chat_template": template})
    _json(folder / "sentence_bert_config.json", {
        "transformer_task": task,
        "module_output_name": "causal_logits" if output == "logits" else "token_embeddings",
        "modality_config": {
            "text": parts, "image": parts, "video": parts, "message": {**parts, "format": "structured"}
        },
        "processing_kwargs": {"chat_template": chat},
    })  # fmt: skip
    versions = {"sentence_transformers": "6.2.0", "transformers": "5.24.0", "pytorch": "2.13.0"}
    stored = {"__version__": versions, "default_prompt_name": None, **settings}
    _json(folder / "config_sentence_transformers.json", stored)


def colqwen3(folder: Path, *, dims: int = 40, legacy: bool = False, bias: bool = True, **more: Any) -> Path:
    """TomoroAI/tomoro-colqwen3-embed-4b; `legacy`: names of its first revision."""
    named = "custom_text_proj" if legacy else "embedding_proj_layer"
    head: dict[str, tuple[int, ...]] = {f"{named}.weight": (dims, 64)}
    if bias:
        head[f"{named}.bias"] = (dims,)
    return qwen3_vl(folder, **{
        "name": "ColQwen3", "model_type": "colqwen3", "seed": 5, "head": head, "embed_dim": dims,
        "padding_side": "left",
        "rename": without("model.") if legacy else behind("vlm."),
        "auto_map": {"AutoModel": "modeling_colqwen3.ColQwen3"},
    } | more)  # fmt: skip


def ops_colqwen3(folder: Path, *, dims: int = 64, outer: str = "", bias: bool = True, **more: Any) -> Path:
    """OpenSearch-AI/Ops-Colqwen3-4B: no prefix, no output matrix, float16; `dims` of the 64 values count.
    `outer`: in front of all names, as in its drafts."""
    head: dict[str, tuple[int, ...]] = {f"{outer}custom_text_proj.weight": (64, 64)}
    if bias:
        head[f"{outer}custom_text_proj.bias"] = (64,)
    return qwen3_vl(folder, **{
        "name": "OpsColQwen3Model", "model_type": "ops_colqwen3", "seed": 6, "head": head, "dims": dims,
        "dtype": "float16", "mask_non_image_embeddings": False,
        "rename": lambda name: None if name.startswith("lm_head") else outer + name.removeprefix("model."),
        "auto_map": {"AutoModel": "modeling_ops_colqwen3.OpsColQwen3Model"},
    } | more)  # fmt: skip


def nemotron_colembed(folder: Path, *, videos: bool = False, **more: Any) -> Path:
    """nvidia/nemotron-colembed-vl-4b-v2: attention both ways; the last norm is stored and not applied.
    `videos`: with the settings of videos, which vLLM asks for."""
    qwen3_vl(folder, **{
        "name": "Qwen3VLNemotronEmbedModel", "model_type": "qwen3_vl_nemotron_embed", "seed": 7,
        "pooling": "colbert",
        "auto_map": {"AutoModel": "modeling_qwen3_vl_nemotron_embed.Qwen3VLNemotronEmbedModel"},
    } | more)  # fmt: skip
    _json(folder / "processor_config.json", {
        "processor_class": "Qwen3VLNemotronEmbedProcessor", "q_max_length": 512, "p_max_length": 4096,
        "query_prefix": "query:", "passage_prefix": "passage:", "reserve_tokens_for_images": 100,
    })  # fmt: skip
    if not videos:
        (folder / "video_preprocessor_config.json").unlink()
    return folder


ALL: dict[str, Callable[[Path], Path]] = {
    "qwen3_vl_embedding": qwen3_vl_embedding,
    "qwen3_vl_reranker": qwen3_vl_reranker,
    "colqwen3": colqwen3,
    "ops_colqwen3": ops_colqwen3,
    "nemotron_colembed": nemotron_colembed,
}

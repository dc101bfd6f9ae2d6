"""jina-embeddings-v5-text (https://arxiv.org/abs/2602.15547): small is Qwen3, nano is EuroBERT, a Llama with
attention both ways.

Four adapters are stored beside the weights. The export adds the one that `jina_task` of config.json names
(vLLM's key), which an override may set. These facts are from vLLM 0.32's jina.py; no repository was opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ._decoders import family
from ._transformers import backbone
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

NAME = "JinaEmbeddingsV5Model"
DEFAULT_TASK = "retrieval"


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    return NAME in (config.get("architectures") or ())


def load(files: Files) -> nn.Module:
    from .modules.adapters import added

    config = {**files.config, "use_cache": False}
    # Only this key distinguishes the two (vLLM).
    encoder = not files.config.get("is_decoder", True)
    config |= {"model_type": "llama", "is_causal": False} if encoder else {"model_type": "qwen3"}
    task = str(files.config.get("jina_task") or DEFAULT_TASK)
    return backbone(
        files,
        "LlamaModel" if encoder else "Qwen3Model",
        config=config,
        rename=lambda state: added(files, state, task),
    )


ARCHITECTURE = family(
    model_types=("jina_embeddings_v5",), stem="JinaEmbeddingsV5", names=(NAME,), load=load, matches=matches
)

"""Runs pooling models from artifacts: `load(path)` opens one, whose `embed`, `score`, `rerank`, `classify`
and `encode` take text and return numpy arrays."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .answers.lora_request import LoRARequest
    from .answers.params import PoolingParams
    from .artifact.manifest import Manifest
    from .errors import (
        ArtifactError,
        DeadlineExceeded,
        EngineError,
        InputError,
        Overload,
        PoolrtError,
        UnsupportedTask,
    )
    from .loader import load
    from .model import Model
    from .outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        Outputs,
        PoolingOutput,
        PoolingRequestOutput,
        Ranked,
        Ranking,
        RequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from .vllm.llm import LLM
    from .vllm.pooler_config import PoolerConfig

# Imported on first use: `poolrt --help` needs neither numpy nor tokenizers.
_HOME = {
    "load": "loader",
    "Model": "model",
    "LLM": "vllm.llm",
    "LoRARequest": "answers.lora_request",
    "PoolingParams": "answers.params",
    "Manifest": "artifact.manifest",
    "ArtifactError": "errors",
    "DeadlineExceeded": "errors",
    "EngineError": "errors",
    "InputError": "errors",
    "Overload": "errors",
    "PoolrtError": "errors",
    "UnsupportedTask": "errors",
    "ClassificationOutput": "outputs",
    "EmbeddingOutput": "outputs",
    "Outputs": "outputs",
    "PoolingOutput": "outputs",
    "Ranked": "outputs",
    "Ranking": "outputs",
    "RequestOutput": "outputs",
    "ScoringOutput": "outputs",
    "PoolingRequestOutput": "outputs",
    "EmbeddingRequestOutput": "outputs",
    "ClassificationRequestOutput": "outputs",
    "ScoringRequestOutput": "outputs",
    "PoolerConfig": "vllm.pooler_config",
}
"""Public name -> the module that defines it."""

__all__ = [
    "LLM",
    "ArtifactError",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "DeadlineExceeded",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "EngineError",
    "InputError",
    "LoRARequest",
    "Manifest",
    "Model",
    "Outputs",
    "Overload",
    "PoolerConfig",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "PoolrtError",
    "Ranked",
    "Ranking",
    "RequestOutput",
    "ScoringOutput",
    "ScoringRequestOutput",
    "UnsupportedTask",
    "load",
]


if not TYPE_CHECKING:  # a type checker that sees it accepts any name

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

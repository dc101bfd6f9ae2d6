"""What an IO processor is told about its model: the parts of vLLM's configuration and
renderer that processors read."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from ..artifact.manifest import Manifest
from ..inputs.library_tokenizer import Tokenizer
from ..inputs.preparation import Preparation


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    model: str
    served_model_name: str
    max_model_len: int
    supported_tasks: tuple[str, ...]
    embedding_size: int
    """Width of an embedding when a request names no other."""
    is_matryoshka: bool
    matryoshka_dimensions: list[int] | None
    io_processor_plugin: str | None
    hf_config: SimpleNamespace
    """The few keys of config.json that an artifact keeps."""
    pooler_config: None = None
    """What it would say was decided at export; None of a processor's own parameters are needed for it."""


@dataclass(frozen=True, slots=True)
class Config:
    """Stands for vLLM's VllmConfig."""

    model_config: ModelConfig

    @classmethod
    def of(cls, manifest: Manifest, plugin: str | None) -> Config:
        embed = manifest.heads.get("embed") or next(iter(manifest.heads.values()))
        made = ModelConfig(
            model=manifest.source.checkpoint,
            served_model_name=manifest.name,
            max_model_len=manifest.text.max_tokens,
            supported_tasks=manifest.tasks,
            embedding_size=embed.dimensions or embed.dim,
            is_matryoshka=bool(embed.matryoshka or embed.any_dimension),
            matryoshka_dimensions=list(embed.matryoshka) or None,
            io_processor_plugin=plugin,
            hf_config=SimpleNamespace(**manifest.config),
        )
        return cls(made)


class Renderer:
    """Stands for vLLM's renderer."""

    def __init__(self, preparation: Preparation) -> None:
        self.tokenizer = Tokenizer(preparation)

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

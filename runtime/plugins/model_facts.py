"""What an IO processor knows about its model: the parts of vLLM's configuration and renderer that processors
read."""

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
    """Width of an embedding where a request names none."""
    is_matryoshka: bool
    matryoshka_dimensions: list[int] | None
    io_processor_plugin: str | None
    hf_config: SimpleNamespace
    """The few keys of config.json that an artifact keeps."""
    pooler_config: None = None
    """Always None: what vLLM's says was decided at export."""


@dataclass(frozen=True, slots=True)
class Config:
    """The part of vLLM's VllmConfig that processors read."""

    model_config: ModelConfig

    @classmethod
    def of(cls, manifest: Manifest, plugin: str | None) -> Config:
        """Describes a manifest whose processor is `plugin`, None where it has none."""
        head = manifest.heads.get("embed") or next(iter(manifest.heads.values()))
        model_config = ModelConfig(
            model=manifest.source.checkpoint,
            served_model_name=manifest.name,
            max_model_len=manifest.text.max_tokens,
            supported_tasks=manifest.tasks,
            embedding_size=head.dimensions or head.dim,
            is_matryoshka=bool(head.matryoshka or head.any_dimension),
            matryoshka_dimensions=list(head.matryoshka) or None,
            io_processor_plugin=plugin,
            hf_config=SimpleNamespace(**manifest.config),
        )
        return cls(model_config)


class Renderer:
    """The part of vLLM's renderer that processors read."""

    def __init__(self, preparation: Preparation) -> None:
        self.tokenizer = Tokenizer(preparation)

    def get_tokenizer(self) -> Tokenizer:
        return self.tokenizer

"""EmbeddingGemma 2's text tower (google/embeddinggemma-2): Gemma 4's layers with attention both ways, a
window around each token, mean pooling.

The checkpoint's towers for images and sounds are left out. A linear layer without bias follows on every
token, so it may as well follow the mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._decoders import family
from ._transformers import backbone
from .registry import Config, Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIX = "language_model."
MAX_TOKENS = 8192  # vLLM's limit; config.json's number is for generation


def translate(config: Config) -> Config:
    """The text model's settings, which the whole model's config.json nests in `text_config`."""
    inner = config.get("text_config")
    text = dict(inner) if isinstance(inner, dict) else dict(config)
    return {**text, "model_type": "embedding_gemma2_text", "architectures": ["EmbeddingGemma2Model"]}


def load(files: Files) -> nn.Module:
    from torch import nn

    def text(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inside = {
            name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)
        }
        return inside or state

    model = backbone(files, "EmbeddingGemma2TextModel", rename=text)
    model.embedding_projection = nn.Identity()  # belongs to the head, which applies it to the pooled vector
    return model


ARCHITECTURE = family(
    model_types=("embedding_gemma2", "embedding_gemma2_text"),
    stem="EmbeddingGemma2",
    names=("EmbeddingGemma2TextModel",),
    load=load,
    translate=translate,
    prefixes=(PREFIX,),
    pool="mean",
    positions=lambda config: min(int(config["max_position_embeddings"]), MAX_TOKENS),
    projection=(Layer(name="embedding_projection", bias=False),),
)

"""EmbeddingGemma 2's text tower (google/embeddinggemma-2): Gemma 4's layers attending both ways, a window
around each token, mean.

The checkpoint reads images and sounds as well; their towers are left out here. A linear layer without bias
follows every token; the mean may come first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._decoders import SIZES, family
from ._transformers import backbone
from .registry import Config, Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIX = "language_model."
MAX_TOKENS = 8192  # vLLM's limit; the config's places are for generation


def translate(config: Config) -> Config:
    """The text model's settings, which the whole model's config holds inside."""
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
    model.embedding_projection = nn.Identity()  # the head's: a smaller product on what is pooled
    return model


TINY: dict[str, Any] = SIZES | {
    "global_head_dim": 32, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 16,
    "embedding_dim": 24, "sliding_window": 4,
}  # fmt: skip

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
    tiny=TINY,
)

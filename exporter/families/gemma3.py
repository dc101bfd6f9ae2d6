"""Gemma 3's text model (https://arxiv.org/abs/2503.19786) and EmbeddingGemma, which attends both ways.

transformers halves the stored window of a bidirectional model when it builds the config, so the stored number
is passed on unchanged.
"""

from ._decoders import family

ARCHITECTURE = family(
    model_types=("gemma3_text",),
    stem="Gemma3",
    name="Gemma3TextModel",
    names=("Gemma3TextModel",),
    # Embedding models pool the mean unless their files say otherwise (vLLM).
    pool="mean",
    positions=lambda config: config["max_position_embeddings"],
)

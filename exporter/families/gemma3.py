"""Gemma 3's text model (https://arxiv.org/abs/2503.19786) and EmbeddingGemma, which attends both ways.

transformers halves the stored window of a bidirectional model when it builds the config: the stored
number is handed on as it is.
"""

from ._decoders import SIZES, family

ARCHITECTURE = family(
    model_types=("gemma3_text",),
    stem="Gemma3",
    name="Gemma3TextModel",
    names=("Gemma3TextModel",),
    # An embedding model is a mean unless its files say otherwise (vLLM); its Dense modules
    # come from those files.
    pool="mean",
    positions=lambda config: config["max_position_embeddings"],
    tiny=SIZES | {"sliding_window": 8, "use_bidirectional_attention": True},
)

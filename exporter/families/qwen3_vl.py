"""Qwen3-VL (https://arxiv.org/abs/2511.21631): Qwen3-VL-Embedding, whose last token is the embedding, and
Qwen3-VL-Reranker, which answers yes or no (https://arxiv.org/abs/2601.04720).

Both have the same config.json. modules.json, a recipe or vLLM's overrides make a reranker of it.
"""

from ._decoders import SCORE, SEQUENCE
from ._qwen3_vl import family

ARCHITECTURE = family(
    model_types=("qwen3_vl",),
    names=("Qwen3VLModel", "Qwen3VLForConditionalGeneration", "Qwen3VLForSequenceClassification"),
    sequence=SEQUENCE,
    tokens=SCORE,
)

"""Qwen3 (https://arxiv.org/abs/2505.09388): norms on each head's queries and keys, heads wider than
hidden / heads.

Qwen3-Embedding is stored without the `model.` prefix, rerankers with it. Both are read.
"""

from ._decoders import family, past

ARCHITECTURE = family(model_types=("qwen3",), stem="Qwen3", past=past)

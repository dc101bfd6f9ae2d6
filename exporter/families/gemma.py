"""Gemma (https://arxiv.org/abs/2403.08295): norms multiply by 1 + weight, embeddings by the root of the
width.

Residuals exceed float16's range, so lowered precisions are bfloat16.
"""

from ._decoders import family, past

ARCHITECTURE = family(model_types=("gemma",), stem="Gemma", past=past)

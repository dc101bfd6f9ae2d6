"""Qwen2.5-VL (https://arxiv.org/abs/2502.13923) as vLLM converts it: --convert embed, whose last token is the
embedding, and --convert classify.
"""

from ._decoders import SCORE, SEQUENCE
from ._qwen2_vl import family

ARCHITECTURE = family(
    body="qwen2_5_vl",
    names=("Qwen2_5_VLModel", "Qwen2_5_VLForConditionalGeneration", "Qwen2_5_VLForSequenceClassification"),
    sequence=SEQUENCE,
    tokens=SCORE,
)

"""Qwen2-VL (https://arxiv.org/abs/2409.12191) as vLLM converts it: --convert embed, whose last token is the
embedding (GME, DSE, VLM2Vec), and --convert classify.
"""

from ._decoders import SCORE, SEQUENCE
from ._qwen2_vl import family

ARCHITECTURE = family(
    body="qwen2_vl",
    names=("Qwen2VLModel", "Qwen2VLForConditionalGeneration", "Qwen2VLForSequenceClassification"),
    sequence=SEQUENCE,
    tokens=SCORE,
)

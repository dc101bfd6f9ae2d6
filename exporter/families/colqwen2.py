"""ColQwen2 (https://arxiv.org/abs/2407.01449): Qwen2-VL with one vector of each token, in transformers'
layout (vidore/colqwen2-v1.0-hf) and in colpali-engine's.

Tokens of a page have Qwen2-VL's positions, with which the models were trained. The class of transformers 5.24
leaves them out, and gives such tokens those of a text.
"""

from ._colqwen2 import family

ARCHITECTURE = family(body="qwen2_vl", names=("ColQwen2ForRetrieval", "ColQwen2"))

"""ColQwen2.5 (vidore/colqwen2.5-v0.2, merged): Qwen2.5-VL with one vector of each token."""

from ._colqwen2 import family

ARCHITECTURE = family(body="qwen2_5_vl", names=("ColQwen2_5",))

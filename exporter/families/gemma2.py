"""Gemma 2 (https://arxiv.org/abs/2408.00118): a window on every second layer, attention scores
capped by 50·tanh(x / 50).

Only the eager attention of transformers caps them; sdpa silently leaves the cap out.
"""

from ._decoders import family, load

ARCHITECTURE = family(
    model_types=("gemma2",),
    stem="Gemma2",
    load=lambda files: load(files, "Gemma2Model", attention="eager"),
)

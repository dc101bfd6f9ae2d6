"""Llama (https://arxiv.org/abs/2307.09288) and what shares its tensors; Llama 3's
stretched rotary angles included."""

from ._decoders import family

ARCHITECTURE = family(model_types=("llama",), stem="Llama")

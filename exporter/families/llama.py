"""Llama (https://arxiv.org/abs/2307.09288) and models with its tensors, Llama 3's rotary scaling included."""

from ._decoders import family, past

ARCHITECTURE = family(model_types=("llama",), stem="Llama", past=past)

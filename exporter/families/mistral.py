"""Mistral (https://arxiv.org/abs/2310.06825): Llama with a sliding window (4096 tokens in e5-mistral)."""

from ._decoders import family, past

ARCHITECTURE = family(model_types=("mistral",), stem="Mistral", past=past)

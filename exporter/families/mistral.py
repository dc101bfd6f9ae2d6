"""Mistral (https://arxiv.org/abs/2310.06825): Llama with a sliding window, which the graph
computes (e5-mistral: 4096)."""

from ._decoders import family

ARCHITECTURE = family(model_types=("mistral",), stem="Mistral")

"""The bench's half for a machine with an NVIDIA GPU: what `make gpu` runs."""

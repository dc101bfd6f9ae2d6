"""The pictures that an artifact is proved on: drawn by arithmetic, and what PyTorch computes of them.

Comparing and judging do not belong here.
It may import base, graph and poolrt.runtime.
"""

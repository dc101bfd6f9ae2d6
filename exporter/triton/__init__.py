"""A model repository of Triton Inference Server, written from an artifact: its graph or plan, configurations,
and how texts become token ids.

What Triton's Python backend runs belongs to runtime/integrations/triton.py, and no number is computed here.
It may import base, graph and poolrt.runtime.
"""

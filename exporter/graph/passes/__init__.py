"""Rewrites of an ONNX graph, one pass a file; order.py says which run, in which order, for which engine.

A pass is a module with `run(model, options)` (signature.py). `surgery` is what passes share.
Nothing here knows torch, a checkpoint, a head or a file.
It may import base, attention and itself.
"""

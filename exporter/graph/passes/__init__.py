"""Rewrites of an ONNX graph, one pass a file; the pages below say which run, in which
order, for which engine.

Nothing here knows torch, a checkpoint or a head.
It may import base, `..onnx_files` and its own `surgery`.
"""

"""From a plan to an ONNX file: builds the torch module, traces it, rewrites the graph and writes it.

Engines, precision by measurement and proof do not belong here.
It may import base, files, families, checkpoint, heads and poolrt.runtime.
"""

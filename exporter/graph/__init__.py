"""From a plan to an ONNX file: the torch module is built, traced, rewritten by passes/ and written.

Engines, precision by measurement and proof do not belong here.
It may import base, files, families, checkpoint, heads and poolrt.runtime.
"""

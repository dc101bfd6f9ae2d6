"""From a checkpoint to a plan: which tasks it serves, the layers behind its backbone, how texts are prepared.

Tracing and rewriting of ONNX graphs do not belong here.
It may import base, files, families, checkpoint, detection and poolrt.runtime.
"""

"""From a checkpoint to a plan: which tasks it serves, the layers behind its backbone, and
how its texts are prepared.

Tracing, and whatever is done to an ONNX graph, does not belong here.
It may import base, files, families, checkpoint, detection and poolrt.runtime.
"""

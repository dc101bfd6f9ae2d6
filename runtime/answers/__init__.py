"""From the rows of a graph to what a task returns: parameters of a request, postprocessing, scores.

Queues and engine libraries do not belong here.
It may import errors, outputs, artifact, inputs, inputs.multimodal, inputs.media, engines and batching.
"""

"""Integer forms of an fp32 graph, one kind of quantisation a file, for engines that compute on processors.

What is quantised and what it did is a record (quantised.py). Which products may be quantised is measured
elsewhere (exporter/precision): nothing here runs a graph, or knows torch, a checkpoint, a head or a file.
It may import base, graph.passes and itself.
"""

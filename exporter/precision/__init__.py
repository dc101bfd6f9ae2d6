"""Which numbers the graph computes in, decided by what was measured on the exporting machine.

One module a kind of precision; choice.py says which of them runs, trials.py measures for all of them.
How a graph is rewritten (exporter/graph) and what its answers are compared with (exporter/proof) do not
belong here.
It may import every room of the exporter that stands before pipeline, and poolrt.runtime.
"""

"""Whether an artifact is right: PyTorch and the checkpoint's own library against the runtime that
will serve it, text by text.

Nothing here changes a graph or decides a precision.
It may import every room above it: base, files, families, checkpoint, heads, graph, engine and poolrt.runtime.
"""

"""The pictures that an artifact is proved on, and what PyTorch and transformers' own classes compute of them.

Engines are not compared here, and texts alone belong to the room above.
It may import base, files, families, checkpoint, graph and poolrt.runtime.
"""

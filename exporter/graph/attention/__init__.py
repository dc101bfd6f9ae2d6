"""What a graph's attention is made of: its products, what is added to the scores, which keys a query reaches,
and the nodes that compute one block of it.

Nothing here changes a graph; passes/blocks.py does, with what it reads here.
It may import poolrt.runtime and itself.
"""

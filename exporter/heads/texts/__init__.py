"""How a library's own files say that texts are prepared: ColBERT's two sides, settings of Sentence
Transformers.

The manifest's record of the text preparation does not belong here, nor any layer behind the backbone.
It may import base, files, checkpoint and poolrt.runtime.
"""

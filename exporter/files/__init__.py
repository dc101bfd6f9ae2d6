"""What lies on disk: where a checkpoint is, its weights, its tokenizer, adapters, recipes and
Sentence Transformers' files.

What a file means for one family of models does not belong here, nor anything that builds a torch module.
It may import base and poolrt.runtime.
"""

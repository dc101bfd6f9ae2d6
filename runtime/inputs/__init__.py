"""From what a caller gives to items of token ids: prompts, roles, pairs, templates, truncation, chunks.

Running a model and shaping its answer do not belong here.
It may import errors, machine, outputs, cancellation and artifact.
"""

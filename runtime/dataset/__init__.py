"""Bulk jobs: rows of Parquet, JSONL, CSV or Lance files, or a folder of pictures, become shards of Parquet,
and a job that was killed goes on where it stopped (docs/datasets.md).

How a text becomes a vector belongs to the model, and flags belong to commands.
pyarrow, filelock, lance and ray are imported inside functions.
It may import errors, extras, outputs, artifact, store, inputs, answers and loader.
"""

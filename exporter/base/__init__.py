"""What every other room of the exporter uses: the report, one-sentence errors, size limits, the writer of
artifact folders.

No knowledge of a checkpoint's layout, of a model family or of torch belongs here.
It may import poolrt.runtime only.
"""

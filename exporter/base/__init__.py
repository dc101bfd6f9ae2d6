"""What every other room of the exporter stands on: the report, sentences about failures, size limits, the
writer of artifact folders.

No knowledge of a checkpoint's layout, of a model family or of torch belongs here.
It may import poolrt.runtime only.
"""

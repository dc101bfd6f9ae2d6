"""The routes of batch files: uploading and fetching files, starting and following batches.

Storing and working off does not belong here (serve/batches), nor do the requests inside a batch.
It may import every room above it, not the other endpoints.
"""

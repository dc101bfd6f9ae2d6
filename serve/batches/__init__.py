"""Batch files: requests that a client uploads together and fetches the answers of later. The folder that
keeps them, and the task that works them off.

How requests over HTTP name files and batches does not belong here, nor does how a single request is answered.
It may import settings, headers, errors, metrics and http.
"""

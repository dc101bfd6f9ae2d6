"""Pictures and videos of requests: which parts of a body they are, and how their bytes are read from a data:
URL, a local file or another server. Decoding and resizing belong to poolrt.runtime, the shape of a body to
schema. It may import settings, headers, errors, tracing, http and poolrt.runtime.
"""

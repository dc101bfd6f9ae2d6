"""Request bodies: their fields, bounds and forms, how they are read from JSON, and the wording of refusals.

What is done with a request does not belong here.
It may import settings, headers, errors, flags and poolrt.runtime.
"""

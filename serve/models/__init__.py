"""The models that one process serves: found by name, opened, loaded and unloaded with their adapters.

Requests do not belong here.
It may import settings, errors, flags, logs, schema and poolrt.runtime.
"""

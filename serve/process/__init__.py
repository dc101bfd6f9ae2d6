"""The process around the application: models opened at start, the socket, certificates, signals and
draining, memory given back.

What happens to a request belongs to http and endpoints.
It may import every room above it, app included; only cli stands below.
"""

"""The process around the application: its flags, opening models at the start, the socket, certificates,
signals and draining, returning memory to the system.

What happens to a request belongs to http and endpoints.
It may import every room above it, app included; only cli stands below.
"""

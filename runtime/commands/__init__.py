"""The `poolrt` command and the subcommands that need an artifact and nothing else.

Exporting and serving have their commands in their own areas.
It may import every other room of the runtime.
"""

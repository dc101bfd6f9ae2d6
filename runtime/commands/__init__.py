"""The `poolrt` command, and the subcommands that need an artifact and nothing else.

The commands that export and serve belong to their own areas.
It may import every other room of the runtime.
"""

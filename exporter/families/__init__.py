"""Backbone families, one file each: `registry` finds them by scanning this folder.

Heads do not belong here: they are data in a family's record and code in exporter/heads.
It may import base, files, its own modules/ and poolrt.runtime.
"""

"""Backbone families, one file each, which `registry` finds by scanning this folder.

The code of heads does not belong here: a family states its heads as data, and exporter/heads runs them.
It may import base, files, files.pictures, its own modules/ and poolrt.runtime.
"""

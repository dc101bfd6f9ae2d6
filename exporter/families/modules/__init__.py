"""Torch code for backbones that transformers lacks, or has in a form that cannot be traced.

A family's record and the loading of weights do not belong here.
It may import base, files and poolrt.runtime.
"""

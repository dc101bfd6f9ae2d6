"""The artifacts of this user: stored under names, listed, brought from elsewhere, published, removed.

What an artifact's files mean, and how one is exported or opened, do not belong here.
It may import errors, version, extras, cache_folder and artifact.
"""

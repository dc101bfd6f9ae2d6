"""Which frames of a video are read, and what a prompt says of them: numbers and words.

Decoding, resizing and rows of the vision graph do not belong here. It may import errors and artifact.
"""

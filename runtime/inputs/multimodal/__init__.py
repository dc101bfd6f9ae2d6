"""Prompts that hold pictures and videos: the forms a caller may write, placeholders, templates of roles,
pairs, conversations, and items whose tokens stand for features.

Decoding and resizing (inputs.media) and running the vision graph (batching) do not belong here.
It may import errors, cancellation, artifact, inputs and inputs.media.
"""

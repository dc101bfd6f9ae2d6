"""From pictures and videos to rows of the vision graph and to the text that stands for them in a prompt:
decoding, resizing, normalising, cutting.

Fetching from URLs, prompts as a whole and running the graph do not belong here.
It may import errors, cancellation, artifact, inputs, inputs.tilings and inputs.videos. Pillow and PyAV are
imported inside functions only.
"""

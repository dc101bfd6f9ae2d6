"""How pictures are cut into tiles of one size: one file for each rule of `Tiling`, the pixel arithmetic of a
published processor, and what a caller may change about it.

Decoding, resizing itself and prompts do not belong here. A rule is handed what it needs (`Kit`) and returns a
`Cut`. It may import errors, artifact and inputs.
"""

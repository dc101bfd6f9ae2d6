"""The report of an export as a page of HTML: what the manifest says and what was measured, with plots.

Nothing is kept in an artifact, and no number is written that the manifest or a measurement does not hold.
It may import base, proof and poolrt.runtime.
"""

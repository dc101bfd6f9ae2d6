"""Engine libraries, one file each behind one protocol: `table` finds them, `feed` fills a graph's inputs.

Which items run together does not belong here; each library is imported in its own file only.
It may import cache_folder, errors, machine, artifact and inputs, of which media prepares golden pictures.
"""

"""An artifact folder, read: its manifest, the records it is made of, and the files that it vouches for.

Engines, texts and requests do not belong here.
It may import cache_folder, command_line, errors, extras and machine.
"""

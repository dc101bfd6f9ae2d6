"""How every command of poolrt is declared and read: flags, environment variables, `--config` files, help and
colours.

What a command does belongs to `commands`, or to the area that has it.
It may import errors, extras and json_objects; click and rich are imported by the commands alone.
"""

"""Mutation testing: one small fault at a time is planted in a copy of the sources, and the nearest tests
must fail (`make mutants`).

Not a test module; docs/decisions/mutants.md says why this is not mutmut or cosmic-ray.
"""

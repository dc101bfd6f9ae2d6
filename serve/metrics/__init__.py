"""Counters, histograms and the state of the running server, as Prometheus reads them.

When something is counted is decided by the rooms that do the work, not here.
It may import errors, models and poolrt.runtime.
"""

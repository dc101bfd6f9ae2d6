"""Counters, histograms and the state of the running server, as Prometheus reads them.

Deciding what is counted when belongs to the rooms that do the work.
It may import models.
"""

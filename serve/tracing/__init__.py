"""Traces of requests by OpenTelemetry, imported only where they are switched on.

Here belongs what a span says, and where spans are sent.
What a request's steps took is measured elsewhere and does not belong here.
It may import settings, headers, errors, metrics and poolrt.runtime.
"""

"""The wire below the application: sockets, connections, the protocol, limits, the outermost layers,
and bodies read from them.

Models and what a route does do not belong here.
It may import settings, headers, errors, schema, models and metrics.
"""

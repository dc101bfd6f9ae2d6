"""HTTP below the application: connections, the protocol, limits, the outermost layers, request bodies.

Models and what a route does do not belong here.
It may import settings, headers, errors, logs, schema, models, metrics and tracing.
"""

"""Ray Serve: replicas that are our own application, a front that finds the model of a request and asks
another replica when one dies, and the route of requests that begin alike (docs/ray.md).

What a request means belongs to the application; here its bytes are passed on.
Its public name is `poolrt.ray`. ray is imported inside functions.
It may import every room above it, process and cli included.
"""

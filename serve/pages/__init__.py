"""Pages for people: the playground, and the OpenAPI document with its page.

Routes for programs belong to endpoints.
It may import every room above it, endpoints included.
"""

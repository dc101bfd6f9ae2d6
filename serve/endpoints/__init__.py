"""One file per family of routes, and `routes`, the one table of them. An endpoint reads its body, makes one
call and shapes the response.

Parsing of bodies and running of models do not belong here.
It may import every room above it, not pages, app, lifespan, startup or cli.
"""

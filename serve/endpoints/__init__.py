"""One file per family of routes. The route table (routes.py) has a body read and its model found (route.py); an endpoint makes one
call to the model and shapes the answer."""

"""One file per family of routes. An endpoint reads its body, makes one call to a model, and shapes the answer."""

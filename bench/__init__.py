"""poolrt beside its peers, on the same model and the same texts, in one run: `python -m bench`."""

"""Data: one TOML file for each published model, templates beside them."""

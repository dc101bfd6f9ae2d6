"""Builds the documentation site: `make docs`, with mkdocs.yml (docs/decisions/site.md)."""

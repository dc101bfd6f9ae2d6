"""Artifacts behind vLLM's HTTP API: a thin layer of Starlette over `poolrt.runtime`."""

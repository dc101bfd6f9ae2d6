"""`poolrt.ray`: poolrt as an application of Ray Serve (docs/ray.md)."""

from __future__ import annotations

from poolrt.serve.ray.application import Options, app, build

__all__ = ["Options", "app", "build"]

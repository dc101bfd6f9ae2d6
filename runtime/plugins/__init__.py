"""IO processors, vLLM's plugins around a model: they turn a request's `data` into prompts, and outputs into an answer of any shape.

Two come with poolrt, under the names that vLLM's own have; others are entry points of installed packages. `docs/io-processors.md` says how
to write one.
"""

from __future__ import annotations

from .finding import BUILT_IN, GROUPS, opened
from .model_facts import Config, Renderer
from .plugin import Plugin, Prepared

__all__ = ["BUILT_IN", "GROUPS", "Config", "Plugin", "Prepared", "Renderer", "opened"]

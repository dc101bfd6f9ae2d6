"""IO processors, vLLM's plugins around a model: a request's `data` becomes prompts, and outputs
a response of any shape.

What every request goes through does not belong here: a processor is asked for by name (docs/io-processors.md
says how to write one). It may import errors, outputs, artifact, inputs and answers.
"""

from __future__ import annotations

from .finding import BUILT_IN, GROUPS, opened
from .model_facts import Config, Renderer
from .plugin import Plugin, Prepared

__all__ = ["BUILT_IN", "GROUPS", "Config", "Plugin", "Prepared", "Renderer", "opened"]

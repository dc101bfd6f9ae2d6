"""IO processors, vLLM's plugins around a model: one makes prompts of a request's `data`, and a response of
any shape of the outputs. docs/io-processors.md says how to write one.

What every request goes through does not belong here: a processor runs only where a request names it.
It may import errors, outputs, artifact, inputs and answers.
"""

from __future__ import annotations

from .finding import BUILT_IN, GROUPS, opened
from .model_facts import Config, Renderer
from .plugin import Plugin, Prepared

__all__ = ["BUILT_IN", "GROUPS", "Config", "Plugin", "Prepared", "Renderer", "opened"]

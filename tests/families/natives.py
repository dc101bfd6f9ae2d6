"""The same tiny decoders through transformers' own classes, one unpadded text at a time: the
independent side of their tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

Rename = Callable[[str], str | None]


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of model.safetensors or its shards, as stored."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def build(
    folder: Path, name: str, *, rename: Rename = lambda name: name, attention: str = "eager", **settings: Any
) -> Any:
    """transformers' class `name` from config.json with `settings` over it; every
    tensor must have its place."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | settings
    config.pop("auto_map", None)
    kind = getattr(transformers, name)
    model = (
        kind._from_config(kind.config_class.from_dict(config), attn_implementation=attention).float().eval()
    )
    state = {
        new: tensor.float() for old, tensor in tensors(folder).items() if (new := rename(old)) is not None
    }
    missing, extra = model.load_state_dict(state, strict=False)
    assert not extra, extra
    assert set(missing) <= {"lm_head.weight"}, missing
    if hasattr(model, "tie_weights"):
        model.tie_weights()
    return model


def without(*prefixes: str) -> Rename:
    """Drops the tensors of heads, and takes `model.` off the others."""
    return lambda name: None if name.startswith(prefixes) else name.removeprefix("model.")


def hidden(model: Any, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    with torch.inference_mode():
        return [model(torch.tensor([row]), use_cache=False).last_hidden_state[0].numpy() for row in ids]


def logits(model: Any, ids: Sequence[Sequence[int]]) -> list[np.ndarray]:
    with torch.inference_mode():
        return [model(torch.tensor([row]), use_cache=False).logits[0].numpy() for row in ids]


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)

"""A LoRA adapter beside the layers of a class of transformers, as PEFT runs it, under the class's names."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...files.adapter import SETTINGS, LoraAdapter
from .beside import Missing

NAMED = (
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
)
"""Settings that say by name which modules are adapted, and how."""
SIDES = {"first": "lora_A.weight", "second": "lora_B.weight", "bias": "lora_B.bias",
         "magnitude": "lora_magnitude_vector"}  # fmt: skip


def put_on(model: Any, adapter: LoraAdapter, spelled: Callable[[str], str]) -> None:
    """Lets PEFT put an adapter on `model`. What it changes outside `model` (a head) is left out.

    `spelled`: as in the family's record. Raises Missing where PEFT cannot do it, or is not installed.
    """
    if adapter.tokens or any(factors.table for factors in adapter.factors.values()):
        raise Missing("its pictures are not compared, the adapter changes a table of tokens")
    places = {spelled(f"{name}."): name for name, _ in model.named_modules()}
    adapted = {
        place: factors
        for module, factors in adapter.factors.items()
        if (place := places.get(spelled(f"{module}."))) is not None
    }
    inside = [name for name in adapter.whole if spelled(f"{name.rpartition('.')[0]}.") in places]
    if inside or not adapted:
        what = ", ".join(inside[:3]) if inside else "no layer of the class"
        raise Missing(f"its pictures are not compared, the adapter changes {what}")
    settings = {key: value for key, value in adapter.settings.items() if key not in NAMED}
    settings |= {"target_modules": list(adapted), "task_type": None, "modules_to_save": None}
    names = {
        place: module for module in adapter.factors if (place := places.get(spelled(f"{module}."))) in adapted
    }
    settings["rank_pattern"] = {place: adapter.rank(module) for place, module in names.items()}
    settings["alpha_pattern"] = {place: adapter.alpha(module) for place, module in names.items()}
    tensors = {
        f"base_model.model.{place}.{end}": adapter.weights.read(stored).clone()
        for place, factors in adapted.items()
        for side, end in SIDES.items()
        if (stored := getattr(factors, side)) is not None
    }
    with tempfile.TemporaryDirectory(prefix="poolrt-") as folder:
        _load(model, Path(folder), settings, tensors)


def _load(model: Any, folder: Path, settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    (folder / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
    save_file(tensors, folder / "adapter_model.safetensors")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            import peft

            peft.PeftModel.from_pretrained(model, str(folder))
        except Exception as error:  # each means that PEFT does not know this adapter, or is not installed
            reason = " ".join(str(error).split())[:160]
            raise Missing(f"its pictures are not compared, peft cannot adapt it: {reason}") from None
    if any("missing adapter keys" in str(entry.message) for entry in caught):
        raise Missing("its pictures are not compared, peft finds no place for the adapter's tensors")

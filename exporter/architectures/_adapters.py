"""Low-rank adapters in PEFT's layout, beside the weights they correct: one is added at export, so that nothing of it is left to run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"


def added(checkpoint: Checkpoint, state: dict[str, torch.Tensor], task: str) -> dict[str, torch.Tensor]:
    """W + alpha / r · B·A for each corrected matrix. A checkpoint without adapters (one task, merged by its authors) stays as it is."""
    from ..weights import open_files

    places = {place.name: place for place in sorted((checkpoint.folder / "adapters").glob("*")) if place.is_dir()}
    if not places:
        return state
    if task not in places:
        raise CheckpointError(f"{checkpoint.source}: adapter {task!r} is not there; found {', '.join(places)}")
    settings = json.loads((places[task] / "adapter_config.json").read_text(encoding="utf-8"))
    _refuse(places[task], settings)
    scale = float(settings["lora_alpha"]) / float(settings["r"])
    corrections = open_files([places[task] / "adapter_model.safetensors"])
    made = dict(state)
    for name in corrections:
        if not name.endswith(FIRST):
            continue
        stem = name.removesuffix(FIRST).removeprefix("base_model.model.")
        found = next(
            (key for key in (f"{stem}.weight", f"model.{stem}.weight", f"{stem.removeprefix('model.')}.weight") if key in state), None
        )
        if found is None:
            raise CheckpointError(f"{checkpoint.source}: adapter {task} corrects {stem}, which the weights do not have")
        second = corrections.read(name.removesuffix(FIRST) + SECOND).float()
        made[found] = state[found].float() + scale * (second @ corrections.read(name).float())
    return made


def _refuse(place: Path, settings: dict[str, object]) -> None:
    """Variants of LoRA that are not a plain product."""
    wrong = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save") if settings.get(key)]
    if wrong:
        raise CheckpointError(f"{place / 'adapter_config.json'}: {', '.join(wrong)} not supported")

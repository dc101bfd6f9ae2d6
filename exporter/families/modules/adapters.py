"""Low-rank adapters in PEFT's layout that a checkpoint stores beside its weights. The export adds one of
them, so that the model runs none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from ....runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from ...files.checkpoint_files import Files

FIRST, SECOND = ".lora_A.weight", ".lora_B.weight"
TABLE_FIRST, TABLE_SECOND = ".lora_embedding_A", ".lora_embedding_B"


def added(files: Files, state: dict[str, torch.Tensor], task: str) -> dict[str, torch.Tensor]:
    """The state dict with W + alpha / r · B·A for each matrix that the adapter of `task` corrects.

    A checkpoint without adapters (one task, merged by its authors) is returned as it is. Raises
    CheckpointError for an unknown task, or an adapter that does not fit.
    """
    from ...files import adapter_merge
    from ...files.weights import open_files

    settings_files = [
        place
        for pattern in ("*", "adapters/*")
        for place in sorted(files.folder.glob(f"{pattern}/adapter_config.json"))
    ]
    places = {_plain(path.parent.name): path.parent for path in settings_files}
    if not places:
        return state
    task = _plain(task)
    if task not in places:
        raise CheckpointError(f"{files.source}: adapter {task!r} is not there; found {', '.join(places)}")
    settings = json.loads((places[task] / "adapter_config.json").read_text(encoding="utf-8"))
    _refuse(places[task], settings)
    scale = float(settings["lora_alpha"]) / float(settings["r"])
    corrections = open_files([places[task] / "adapter_model.safetensors"])
    corrected = dict(state)
    for name in corrections:
        table = name.endswith(TABLE_FIRST)
        if not table and not name.endswith(FIRST):
            continue
        end = TABLE_FIRST if table else FIRST
        stem = name.removesuffix(end).removeprefix("base_model.model.")
        stored = next(
            (
                key
                for key in (f"{stem}.weight", f"model.{stem}.weight", f"{stem.removeprefix('model.')}.weight")
                if key in state
            ),
            None,
        )
        if stored is None:
            raise CheckpointError(
                f"{files.source}: adapter {task} corrects {stem}, which the weights do not have"
            )
        first, second = (
            corrections.read(name),
            corrections.read(name.removesuffix(end) + (TABLE_SECOND if table else SECOND)),
        )
        # The factors of an embedding table belong to its transpose.
        weight = adapter_merge.added(state[stored].T if table else state[stored], first, second, scale)
        corrected[stored] = weight.T.contiguous() if table else weight
    return corrected


def _plain(name: str) -> str:
    """`retrieval.query` and the folder `retrieval_query` are one task."""
    return re.sub(r"\W", "_", name)


def _refuse(place: Path, settings: dict[str, object]) -> None:
    """Raises CheckpointError for variants of LoRA that are not a plain product."""
    wrong = [
        key
        for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save")
        if settings.get(key)
    ]
    if wrong:
        raise CheckpointError(f"{place / 'adapter_config.json'}: {', '.join(wrong)} not supported")

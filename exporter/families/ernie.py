"""ERNIE (https://arxiv.org/abs/2107.02137): BERT, and in newer models an embedding of the task, which is
always task 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import bert
from ._transformers import backbone
from .registry import Architecture, Layer

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files

PREFIXES = ("ernie.", "bert.")  # many checkpoints were converted to BERT's names


def load(files: Files) -> nn.Module:
    def rename(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        bare = {
            name.removeprefix(PREFIXES[0]).removeprefix(PREFIXES[1]): tensor for name, tensor in state.items()
        }
        # use_task_id decides whether a stored table is used.
        return {
            name: tensor
            for name, tensor in bare.items()
            if files.config.get("use_task_id") or "task_type_embeddings" not in name
        }

    return backbone(files, "ErnieModel", add_pooling_layer=False, rename=rename)


ARCHITECTURE = Architecture(
    model_types=("ernie",),
    names=("ErnieModel", "ErnieForSequenceClassification", "ErnieForTokenClassification", "ErnieForMaskedLM"),
    inputs=bert.ARCHITECTURE.inputs,
    load=load,
    prefixes=PREFIXES,
    pool="cls",
    positions=bert.ARCHITECTURE.positions,
    sequence=bert.ARCHITECTURE.sequence,
    tokens=(Layer(name="classifier"),),
    vocabulary=bert.VOCABULARY,
)

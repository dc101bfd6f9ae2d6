"""A parameter that stays in its file, and what an adapter (adapter_merge.py) changes in it."""

from __future__ import annotations

import torch
from torch import nn

from .weights import Change


class Adapted(nn.Parameter):
    """A parameter as it is stored. `change` turns its float32 value into the adapted one."""

    def __new__(cls, stored: torch.Tensor, change: Change) -> Adapted:
        return super().__new__(cls, stored, requires_grad=False)

    def __init__(self, stored: torch.Tensor, change: Change) -> None:
        self.change = change


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A parameter in float32, with its adapter's change applied."""
    return tensor.change(tensor.detach().float()) if isinstance(tensor, Adapted) else tensor.float()

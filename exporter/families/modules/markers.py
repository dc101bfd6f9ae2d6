"""What part of a text is pooled, found by the ids of a marker inside it."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class AfterMarker(nn.Module):
    """Ids and mask [batch, tokens] -> mask of the tokens behind the first marker.

    All that is attended where there is no marker, no BOS in front, or nothing behind.
    """

    def __init__(
        self,
        *,
        bos: int | None,
        user: tuple[int, ...],
        marker: tuple[int, ...],
        marker_on_line: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.bos, self.user, self.marker, self.marker_on_line = bos, user, marker, marker_on_line

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        position = torch.arange(ids.shape[1], device=ids.device)
        # A line of instruction opens with a marker of its own, right behind BOS.
        instructed = _first(ids, position, self.user) == 1
        end = _first(ids, position, self.marker) + len(self.marker)
        end_on_line = _first(ids, position, self.marker_on_line) + len(self.marker_on_line)
        start = torch.where(instructed, end_on_line, end)
        if self.bos is not None:
            start = torch.where(ids[:, 0] == self.bos, start, 0)
        kept = mask * (position >= start.unsqueeze(-1)).to(mask.dtype)
        return torch.where(kept.amax(1, keepdim=True) > 0, kept, mask)


def _first(ids: torch.Tensor, position: torch.Tensor, pattern: tuple[int, ...]) -> torch.Tensor:
    """[batch]: where `pattern` first starts behind token 0; the width of `ids` where it does not."""
    found = position >= 1
    padded = functional.pad(ids, (0, len(pattern)), value=-1)
    for offset, token in enumerate(pattern):
        found = found & (padded[:, offset : offset + ids.shape[1]] == token)
    return torch.where(found, position, ids.shape[1]).amin(1)

"""Pooling of a part of a text, told by its tokens: behind a marker, or of a picture."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class AfterMarker(nn.Module):
    """Ids and mask [batch, tokens] -> mask [batch, tokens] of the tokens behind the first marker.

    The mask is returned unchanged for a text without a marker, without BOS or without tokens behind the
    marker.
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
        # An instruction starts with the user marker, right behind BOS.
        instructed = _first(ids, position, self.user) == 1
        end = _first(ids, position, self.marker) + len(self.marker)
        end_on_line = _first(ids, position, self.marker_on_line) + len(self.marker_on_line)
        start = torch.where(instructed, end_on_line, end)
        if self.bos is not None:
            start = torch.where(ids[:, 0] == self.bos, start, 0)
        kept = mask * (position >= start.unsqueeze(-1)).to(mask.dtype)
        return torch.where(kept.amax(1, keepdim=True) > 0, kept, mask)


class OfPicture(nn.Module):
    """Ids and mask [batch, tokens] -> mask [batch, tokens] of the first picture's tokens, its two marks
    included. The mask is returned unchanged for a text without a picture."""

    def __init__(self, start: int, end: int) -> None:
        super().__init__()
        self.start, self.end = start, end

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        position = torch.arange(ids.shape[1], device=ids.device)
        first = torch.where(ids == self.start, position, ids.shape[1]).amin(1, keepdim=True)
        behind = (ids == self.end) & (position > first)
        last = torch.where(behind, position, ids.shape[1]).amin(1, keepdim=True)
        inside = (position >= first) & (position <= last) & (last < ids.shape[1])
        kept = mask * inside.to(mask.dtype)
        return torch.where(kept.amax(1, keepdim=True) > 0, kept, mask)


def _first(ids: torch.Tensor, position: torch.Tensor, pattern: tuple[int, ...]) -> torch.Tensor:
    """The first position [batch] behind token 0 at which `pattern` starts; the width of `ids` for none."""
    matches = position >= 1
    padded = functional.pad(ids, (0, len(pattern)), value=-1)
    for offset, token in enumerate(pattern):
        matches = matches & (padded[:, offset : offset + ids.shape[1]] == token)
    return torch.where(matches, position, ids.shape[1]).amin(1)

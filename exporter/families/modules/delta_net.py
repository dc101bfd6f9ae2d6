"""The gated delta rule (https://arxiv.org/abs/2412.06464) in chunks of tokens, as torch can trace it.

A layer keeps a matrix for each head and changes it with every token. Here CHUNK tokens at a time are one
step: all products within chunks are batched, and a scan carries the matrix from chunk to chunk. Its weights
are those of transformers' Qwen3_5GatedDeltaNet (docs/decisions/delta-net.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .qwen3_vl import TextTower

STATEFUL = "linear_attention"
"""transformers' word for a layer with a state."""
CHUNK = 64
TINY = 1e-6
"""Added to the squared length of keys and queries, as the authors' kernels do."""


class HybridTower(TextTower):
    """Qwen3.5's text tower: most layers keep a state of the tokens before, the others attend.

    `causal` concerns the layers that attend. The state has an order of tokens in any case.
    """

    def __init__(self, model: Any, *, causal: bool) -> None:
        """`model`: transformers' Qwen3_5Model, whose layers with a state are replaced."""
        super().__init__(model, causal=causal, normed=True)
        for layer in self.layers:
            if layer.block_type == STATEFUL:
                layer.linear_attn = DeltaNet(layer.linear_attn)

    def layer(
        self,
        layer: Any,
        hidden: torch.Tensor,
        angles: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor,
        attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        seen = attention_mask if layer.block_type == STATEFUL else mask
        return layer(hidden, position_embeddings=angles, attention_mask=seen)


class DeltaNet(nn.Module):
    """A linear-attention layer; it takes the place of transformers' in a decoder layer."""

    def __init__(self, layer: Any) -> None:
        """`layer`: transformers' Qwen3_5GatedDeltaNet, whose weights are shared."""
        super().__init__()
        from transformers.activations import ACT2FN

        self.activation = ACT2FN[layer.activation]
        self.in_proj_qkv, self.in_proj_z = layer.in_proj_qkv, layer.in_proj_z
        self.in_proj_b, self.in_proj_a = layer.in_proj_b, layer.in_proj_a
        self.conv1d, self.norm, self.out_proj = layer.conv1d, layer.norm, layer.out_proj
        self.A_log, self.dt_bias = layer.A_log, layer.dt_bias
        self.heads, self.shared = int(layer.num_k_heads), int(layer.num_v_heads) // int(layer.num_k_heads)
        """Heads of keys, and how many heads of values have each."""
        self.key_width, self.width = int(layer.head_k_dim), int(layer.head_v_dim)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, **_: Any) -> torch.Tensor:
        """[batch, tokens, hidden], [batch, tokens] -> [batch, tokens, hidden]. Padding on either side changes
        no other token: keys and values of zeros leave the state as it is."""
        hidden, tokens = hidden_states, hidden_states.shape[1]
        # Behind the product and not in front of it: packing fills padding with rows of other tokens.
        seen = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mixed = self.activation(self.mixed(self.in_proj_qkv(hidden) * seen, tokens))
        beta = self.in_proj_b(hidden).sigmoid()
        rate = nn.functional.softplus(self.in_proj_a(hidden) + self.dt_bias)
        decay = -self.A_log.float().exp() * rate
        # The last chunk repeats the last token: what comes later changes no earlier token.
        count = (tokens + CHUNK - 1) // CHUNK
        places = torch.arange(count * CHUNK, device=hidden.device).clamp(max=tokens - 1)
        wide = self.heads * self.key_width
        query, key, value = mixed.split((wide, wide, self.heads * self.shared * self.width), dim=-1)
        result = delta_rule(
            unit(chunked(query, places, (self.heads, 1, self.key_width))) * self.key_width**-0.5,
            unit(chunked(key, places, (self.heads, 1, self.key_width))),
            chunked(value, places, (self.heads, self.shared, self.width)),
            chunked(decay, places, (self.heads, self.shared, 1)),
            chunked(beta, places, (self.heads, self.shared, 1)),
        )
        result = result.permute(1, 0, 4, 2, 3, 5).flatten(3, 4).flatten(1, 2)
        result = result.index_select(1, torch.arange(tokens, device=hidden.device))
        gate = self.in_proj_z(hidden).unflatten(-1, (-1, self.width))
        return self.out_proj(self.norm(result, gate).flatten(2))

    def mixed(self, values: torch.Tensor, tokens: int) -> torch.Tensor:
        """The convolution of every channel with its own few weights, over a token and some in front of it."""
        weight = self.conv1d.weight[:, 0]
        size = weight.shape[-1]
        padded = nn.functional.pad(values, (0, 0, size - 1, 0))
        total = padded[:, :tokens] * weight[:, 0]
        for place in range(1, size):
            total = total + padded[:, place : place + tokens] * weight[:, place]
        return total


def chunked(values: torch.Tensor, places: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
    """[batch, tokens, channels] -> [chunks, batch, heads, shared, CHUNK, width]."""
    rows = values.index_select(1, places).unflatten(1, (-1, CHUNK)).unflatten(-1, sizes)
    return rows.permute(1, 0, 3, 4, 2, 5)


def unit(values: torch.Tensor) -> torch.Tensor:
    """Vectors of the length 1; those of zeros stay."""
    return values * torch.rsqrt((values * values).sum(-1, keepdim=True) + TINY)


def delta_rule(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, decay: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """Computes state <- exp(decay) * state; state <- state + key (beta * (value - key state)); result = query
    state, for one token after the other.

    Args:
        query, key: [chunks, batch, heads, 1, CHUNK, key width].
        value: [chunks, batch, heads, shared, CHUNK, width].
        decay: [chunks, batch, heads, shared, CHUNK, 1], at most 0.
        beta: likewise, 0 to 1.

    Returns:
        [chunks, batch, heads, shared, CHUNK, width].
    """
    steps = torch.arange(CHUNK, device=query.device)
    later, earlier = steps[:, None] > steps[None, :], steps[:, None] < steps[None, :]
    # Sums of decay behind token j up to token i. Differences of one running sum would lose their last bits.
    gaps = torch.where(later, decay, 0.0).cumsum(-2)
    ratio = torch.where(earlier, -1e30, gaps).exp()
    since = decay.cumsum(-2).exp()
    until = ratio[..., CHUNK - 1 :, :].transpose(-1, -2)
    overlap = torch.matmul(key, key.transpose(-1, -2)) * ratio * beta
    inverse = inverted(torch.where(later, overlap, 0.0))
    fresh = torch.matmul(inverse, value * beta)
    erased = torch.matmul(inverse, key * (beta * since))
    local = torch.matmul(query, key.transpose(-1, -2)) * ratio
    stored = (key * until).transpose(-1, -2)

    def step(state: torch.Tensor, chunk: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        fresh, erased, local, query, stored, kept = chunk
        written = fresh - torch.matmul(erased, state)
        result = torch.matmul(query, state) + torch.matmul(local, written)
        return state * kept + torch.matmul(stored, written), result

    # The first state is computed from an input, so that the graph knows its number of rows.
    first = torch.zeros_like(torch.matmul(stored[0], fresh[0]))
    rows = (fresh, erased, local, query * since, stored, since[..., CHUNK - 1 :, :])
    return scanned(step, first, rows)


def scanned(
    step: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    state: torch.Tensor,
    rows: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """The results of `step`, (state, one of each `rows`) -> (state, result), one behind the other."""
    if torch.compiler.is_exporting():
        from torch._higher_order_ops.scan import scan

        return scan(step, state, rows)[1]
    results: list[torch.Tensor] = []
    for row in zip(*rows, strict=True):
        state, result = step(state, row)
        results.append(result)
    return torch.stack(results)


def inverted(strict: torch.Tensor) -> torch.Tensor:
    """The inverse of 1 + `strict`, which is zero on and above the diagonal: [..., CHUNK, CHUNK].

    Blocks of the diagonal, inverted already, become blocks of twice their size. The power series is the same
    on paper, but its terms grow past all bounds where keys are alike.
    """
    steps = torch.arange(CHUNK, device=strict.device)
    inverse, size = torch.eye(CHUNK, device=strict.device), 1
    while size < CHUNK:
        row, column = steps[:, None] // size, steps[None, :] // size
        corners = ((row % 2 == 1) & (column == row - 1)).to(strict.dtype)
        below = strict * corners
        if size > 1:
            below = torch.matmul(torch.matmul(inverse, below), inverse)
        inverse, size = inverse - below, 2 * size
    return inverse

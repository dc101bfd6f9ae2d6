"""The encoder of nomic-embed-text-v2-moe in torch, with the names of its published tensors.

All experts are evaluated in two products, to [tokens, experts * inner] and back. Between the two, the
activations of experts that the router did not choose are set to zero. That is exact, and the graph consists
of static products, which every engine runs well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional

from ....runtime.errors import CheckpointError

if TYPE_CHECKING:
    from ...files.checkpoint_files import Files


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    hidden: int
    heads: int
    inner: int
    layers: int
    vocabulary: int
    types: int
    eps: float
    theta: float
    activation: str
    experts: int
    chosen: int
    """Experts per token."""
    every: int
    """Layers 1, 1 + every, ... have experts; 0: none."""
    attention_bias: bool
    inner_bias: bool
    outer_bias: bool


class Attention(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.Wqkv = nn.Linear(sizes.hidden, 3 * sizes.hidden, bias=sizes.attention_bias)
        self.out_proj = nn.Linear(sizes.hidden, sizes.hidden, bias=sizes.attention_bias)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        thirds = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.Wqkv(hidden).chunk(3, dim=-1)
        )
        query, key, value = thirds
        attended = functional.scaled_dot_product_attention(
            _rotated(query, *rotary), _rotated(key, *rotary), value, attn_mask=mask
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))


def _rotated(value: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = value.chunk(2, dim=-1)
    return value * cos + torch.cat((-second, first), dim=-1) * sin


class Plain(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.hidden, sizes.inner, bias=sizes.inner_bias)
        self.fc2 = nn.Linear(sizes.inner, sizes.hidden, bias=sizes.outer_bias)
        self.activation = ACTIVATIONS[sizes.activation]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation(self.fc1(hidden)))


class Router(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.layer = nn.Linear(sizes.hidden, sizes.experts, bias=False)
        self.chosen, self.experts = sizes.chosen, sizes.experts

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[batch, tokens, hidden] -> weights [batch, tokens, experts], zero for experts that are not chosen.

        The softmax runs over all experts and is not renormalised, so the weights of a token may sum to less
        than 1.
        """
        weights = self.layer(hidden).float().softmax(dim=-1)
        best = weights.topk(self.chosen, dim=-1).indices
        number = torch.arange(self.experts, device=hidden.device)
        return weights * (best.unsqueeze(-1) == number).to(weights.dtype).sum(-2)


class Stacked(nn.Module):
    """Two matrices [experts * inner, hidden]; expert e owns rows e * inner onwards."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(sizes.experts * sizes.inner, sizes.hidden))
        self.w2 = nn.Parameter(torch.empty(sizes.experts * sizes.inner, sizes.hidden))


class Experts(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.mlp = Stacked(sizes)
        self.bias = nn.Parameter(torch.empty(sizes.hidden))
        self.activation, self.experts = ACTIVATIONS[sizes.activation], sizes.experts

    def forward(self, hidden: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        inner = self.activation(hidden @ self.mlp.w1.t())
        inner = inner.unflatten(-1, (self.experts, -1)) * weights.unsqueeze(-1)
        # One bias for all experts together, added once.
        return inner.flatten(-2) @ self.mlp.w2 + self.bias


class Mixture(nn.Module):
    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.router = Router(sizes)
        self.experts = Experts(sizes)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.experts(hidden, self.router(hidden))


ACTIVATIONS = {"gelu": functional.gelu, "relu": functional.relu, "silu": functional.silu}


class Layer(nn.Module):
    def __init__(self, sizes: Sizes, *, experts: bool) -> None:
        super().__init__()
        self.attn = Attention(sizes)
        self.mlp = Mixture(sizes) if experts else Plain(sizes)
        self.norm1 = nn.LayerNorm(sizes.hidden, eps=sizes.eps)
        self.norm2 = nn.LayerNorm(sizes.hidden, eps=sizes.eps)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        hidden = self.norm1(hidden + self.attn(hidden, mask, rotary))
        return self.norm2(hidden + self.mlp(hidden))


class NomicMoe(nn.Module):
    """Ids [batch, tokens] -> hidden states [batch, tokens, hidden]."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        tables = {"word_embeddings": nn.Embedding(sizes.vocabulary, sizes.hidden)}
        if sizes.types:
            tables["token_type_embeddings"] = nn.Embedding(sizes.types, sizes.hidden)
        self.embeddings = nn.ModuleDict(tables)
        self.emb_ln = nn.LayerNorm(sizes.hidden, eps=sizes.eps)
        has_experts = [
            sizes.every > 0 and sizes.experts > 0 and index % sizes.every == 1
            for index in range(sizes.layers)
        ]
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(Layer(sizes, experts=experts) for experts in has_experts)}
        )
        width = sizes.hidden // sizes.heads
        self.frequencies = nn.Buffer(
            sizes.theta ** (-torch.arange(0, width, 2, dtype=torch.float32) / width), persistent=False
        )

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, return_dict: bool = True
    ) -> torch.Tensor:
        hidden = self.embeddings["word_embeddings"](input_ids)
        if "token_type_embeddings" in self.embeddings:
            hidden = hidden + self.embeddings["token_type_embeddings"].weight[0]  # pyright: ignore[reportIndexIssue]
        hidden = self.emb_ln(hidden)
        angles = torch.arange(input_ids.shape[1], device=input_ids.device).float()[:, None] * self.frequencies
        angles = torch.cat((angles, angles), dim=-1)
        rotary = angles.cos(), angles.sin()
        mask = attention_mask[:, None, None, :].to(torch.bool)
        for layer in self.encoder["layers"]:  # pyright: ignore[reportGeneralTypeIssues]
            hidden = layer(hidden, mask, rotary)
        return hidden

    def filled(self, files: Files) -> NomicMoe:
        """This module with the checkpoint's weights, in float32 and eval mode.

        Raises CheckpointError with every missing, misshapen or unplaced tensor.
        """
        wanted = {name: tuple(parameter.shape) for name, parameter in self.state_dict().items()}
        places = {name: files.weights.find(name, files.prefixes) for name in wanted}
        shapes = {name: files.weights.shapes[place] for name, place in places.items() if place is not None}
        problems = [f"missing {name}" for name, place in places.items() if place is None]
        problems += [
            f"{name} has shape {list(shapes[name])}, expected {list(wanted[name])}"
            for name in shapes
            if shapes[name] != wanted[name]
        ]
        inside = {".".join(name.split(".")[:3]) for name in wanted if name.startswith("encoder.")}
        for name in set(files.weights) - set(places.values()):
            if ".".join(name.split(".")[:3]) in inside and not name.endswith("inv_freq"):
                problems.append(f"no place for {name}")
        if problems:
            raise CheckpointError(
                f"{files.source}: the weights do not fit NomicBertModel: {'; '.join(sorted(problems)[:8])}"
            )
        self.load_state_dict(
            {name: files.weights.read(place).float() for name, place in places.items() if place is not None}
        )
        return self.eval().requires_grad_(False)

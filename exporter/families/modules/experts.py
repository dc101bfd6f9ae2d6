"""Mixtures of experts as products that do not depend on the router's choice, so that they can be traced.

transformers loops over the experts that some token chose, which ONNX cannot express. Here all experts are
evaluated for all tokens. Each result is multiplied by the router's weight, which is zero where a token did
not choose the expert. That is exact, but computes products that are not used.
"""

from __future__ import annotations

from types import MethodType
from typing import TYPE_CHECKING, Any

from ....runtime.errors import CheckpointError
from ...base.large import HOLD

if TYPE_CHECKING:
    import torch
    from torch import nn

TOGETHER = 8
"""Experts of one product, whose [experts, tokens, inner] is in memory at once."""


def dense(source: str, module: nn.Module) -> None:
    """Changes, in place, every mixture that has transformers' interface for experts.

    Raises CheckpointError for experts that an adapter changes in a streamed model.
    """
    for part in list(module.modules()):
        if hasattr(part, "has_gate") and hasattr(part, "is_transposed") and "down_proj" in part._parameters:
            _split(source, part)


def _split(source: str, mixture: Any) -> None:
    from torch import nn

    from ...files.adapted_parameter import Adapted

    upper = "gate_up_proj" if mixture.has_gate else "up_proj"
    names = (upper, "down_proj", *((f"{upper}_bias", "down_proj_bias") if mixture.has_bias else ()))
    whole = {name: mixture._parameters.pop(name) for name in names}
    if any(isinstance(parameter, Adapted) for parameter in whole.values()):
        raise CheckpointError(
            f"{source}: the adapter changes experts, which cannot be streamed with it; hold "
            f"it in memory with {HOLD}"
        )
    after = mixture.post_expert_norm if mixture.has_post_expert_norm else None
    gate = mixture._apply_gate if mixture.has_gate else mixture.act_fn
    pieces = []
    for start in range(0, mixture.num_experts, TOGETHER):
        some = {name: parameter[start : start + TOGETHER] for name, parameter in whole.items()}
        # Views [experts, in, out], however the matrices are stored.
        up, down = (some[name] if mixture.is_transposed else some[name].transpose(1, 2) for name in names[:2])
        pieces.append(_piece(start, up, down, [some[name] for name in names[2:]], gate, after))
    mixture.pieces = nn.ModuleList(pieces)
    mixture.forward = MethodType(_forward, mixture)


def _forward(mixture: Any, *arguments: torch.Tensor, **named: torch.Tensor) -> torch.Tensor:
    """Hidden states [tokens, hidden], chosen experts and their weights [tokens, chosen] -> [tokens,
    hidden]."""
    hidden, chosen, weights = (*arguments, *named.values())
    rows = hidden.reshape(-1, hidden.shape[-1])
    chosen, weights = chosen.reshape(-1, chosen.shape[-1]), weights.reshape(-1, weights.shape[-1])
    total = mixture.pieces[0](rows, chosen, weights)
    for piece in mixture.pieces[1:]:
        total = total + piece(rows, chosen, weights)
    return total.reshape(hidden.shape)


def _piece(
    first: int, up: torch.Tensor, down: torch.Tensor, biases: list[torch.Tensor], gate: Any, after: Any
) -> nn.Module:
    import torch
    from torch import nn

    class Piece(nn.Module):
        """Some experts, each [in, out]."""

        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = (nn.Parameter(weight, requires_grad=False) for weight in (up, down))
            self.biases = nn.ParameterList(nn.Parameter(bias, requires_grad=False) for bias in biases)
            # These are bound to the mixture, which contains this module. The tuple hides them from torch.
            self.calls = (gate, after)

        def forward(self, rows: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
            inner = rows.unsqueeze(0) @ self.up
            inner = inner + self.biases[0].unsqueeze(1) if len(self.biases) else inner
            outer = self.calls[0](inner) @ self.down
            outer = outer + self.biases[1].unsqueeze(1) if len(self.biases) else outer
            outer = outer if self.calls[1] is None else self.calls[1](outer)
            number = torch.arange(first, first + self.up.shape[0], device=rows.device)
            share = (
                (chosen.unsqueeze(-1) == number).to(outer.dtype) * weights.to(outer.dtype).unsqueeze(-1)
            ).sum(1)
            return (outer * share.t().unsqueeze(-1)).sum(0)

    return Piece()

"""Replaces functions of transformers' modules that cannot be traced by equal ones that can.

A method is copied with other globals, so that transformers itself stays unchanged for the rest of the
process.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn


def make_traceable(module: nn.Module) -> None:
    """Changes, in place, the parts of `module` that call one of FUNCTIONS."""
    for part in module.modules():
        plain = inspect.unwrap(type(part).forward)
        used = set(getattr(plain, "__code__", make_traceable.__code__).co_names)
        home = str(getattr(plain, "__globals__", {}).get("__name__"))
        changed = {
            name: function
            for (name, place), function in FUNCTIONS.items()
            if name in used and home.startswith(place)
        }
        if changed:
            copied = FunctionType(
                plain.__code__,
                plain.__globals__ | changed,
                plain.__name__,
                plain.__defaults__,
                plain.__closure__,
            )
            copied.__kwdefaults__ = plain.__kwdefaults__
            part.forward = MethodType(copied, part)


def selective_scan(  # transformers passes these names
    hidden: torch.Tensor,
    dt: torch.Tensor,
    A: torch.Tensor,  # noqa: N803
    B: torch.Tensor,  # noqa: N803
    C: torch.Tensor,  # noqa: N803
    D: torch.Tensor | None = None,  # noqa: N803
    z: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> torch.Tensor:
    """Mamba's recurrence (https://arxiv.org/abs/2312.00752, algorithm 2) as one Scan over the tokens.

    Args:
        hidden, dt, z: [batch, inner, tokens].
        A: [inner, states].
        B, C: [batch, states, tokens].
        D, delta_bias: [inner].

    Returns:
        [batch, inner, tokens].
    """
    from torch._higher_order_ops.scan import scan

    assert not return_last_state, "a graph keeps no state"
    dt = dt if delta_bias is None else dt + delta_bias[..., None]
    dt = nn.functional.softplus(dt) if delta_softplus else dt

    def step(state: torch.Tensor, now: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        inner, time, into, out = now
        state = torch.exp(A * time[..., None]) * state + time[..., None] * into[:, None, :] * inner[..., None]
        return state.clone(), (state * out[:, None, :]).sum(-1)

    start = torch.zeros_like(hidden[:, :, :1] * A)
    rows = tuple(value.movedim(-1, 0) for value in (hidden, dt, B, C))
    _, results = scan(step, start, rows)
    result = results.movedim(0, -1)
    result = result if D is None else result + hidden * D[None, :, None]
    return result if z is None else result * nn.functional.silu(z)


def alibi(attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
    """Falcon's slopes times positions, [batch * heads, 1, tokens]. Both factors and the product are rounded
    to bfloat16, and multiplied in float32."""
    from transformers.models.falcon.modeling_falcon import build_alibi_tensor

    # At position 1 the function returns the slopes.
    slopes = build_alibi_tensor(torch.ones(1, 2, dtype=torch.int64), num_heads, torch.float32)[:, 0, 1].to(
        attention_mask.device
    )
    position = ((attention_mask.cumsum(dim=-1) - 1) * attention_mask)[:, None, :]
    product = slopes[None, :, None] * position.to(torch.bfloat16).to(torch.float32)
    return product.to(torch.bfloat16).to(dtype).reshape(-1, 1, attention_mask.shape[1])


# (name, start of the module's name) -> replacement. BLOOM's function has the same name as Falcon's, but does
# not round, so it is not replaced.
FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("mamba_selective_scan", "transformers.models."): selective_scan,
    ("build_alibi_tensor", "transformers.models.falcon."): alibi,
}

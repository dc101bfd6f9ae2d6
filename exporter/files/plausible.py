"""Checks that config.json and the weights can belong together.

They run before anything of the size that config.json states is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError, is_failure
from ..base.refusals import shortened

if TYPE_CHECKING:
    import torch

    from .checkpoint_files import Files

# The deepest published text model has some 130 layers, the largest table 256 000 rows.
MOST_LAYERS, MOST_WIDE = 2048, 1 << 22
LAYERS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
WIDE = (
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "type_vocab_size",
    "embedding_size",
    "d_model",
    "d_ff",
    "n_embd",
    "n_inner",
    "ffn_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "n_head",
    "head_dim",
    "num_experts",
    "num_local_experts",
    "num_labels",
)
# A model may have SPARE elements more than its weight files, for constants such as masks, and SHARED times as
# many where layers share weights.
SPARE, SHARED = 1 << 26, 4


def check_counts(path: object, config: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a count in config.json that no model has. `path` names the file."""
    for keys, most in ((LAYERS, MOST_LAYERS), (WIDE, MOST_WIDE)):
        for key in keys:
            value = config.get(key)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value <= most:
                raise CheckpointError(f"{path}: {key} is {shortened(value)}, {most} is the most that is read")


def check_types(files: Files, state: Mapping[str, torch.Tensor]) -> None:
    """Raises CheckpointError for weights that are not plain floating-point numbers. The scales of quantised
    ones would be ignored."""
    import torch

    plain = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
    strange = [
        (name, tensor.dtype)
        for name, tensor in state.items()
        if name.endswith("weight") and tensor.dtype not in plain
    ]
    if strange:
        name, dtype = strange[0]
        raise CheckpointError(
            f"{files.source}: {len(strange)} weights are quantised or no numbers ({name} is "
            f"{str(dtype).removeprefix('torch.')}); give the checkpoint in float32, float16 or bfloat16 "
            "that they were made from"
        )


def check_size(files: Files, kind: Any, config: Any, arguments: Mapping[str, Any]) -> None:
    """Raises CheckpointError for a config.json that describes a far larger model than the weights.

    `kind`: the model's class, called with `config` and `arguments` on the meta device. Nothing is allocated.
    """
    import torch

    stored = files.parameters
    try:
        with torch.device("meta"):
            module = kind(config, **arguments)
    except BaseException as error:
        if not is_failure(error):
            raise
        return  # the real construction raises it with its reason
    described = sum(tensor.numel() for tensor in (*module.parameters(), *module.buffers()))
    if described > SHARED * stored + SPARE:
        raise CheckpointError(
            f"{files.source}: config.json describes a model of {described} values, "
            f"the weights hold {stored}; one of the two is of another checkpoint"
        )


def check_finite(files: Files, module: torch.nn.Module) -> None:
    """Raises CheckpointError for weights that are no numbers, from a diverged training or a damaged file."""
    strange = [name for name, parameter in module.named_parameters() if parameter.isnan().any()]
    if strange:
        shown = ", ".join(strange[:3]) + (f" and {len(strange) - 3} more" if len(strange) > 3 else "")
        raise CheckpointError(
            f"{files.source}: weights that are no numbers (NaN): {shown}; download the checkpoint again"
        )

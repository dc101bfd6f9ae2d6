"""Loading a backbone through transformers' own class: names, legacy spellings and fused tensors are its business.

The only place where parameters become real tensors. Streaming the weights of large decoders (fake parameters here, slices of the
safetensors files attached to the finished graph) has to change this file and graph.py alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from ..checkpoint import Checkpoint

# Buffers that old files carry and today's classes compute.
COMPUTED = ("position_ids", "token_type_ids", "inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "masked_bias", "attn.bias")
MOST_NAMES = 8


def backbone(
    checkpoint: Checkpoint,
    name: str,
    *,
    attention: str = "sdpa",
    config: Mapping[str, Any] | None = None,
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    **arguments: Any,
) -> Any:
    """transformers' class `name` in float32, filled from the checkpoint.

    `config` replaces config.json's settings, `rename` rewrites the state dict, `arguments` go to the class. Raises CheckpointError with
    every missing, misshapen or unplaced tensor: transformers would fill the gaps with random numbers.
    """
    import torch
    import transformers

    kind = getattr(transformers, name)
    settings = dict(checkpoint.config if config is None else config)
    settings.pop("auto_map", None)
    state = checkpoint.weights.state()
    if rename is not None:
        state = rename(state)
    try:
        with quiet():
            module, info = kind.from_pretrained(
                None, config=kind.config_class.from_dict(settings), state_dict=state, attn_implementation=attention, dtype=torch.float32,
                output_loading_info=True, ignore_mismatched_sizes=True, **arguments,
            )  # fmt: skip
    except Exception as error:  # transformers and its config checks raise many types; config.json decides all that is built here
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{checkpoint.source}: {name} cannot be built from config.json: {reason}") from error
    _check(checkpoint, name, module, info)
    return module.eval().requires_grad_(False)


def _check(checkpoint: Checkpoint, name: str, module: Any, info: Mapping[str, Any]) -> None:
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [f"{key} has shape {list(found)}, expected {list(wanted)}" for key, found, wanted in sorted(info["mismatched_keys"])]
    inside = {key.split(".", 1)[0] for key in module.state_dict()}
    for key in sorted(info["unexpected_keys"]):
        bare = next((key.removeprefix(prefix) for prefix in checkpoint.family.prefixes if key.startswith(prefix)), key)
        if bare.split(".", 1)[0] in inside and not bare.endswith(COMPUTED):
            problems.append(f"no place for {key}")
    if problems:
        more = f" and {len(problems) - MOST_NAMES} more" if len(problems) > MOST_NAMES else ""
        raise CheckpointError(f"{checkpoint.source}: the weights do not fit {name}: {'; '.join(problems[:MOST_NAMES])}{more}")


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' progress bars and load reports: what they would tell is checked here and raised."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()

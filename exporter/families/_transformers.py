"""Loads a backbone through transformers' own class, which knows old names and fused tensors.

Parameters become float32, except those of a large model (exporter/graph/streaming.py), which stay mapped in
the type they are stored in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ..base.large import HOLD
from ..base.quiet import silent_transformers
from ..files import plausible
from .modules import experts

if TYPE_CHECKING:
    import torch

    from ..files.checkpoint_files import Files
    from ..files.weights import Change

# Buffers that old files store and today's classes compute.
COMPUTED = (
    "position_ids",
    "token_type_ids",
    "inv_freq",
    "rotary_emb.cos_cached",
    "rotary_emb.sin_cached",
    "masked_bias",
    "attn.bias",
)
MOST_NAMES = 8


def backbone(
    files: Files,
    name: str,
    *,
    attention: str = "sdpa",
    config: Mapping[str, Any] | None = None,
    rename: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    **arguments: Any,
) -> Any:
    """transformers' class `name` with the checkpoint's weights, in float32 and eval mode. A large model keeps
    its parameters as they are stored.

    `config` replaces config.json's settings, `rename` rewrites the state dict, `arguments` go to the class.

    Raises CheckpointError with every missing, misshapen or unplaced tensor, for which transformers would take
    random numbers.
    """
    import torch
    import transformers

    kind = getattr(transformers, name)
    settings = dict(files.config if config is None else config)
    settings.pop("auto_map", None)
    state, by_name = files.weights.unmerged() if files.large else (files.weights.state(), {})
    changes = {state[name].data_ptr(): (name, change) for name, change in by_name.items()}
    if rename is not None:
        state = rename(state)
    plausible.check_types(files, state)
    dtype = _stored(files, state) if files.large else torch.float32
    try:
        with silent_transformers():
            plausible.check_size(files, kind, kind.config_class.from_dict(dict(settings)), arguments)
            module, info = kind.from_pretrained(
                None,
                config=kind.config_class.from_dict(settings),
                state_dict=state,
                attn_implementation=attention,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **arguments,
            )
    except CheckpointError:
        raise
    except Exception as error:
        # transformers and its config checks raise many types. Only config.json decides what is built here.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError(f"{files.source}: {name} cannot be built from config.json: {reason}") from error
    _check(files, name, module, info)
    if dtype != torch.float32:
        with silent_transformers():
            module = _framed(module, kind.config_class.from_dict(settings), attention, arguments)
    names = {tensor.data_ptr(): name for name, tensor in state.items()}
    unexpected = set(info["unexpected_keys"])
    heads = {name for address, (name, _) in changes.items() if names.get(address) in unexpected}
    _adapt(files, module, changes, unexpected | heads)
    experts.dense(files.source, module)
    return _batched(str(settings.get("model_type")), module).eval().requires_grad_(False)


def _batched(model_type: str, module: Any) -> Any:
    """`module`, changed so that a text's neighbours in a batch cannot change its result."""
    from .modules.padding import without_padding
    from .modules.rotary import by_row
    from .modules.traceable import make_traceable

    make_traceable(module)
    return without_padding(model_type, by_row(module))


def _stored(files: Files, state: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The type that holds every weight exactly: the files' type where they have a single one, else
    float32."""
    import torch

    kinds = {tensor.dtype for tensor in state.values() if tensor.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 and kinds <= {torch.bfloat16, torch.float16} else torch.float32


def _framed(module: Any, config: Any, attention: str, arguments: Mapping[str, Any]) -> Any:
    """The stored parameters of `module` inside a float32 model, in which constants that the class computes
    (Gemma's scales) keep all their bits."""
    import torch
    from transformers.initialization import no_init_weights

    with no_init_weights():  # parameters that are never written take no memory
        frame = type(module)._from_config(
            config, attn_implementation=attention, dtype=torch.float32, **arguments
        )
    stored = dict(module.named_parameters(remove_duplicate=False))
    for path, part in frame.named_modules():
        for name in part._parameters:
            part._parameters[name] = stored.get(f"{path}.{name}" if path else name)
    computed = dict(module.named_buffers())
    for name in set(frame.state_dict()) - set(stored):
        frame.get_buffer(name).copy_(computed[name])
    return frame


def _adapt(
    files: Files, module: Any, changes: Mapping[int, tuple[str, Change]], elsewhere: Iterable[str]
) -> None:
    """Puts an adapter's changes beside the mapped parameters they change. Each is applied when its parameter
    is used (`whole` of files/adapted_parameter.py).

    `changes`: address of a mapped tensor -> its name and change. `elsewhere`: names that only heads read.
    """
    from ..files.adapted_parameter import Adapted

    left = {name for name, _ in changes.values()} - set(elsewhere)
    adapted: dict[int, Adapted] = {}
    for part in module.modules() if changes else ():
        for key, parameter in part._parameters.items():
            if parameter is not None and (address := parameter.data_ptr()) in changes:
                name, change = changes[address]
                part._parameters[key] = adapted.setdefault(address, Adapted(parameter, change))
                left.discard(name)
    if left:
        raise CheckpointError(
            f"{files.source}: the adapter changes {', '.join(sorted(left)[:MOST_NAMES])}, which this "
            "architecture converts while loading, so the model cannot be streamed with it; hold "
            f"it in memory with {HOLD}"
        )


def refuse_strange(source: str, family: str, strange: Iterable[str], expected: str = "") -> None:
    """Raises CheckpointError for tensors that no part of a model has a place for; nothing where there are
    none. `expected`: what the weights should hold."""
    names = sorted(strange)
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        wanted = f"; expected {expected}" if expected else ""
        raise CheckpointError(
            f"{source}: tensors that {family} has no place for: {', '.join(names[:MOST_NAMES])}{more}{wanted}"
        )


def _check(files: Files, name: str, module: Any, info: Mapping[str, Any]) -> None:
    problems = [f"missing {key}" for key in sorted(info["missing_keys"])]
    problems += [
        f"{key} has shape {list(stored)}, expected {list(wanted)}"
        for key, stored, wanted in sorted(info["mismatched_keys"])
    ]
    inside = {key.split(".", 1)[0] for key in module.state_dict()}
    for key in sorted(info["unexpected_keys"]):
        bare = next((key.removeprefix(prefix) for prefix in files.prefixes if key.startswith(prefix)), key)
        if bare.split(".", 1)[0] in inside and not bare.endswith(COMPUTED):
            problems.append(f"no place for {key}")
    if problems:
        more = f" and {len(problems) - MOST_NAMES} more" if len(problems) > MOST_NAMES else ""
        raise CheckpointError(
            f"{files.source}: the weights do not fit {name}: {'; '.join(problems[:MOST_NAMES])}{more}"
        )

"""Refuses checkpoints of which a part would be ignored: classes of their own code, and settings that
transformers' class ignores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..runtime.errors import CheckpointError
from .families.registry import Architecture

Config = Mapping[str, Any]

# Overrides that decide how a class of the checkpoint's own code is read.
SAYS_HOW = {"architectures", "auto_map", "is_causal", "use_bidirectional_attention", "model_type"}
# Settings that change the numbers -> their values that do not. A class of transformers without such a field
# ignores them.
NEUTRAL: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute",),
    "alibi": (False, 0),
    "use_alibi": (False, 0),
    "use_bidirectional_attention": (False,),
    "bidirectional": (False,),
    "logn_attention_scale": (False,),
    "use_logn_attn": (False,),
    "attn_logit_softcapping": (0,),
    "qk_norm": (False,),
    "use_qk_norm": (False,),
    "qk_layernorm": (False,),
    "prenorm": (False,),
    "rotary_emb_fraction": (0, 0.0),
    "embedding_multiplier": (1, 1.0),
    "residual_multiplier": (1, 1.0),
    "rope_scaling": (),
}
ROTARY = ("rotary", "rope")


def check(source: str, config: Config, family: Architecture) -> None:
    """Raises CheckpointError for a setting of config.json that the family's class of transformers ignores.

    `config` is the translated one.
    """
    from transformers import CONFIG_MAPPING

    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        return  # a family with its own module, which checks its settings
    kind = CONFIG_MAPPING[model_type]
    fields = {name for base in kind.__mro__ for name in vars(base).get("__annotations__", {})} | set(
        kind.attribute_map
    )
    rotary = "rope_parameters" in fields
    for key, neutral in NEUTRAL.items():
        value = config.get(key)
        if value is None or value in neutral or key in fields or key in family.settings:
            continue
        if rotary and (key == "rope_scaling" or (key == "position_embedding_type" and value in ROTARY)):
            continue
        raise CheckpointError(
            f"{source}: config.json says {key} {value!r}, which transformers' {model_type} does not "
            f"compute, so the vectors would be others; it is a model of code of its own{_named(config)}; "
            f"--hf-overrides '{{\"{key}\": null}}' exports it without"
        )


def refuse_remote(
    source: str, config: Config, family: Architecture, *, overrides: Config, convert: str
) -> None:
    """Raises CheckpointError for classes of the checkpoint's own code that no family knows, unless
    `overrides` or `convert` decide how they are read.

    `config` is the translated one. An encoder may name a class of its own beside a known one. A decoder may
    not, since that class may attend both ways.
    """
    remote = _remote(config)
    if not remote or convert in ("embed", "classify", "reward") or SAYS_HOW & set(overrides):
        return
    published = [str(name) for name in config.get("architectures") or ()]
    # A family with `matches` has recognised whose code it reads.
    recognised = family.matches is not None and bool(family.model_types)
    names = [*published, *(remote if not published or (family.pool == "last" and not recognised) else ())]
    unknown = [name for name in dict.fromkeys(names) if name not in family.names and "ColBERT" not in name]
    if unknown:
        both = (
            ", --hf-overrides '{\"is_causal\": false}' as one that attends both ways"
            if family.pool == "last"
            else ""
        )
        raise CheckpointError(
            f"{source}: config.json names {', '.join(unknown)}, a class of its own code (auto_map), which "
            "poolrt does not know and does not run; --convert embed or classify reads it as "
            f"transformers' {family.names[0]}{both}"
        )


def _remote(config: Config) -> list[str]:
    """Class names of models in an auto_map."""
    entries = config.get("auto_map")
    classes = (
        [value for key, value in entries.items() if str(key).startswith("AutoModel")]
        if isinstance(entries, Mapping)
        else []
    )
    return [str(value).rsplit(".", 1)[-1] for value in classes]


def _named(config: Config) -> str:
    """The class names of config.json in parentheses; "" for none."""
    names = list(
        dict.fromkeys([*(str(name) for name in config.get("architectures") or ()), *_remote(config)])
    )
    return f" ({', '.join(names)})" if names else ""

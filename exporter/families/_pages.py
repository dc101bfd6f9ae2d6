"""What families that read pages share: settings, tensor names and prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...runtime.artifact.images import Images
from ...runtime.errors import CheckpointError
from . import _decoders, _pictures
from ._decoders import SCORE, SEQUENCE
from .registry import Architecture, Layer, Vision

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..files.checkpoint_files import Files
    from ..files.pictures.processor import Settings
    from .registry import Config

TOP = ("hidden_size", "vocab_size", "max_position_embeddings", "pad_token_id")
"""Settings of a text model that the exporter reads at the top of config.json."""
PROJECTION = Layer(name="embedding_proj_layer", names=("custom_text_proj",), bias=None)
"""Of the width of a token's vector, under transformers' name and colpali-engine's."""
PROJECTIONS = tuple((f"{name}.", f"{PROJECTION.name}.") for name in PROJECTION.names)
"""Beginnings of its tensors' names."""
INSIDE = ("layers", "embed_tokens", "norm")
"""First parts of a language model's own names."""
INPUTS = ("input_ids", "attention_mask", "features", "feature_index")
"""Inputs of a text graph that reads pictures."""


def flat(config: Config, text: Config, *, width: int, rows: int, image_id: int) -> dict[str, Any]:
    """`config` with the settings of its text model at the top.

    `width` and `rows` are used where it has no hidden_size or vocab_size. The token of a picture, `image_id`,
    may lie behind the vocabulary.
    """
    settings = {"hidden_size": width, "vocab_size": rows} | {
        key: text[key] for key in TOP if text.get(key) is not None
    }
    settings["vocab_size"] = max(settings["vocab_size"], image_id + 1)
    return {**config, **settings}


def renamed(
    state: Mapping[str, torch.Tensor],
    prefixes: Sequence[str],
    names: Sequence[tuple[str, str]],
    *,
    unused: tuple[str, ...],
) -> dict[str, torch.Tensor]:
    """Tensors without prefixes and under other names.

    Args:
        state: tensors by their stored names.
        prefixes: removed from the beginning of a name, as often as one is there.
        names: pairs of a beginning of a name and what replaces it.
        unused: beginnings of names that are left out.
    """
    tensors = {spelled(stored, prefixes, names): tensor for stored, tensor in state.items()}
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(unused)}


def spelled(name: str, prefixes: Iterable[str], names: Iterable[tuple[str, str]]) -> str:
    """One name without its prefixes and under another beginning; arguments as of `renamed`."""
    ordered = sorted(prefixes, key=len, reverse=True)
    while prefix := next((prefix for prefix in ordered if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    for old, new in names:
        if name.startswith(old):
            name = new + name.removeprefix(old)
    return name


def speller(
    prefixes: Iterable[str], names: Iterable[tuple[str, str]], *, inside: str = "language_model"
) -> Callable[[str], str]:
    """`Architecture.spelled` of a model with a language model inside.

    Args:
        prefixes: as of `renamed`.
        names: likewise.
        inside: first part of the language model's names, which its own class and old files leave out.
    """
    prefixes, names = tuple(prefixes), (*names, *PROJECTIONS)

    def respelled(name: str) -> str:
        bare = spelled(name, prefixes, names)
        return f"{inside}.{bare}" if bare.split(".", 1)[0] in INSIDE else bare

    return respelled


def square(files: Files, vision: Mapping[str, Any], settings: Settings, side: Mapping[str, int]) -> int:
    """The patches of a picture of the size that the processor makes.

    Args:
        vision: settings of the tower.
        settings: those of the processor.
        side: height and width in pixels.

    Raises CheckpointError where the tower has positions for another size.
    """
    pixels, patch = int(vision.get("image_size", 224)), int(vision.get("patch_size", 16))
    if side.get("height") != pixels or side.get("width") != pixels:
        raise CheckpointError(
            f"{files.source}: {settings.file} scales pictures to {dict(side)}, and the vision model has "
            f"positions for {pixels} x {pixels} pixels; set `size` there to it"
        )
    return (pixels // patch) ** 2


def placeholder(files: Files, image_id: int) -> str:
    """The token that stands for a picture. Raises CheckpointError where config.json means another one."""
    stated = files.text.config.get("extra_special_tokens")
    token = stated.get("image_token") if isinstance(stated, Mapping) else None
    token = str(token or files.text.config.get("image_token") or "<image>")
    if files.text.tokenizer.token_to_id(token) != image_id:
        raise CheckpointError(
            f"{files.source}: a picture is token {image_id} in config.json, and {token} is token "
            f"{files.text.tokenizer.token_to_id(token)} of the tokenizer; both must be alike"
        )
    return token


def stated(files: Files, settings: Settings, key: str, tokens: int) -> None:
    """Raises CheckpointError where the processor writes another number of tokens for a picture or tile than
    the vision model has features."""
    value = settings.values.get(key)
    if value is not None and value != tokens:
        raise CheckpointError(
            f"{files.source}: {key} in {settings.file} is {value!r}, the vision model makes {tokens} "
            "features; both must be alike"
        )


def projected(shapes: Iterable[str]) -> bool:
    """Whether tensors of these names hold a projection of tokens."""
    projections = {f"{name}.weight" for name in (PROJECTION.name, *PROJECTION.names)}
    return any(".".join(name.split(".")[-2:]) in projections for name in shapes)


def family(
    *,
    images: Callable[[Files], Images],
    projection: tuple[Layer, ...] = (PROJECTION,),
    load_vision: Callable[[Files, Any], nn.Module] | None = None,
    **facts: Any,
) -> Architecture:
    """The record of a family that compares pages and questions token by token.

    Args:
        images: as in `Vision`.
        projection: applied to every token.
        load_vision: `load` of `Vision`; None: the towers beside the text model.
        facts: the fields of the record in which the families differ.
    """
    return Architecture(
        inputs=INPUTS,
        positions=lambda config: config.get("max_position_embeddings", 8192),
        capped_by_tokenizer=False,
        projection=projection,
        vision=vision(images, load_vision or tower),
        late_interaction=True,
        **facts,
    )


def language_model(
    *,
    images: Callable[[Files], Images],
    load_vision: Callable[[Files, Any], nn.Module] | None = None,
    **facts: Any,
) -> Architecture:
    """The record of a language model that reads pictures of one size, or tiles of it, whose last token
    becomes a vector or scores. Arguments as of `family`."""
    return Architecture(
        inputs=INPUTS,
        pool="last",
        capped_by_tokenizer=False,
        sequence=SEQUENCE,
        tokens=SCORE,
        vision=vision(images, load_vision or tower),
        **facts,
    )


def vision(images: Callable[[Files], Images], load: Callable[[Files, Any], nn.Module]) -> Vision:
    """The half of a family that reads pictures of one size, or tiles of it; arguments as in `Vision`."""
    return Vision(
        images=images,
        inputs=lambda files: _pictures.pixels(images(files)),
        load=load,
        width=lambda config: int(config["hidden_size"]),
    )


def tower(files: Files, text: Any) -> nn.Module:
    """The tower and the projection beside a text model."""
    from .modules.features import Tower

    return Tower(*text.towers)


def positions(config: Config) -> int | None:
    """`_decoders.positions` where config.json states a length."""
    return _decoders.positions(config) if config.get("max_position_embeddings") else None


def literal(text: str) -> str:
    """`text` as a string of a Jinja expression."""
    return json.dumps(text, ensure_ascii=False)


def joined(*parts: str) -> str:
    """Jinja expressions, one behind the other; empty strings are left out."""
    return " ~ ".join(part for part in parts if part != literal(""))


def expression(*parts: str) -> str:
    """A template that writes Jinja expressions, one behind the other."""
    return f"{{{{ {joined(*parts)} }}}}"


def template(page: str, words: str) -> str:
    """The template of a prompt: expression `page` where there are pictures, else `words`."""
    return f"{{{{ ({page}) if images else ({words}) }}}}"

"""GritLM (https://arxiv.org/abs/2402.09906): Mistral with attention both ways for embeddings, which pools the
tokens behind `<|embed|>`.

The marker is ordinary text of several tokens, so the graph searches for their ids. The instruction in front
of it is attended but not pooled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ._decoders import family, load
from .registry import Config

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

USER, EMBED = "<|user|>\n", "<|embed|>\n"


def matches(config: Config, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    # The authors' own copy has Mistral's model_type, and modelling code of its own.
    remote = " ".join(str(value) for value in (config.get("auto_map") or {}).values())
    return "GritLM" in (config.get("architectures") or ()) or "gritlm" in remote.lower()


def translate(config: Config) -> Config:
    return {**config, "architectures": ["GritLM"], "is_causal": False, "sliding_window": None}


def pooled(files: Files) -> nn.Module:
    from .modules.markers import AfterMarker

    def ids(text: str) -> tuple[int, ...]:
        return tuple(files.text.tokenizer.encode(text, add_special_tokens=False).ids)

    # Behind an instruction's line break the marker has no space in front, so its first token is another one.
    line, bare = ids(f"a\n{EMBED}"), ids("a")
    return AfterMarker(
        bos=files.text.ids.get("bos_token"),
        user=ids(USER),
        marker=ids(EMBED),
        marker_on_line=line[len(bare) :],
    )


ARCHITECTURE = replace(
    family(
        model_types=("mistral",),
        stem="GritLM",
        load=lambda files: load(files, "MistralModel"),
        matches=matches,
        translate=translate,
        pool="mean",
        pooled=pooled,
    ),
    names=("GritLM",),
)

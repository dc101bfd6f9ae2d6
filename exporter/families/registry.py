"""What a family says of itself, and the families themselves, found by scanning this folder.

Every other file here whose name has no leading underscore defines `ARCHITECTURE`. Heads are data here
(which tensors, in which order) and code in `exporter/heads/head_modules.py`, so that no file names
both a backbone and a head.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...runtime.artifact.manifest import Pool
from ...runtime.errors import UnknownArchitecture

if TYPE_CHECKING:
    from torch import nn

    from ..files.checkpoint_files import Files

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One step of a head: a linear map or a norm whose tensors are `name`.weight and
    `name`.bias, then an activation."""

    name: str
    names: tuple[str, ...] = ()
    """Other spellings of `name`, tried in order."""
    where: str = ""
    """A folder (`2_Dense`) or file (`sparse_linear.pt`) of the checkpoint; empty: the model's own weights."""
    kind: Literal["linear", "layer_norm"] = "linear"
    bias: bool | None = True
    """None: taken when the checkpoint has one."""
    activation: str = "identity"
    """Of head_modules.ACTIVATIONS, a dotted torch class, or `@key`: the value of that key of config.json."""
    eps: float | tuple[str, float] = 1e-5
    """Of a norm; a pair is a key of config.json and its default."""
    residual: bool = False
    """Adds the layer's input, through `residual`.weight where widths differ."""
    rows: tuple[tuple[int, ...], ...] = ()
    """Some rows of a large matrix in the place of all: one output each, the second of a pair
    subtracted from the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """How a published classifier of this family turns hidden states into logits."""

    pool: Pool
    pool_key: str | None = None
    """Key of config.json that overrides `pool` (`classifier_pooling`)."""
    layers: tuple[Layer, ...]
    """Applied to the pooled vector."""
    tokens: tuple[Layer, ...]
    """Applied to every token by vLLM's token_classify."""
    sigma_key: str | None = None
    """Key of config.json whose value divides the logits (`temperature`)."""
    assumed: bool = False
    """What most of the family's models have; a published class may have more layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A head that judges every token, or every step of an answer."""

    layers: tuple[Layer, ...]
    raw: bool
    """Answered without activation unless a request asks for it (vLLM)."""
    step_tag_id: int | None = None
    """Token that ends a step: only its rows are answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listwise:
    document_token: str
    """Behind each document; its row is compared."""
    query_token: str
    template: str
    """File in recipes/templates: query, documents and instruction -> one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    model_types: tuple[str, ...]
    """Values of model_type in config.json."""
    names: tuple[str, ...]
    """Published class names in vLLM's spelling; the first is the bare backbone."""
    inputs: tuple[str, ...]
    """Graph inputs, in order."""
    load: Callable[[Files], nn.Module]
    """Files -> module in float32 and eval mode whose forward(**inputs) returns hidden states
    [batch, tokens, hidden]."""
    matches: Callable[[Config, Mapping[str, tuple[int, ...]]], bool] | None = None
    """(config, weight shapes) -> whether this file reads them; files with it are asked before those without,
    and those that list no `model_types` (they read whatever transformers reads) after all others."""
    translate: Callable[[Config], Config] | None = None
    """config.json -> the same facts under transformers' names, for families that
    are published with others."""
    adapt: Callable[[Architecture, Config], Architecture] | None = None
    """Fills in what depends on the translated config (inputs, prefixes, pooling)."""
    prefixes: tuple[str, ...] = ()
    """What a model with a head puts before the backbone's tensor names (`bert.`)."""
    pool: Pool
    """For embedding when no file says otherwise (vLLM's default)."""
    positions: Callable[[Config], int | None]
    """Config -> tokens the model can place; None: it states no limit."""
    capped_by_tokenizer: bool = True
    """Absolute positions: tokenizer_config.json's model_max_length caps the length too (vLLM)."""
    sequence: Classifier | None = None
    """*ForSequenceClassification."""
    tokens: tuple[Layer, ...] = ()
    """*ForTokenClassification, applied to every token; empty: the family has none."""
    vocabulary: tuple[Layer, ...] = ()
    """*ForMaskedLM: hidden states -> one logit per vocabulary entry (SPLADE); empty: the family has none."""
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    """Published class name -> its head (*RewardModel)."""
    projection: tuple[Layer, ...] = ()
    """Belongs to every embedding of this family, in front of Sentence Transformers' Dense modules."""
    pooled: Callable[[Files], nn.Module] | None = None
    """Module (input_ids, attention_mask) -> mask [batch, tokens] of what is pooled;
    None: all that is attended."""
    width: Callable[[Config], int] | None = None
    """Config -> width of the hidden states that `load`'s module returns; None: hidden_size."""
    settings: tuple[str, ...] = ()
    """Keys of config.json that transformers' class would ignore and `load` computes."""
    listwise: Listwise | None = None
    """For models that read a query and all its documents as one text."""
    attends_filler: bool = False
    """ColBERT queries of this family attend to what fills them up, whatever their settings say."""
    sample_tokens: int = 24
    """Length traced at export: enough for every derived dimension (windows, chunks) to be above 1."""
    tiny: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the transformers config of a toy model, exported by the tests."""


@functools.cache
def all_architectures() -> tuple[Architecture, ...]:
    """Every family, those with `matches` first. An error inside a file is raised, not taken for
    an unknown architecture."""
    families = (importlib.import_module(f"{__package__}.{name}").ARCHITECTURE for name in names())
    return tuple(sorted(families, key=lambda family: (not family.model_types, family.matches is None)))


def names() -> tuple[str, ...]:
    """The files of families, by their names."""
    modules = (
        module.name for module in pkgutil.iter_modules([str(Path(__file__).parent)]) if not module.ispkg
    )
    return tuple(sorted(name for name in modules if not name.startswith("_") and name != Path(__file__).stem))


def find(source: str, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> Architecture:
    """The family that reads a checkpoint. Raises UnknownArchitecture, naming the closest ones."""
    model_type = str(config.get("model_type", ""))
    published = [str(name) for name in config.get("architectures") or ()]
    for architecture in all_architectures():
        named = bool(set(published) & set(architecture.names))
        # A repository with a configuration class of its own may call its type anything; a file that looks
        # closer goes by its class name.
        known = model_type in architecture.model_types or (
            named and (not model_type or architecture.matches is not None)
        )
        known = known or not architecture.model_types
        if known and (architecture.matches is None or architecture.matches(config, shapes)):
            return architecture
    asked = published[0] if published else model_type
    raise UnknownArchitecture(
        f"{source}: architecture {asked or 'missing'!r} (model_type {model_type or 'missing'!r}) is "
        "not supported; "
        f"closest supported: {', '.join(closest(asked))}"
    )


def closest(asked: str) -> list[str]:
    """The known class names and model types that look most like `asked`."""
    choices = {
        name.lower(): name
        for architecture in all_architectures()
        for name in (*architecture.names, *architecture.model_types)
    }
    return [
        choices[name]
        for name in difflib.get_close_matches(asked.lower(), choices, n=3, cutoff=0.4) or list(choices)[:3]
    ]

"""The record of a backbone family, and the list of all families.

The folder is scanned: every file in it except this one whose name has no leading underscore is a family, and
defines `ARCHITECTURE`. Heads are data here (which tensors, in which order) and code in
`exporter/heads/head_modules.py`, so that no code is written for one backbone with one head.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...runtime.artifact.images import Images
from ...runtime.artifact.manifest import Pool, Role, Tensor
from ...runtime.errors import UnknownArchitecture
from ..base.guess import Guess

if TYPE_CHECKING:
    from torch import nn

    from ..files.adapter import LoraAdapter
    from ..files.checkpoint_files import Files

Config = Mapping[str, Any]


class Past(NamedTuple):
    """Keys and values of one token, as `past` of the text graph holds them."""

    layers: int
    heads: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One step of a head: a linear layer or a norm whose tensors are `name`.weight and `name`.bias, then an
    activation."""

    name: str
    names: tuple[str, ...] = ()
    """Other spellings of `name`, tried in order."""
    where: str = ""
    """A folder (`2_Dense`) or file (`sparse_linear.pt`) of the checkpoint; empty: the model's own weights."""
    kind: Literal["linear", "layer_norm"] = "linear"
    bias: bool | None = True
    """None: it has one where the checkpoint stores one."""
    activation: str = "identity"
    """A name in head_modules.ACTIVATIONS, a dotted torch class, or `@key` for the value of that key of
    config.json."""
    eps: float | tuple[str, float] = 1e-5
    """Epsilon of a norm, or a key of config.json and its default."""
    residual: bool = False
    """Adds the layer's input, through `residual`.weight where widths differ."""
    rows: tuple[tuple[int, ...], ...] = ()
    """Rows of a large matrix that are used, one output for each entry; empty: all rows. Of a pair of rows,
    the second is subtracted from the first."""


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
    mean: float | None = None
    """Subtracted from the logits."""
    sigma_key: str | None = None
    """Key of config.json whose value divides the logits (`temperature`)."""
    assumed: bool = False
    """Whether this is only what most published classes have; some may have more layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reward:
    """A head that judges every token, or every step of an answer."""

    layers: tuple[Layer, ...]
    raw: bool
    """Whether values are returned without activation unless a request asks for it (vLLM)."""
    step_tag_id: int | None = None
    """Id of the token that ends a step. Only the rows of such tokens are returned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listwise:
    """A reranker that reads a query and all its documents as one text."""

    document_token: str
    """Token behind each document, whose row is compared with that of `query_token`."""
    query_token: str
    """Token behind the query."""
    template: str
    """File in recipes/templates: query, documents and instruction -> one prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vision:
    """The half of a family that reads pictures."""

    images: Callable[[Files], Images]
    """Files (config.json, preprocessor_config.json, processor_config.json, ...) -> how pictures are
    prepared."""
    inputs: Callable[[Files], tuple[Tensor, ...]]
    """The inputs of the vision graph, in order."""
    load: Callable[[Files, nn.Module], nn.Module]
    """(files, the module of `Architecture.load`, whose weights it shares) -> module whose forward(**inputs)
    returns features [batch, rows, width], or an embedding [batch, width] where `Images.apart`."""
    width: Callable[[Config], int]
    """Config -> width of a row of features, deepstack levels behind one another, or of the embedding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """A backbone family. A new one is a new file in this folder that defines `ARCHITECTURE`.

    Every family states the fields without a default: `model_types`, `names`, `inputs`, `load`, `pool` and
    `positions`. Nearly every one also states

    - `prefixes`, if its published models with a head put one before the backbone's tensor names,
    - `sequence`, `tokens` and `vocabulary`, for those heads that its published classes have,
    - `capped_by_tokenizer` false, if it has no table of absolute positions.

    `matches` is needed where another file reads the same model_type, `translate` where config.json is
    published with other keys than transformers reads. All other fields serve single families.

    `load` is `_transformers.backbone` with the name of transformers' class, which checks that every tensor
    has its place. A decoder's record is made by `_decoders.family`, for which `model_types` and `stem`
    suffice. bert.py and qwen3.py are the examples to copy. Torch code that transformers lacks is written in
    modules/.
    """

    model_types: tuple[str, ...]
    """Values of model_type in config.json."""
    names: tuple[str, ...]
    """Published class names in vLLM's spelling; the first is the bare backbone."""
    inputs: tuple[str, ...]
    """Names of the graph's inputs, in order."""
    load: Callable[[Files], nn.Module]
    """Files -> module in float32 and eval mode whose forward(**inputs) returns hidden states
    [batch, tokens, hidden]."""
    matches: Callable[[Config, Mapping[str, tuple[int, ...]]], bool] | None = None
    """(config, weight shapes) -> whether this file reads them. Files that have it are tried before those that
    do not, and files without `model_types` (which read whatever transformers reads) last."""
    translate: Callable[[Config], Config] | None = None
    """config.json -> the same settings under transformers' names, for families published with others."""
    guesses: Callable[[str, Config], tuple[Guess, ...]] | None = None
    """(source, config) -> what the family assumes where config.json leaves it open; None: nothing."""
    adapt: Callable[[Architecture, Config], Architecture] | None = None
    """Fills in fields that depend on the translated config (inputs, prefixes, pooling)."""
    prefixes: tuple[str, ...] = ()
    """Prefixes that a model with a head puts before the backbone's tensor names (`bert.`)."""
    spelled: Callable[[str], str] | None = None
    """A tensor's name in any release of the family -> one name for all, by which an adapter finds the tensors
    of a checkpoint that was saved by another release."""
    pool: Pool
    """Pooling of embeddings when no file states another (vLLM's default)."""
    positions: Callable[[Config], int | None]
    """Config -> the longest text in tokens that the model has positions for; None: it states no limit."""
    capped_by_tokenizer: bool = True
    """Whether tokenizer_config.json's model_max_length limits the length too, as vLLM does for absolute
    positions."""
    sequence: Classifier | None = None
    """Head of *ForSequenceClassification; None: the family has none."""
    tokens: tuple[Layer, ...] = ()
    """Head of *ForTokenClassification, applied to every token; empty: the family has none."""
    vocabulary: tuple[Layer, ...] = ()
    """Head of *ForMaskedLM: hidden states -> one logit per vocabulary entry (SPLADE); empty: none."""
    rewards: Mapping[str, Reward] = field(default_factory=dict)
    """Published class name -> its head (*RewardModel)."""
    projection: tuple[Layer, ...] = ()
    """Layers of every embedding of this family, in front of Sentence Transformers' Dense modules."""
    token_projection: tuple[Layer, ...] = ()
    """Layers of every vector of a token, in the place of `projection`, where vectors of texts have others."""
    built_in: Callable[[Path, Config], LoraAdapter] | None = None
    """(folder of config.json, config) -> the adapter beside the weights that is a part of the model, merged
    into them; None: the weights are the whole model."""
    pooled: Callable[[Files], nn.Module] | None = None
    """Files -> module (input_ids, attention_mask) -> mask [batch, tokens] of the tokens that are pooled;
    None: all attended tokens are."""
    width: Callable[[Config], int] | None = None
    """Config -> width of the hidden states that `load`'s module returns; None: hidden_size."""
    settings: tuple[str, ...] = ()
    """Keys of config.json that transformers' class ignores and `load` implements."""
    vision: Vision | None = None
    """None: the family reads text only."""
    late_interaction: bool = False
    """Whether its published models compare vectors of tokens (ColPali): `projection` is applied to every
    token and the vectors are L2-normalised."""
    roles: Callable[[Files], Mapping[str, Role]] | None = None
    """Files -> how the published processor prepares `query` and `document`; None: other files say it. A
    recipe's roles replace these."""
    score_template: Callable[[Files], str] | None = None
    """Files -> the template that writes a query and a document for its rerankers; a recipe's replaces it.
    None: other files say it."""
    pair_end: int | None = None
    """Token that its rerankers put behind every pair, whose state is scored; None: they put none."""
    pair_document_tokens: int | None = None
    """Tokens to which its rerankers cut the text of a document before they write the pair; None: they do
    not."""
    instruction: str = ""
    """The `instruction` of role templates where a request gives none."""
    pad_to: Callable[[Config], int | None] | None = None
    """Config -> the length that every text is padded to, its padding attended (SigLIP); None: no padding of
    the model's own."""
    own_pooling: bool = False
    """Whether a text has one vector of the model's own (CLIP, SigLIP). `CLS` and `LAST` both mean that one,
    as in vLLM, and no other pooling is known."""
    canonical_text: bool = False
    """Whether its models were trained on SigLIP's canonical texts (files/canonical_text.py), which the
    tokenizer may have forgotten."""
    listwise: Listwise | None = None
    """For models that read a query and all its documents as one text."""
    attends_filler: bool = False
    """Whether ColBERT queries of this family attend to their filler tokens, against their settings."""
    past: Callable[[Config], Past | None] | None = None
    """Config -> the keys and values of a prefix that its graph takes. None, or a result of None: texts are
    computed whole, as they must be where a token attends to later ones."""
    sample_tokens: int = 24
    """Length of the text traced at export, enough for every derived dimension (windows, chunks) to exceed
    1."""


@functools.cache
def all_architectures() -> tuple[Architecture, ...]:
    """Every family in the order in which they are tried. An error inside a file is raised, not taken for an
    unknown architecture."""
    families = (importlib.import_module(f"{__package__}.{name}").ARCHITECTURE for name in names())
    return tuple(sorted(families, key=lambda family: (not family.model_types, family.matches is None)))


def names() -> tuple[str, ...]:
    """The names of the files of families, without `.py`."""
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
        # A repository with a configuration class of its own may have any model_type, so a family with
        # `matches` is also recognised by its class name.
        recognised = model_type in architecture.model_types or (
            named and (not model_type or architecture.matches is not None)
        )
        recognised = recognised or not architecture.model_types
        if recognised and (architecture.matches is None or architecture.matches(config, shapes)):
            return architecture
    name = published[0] if published else model_type
    raise UnknownArchitecture(
        f"{source}: architecture {name or 'missing'!r} (model_type {model_type or 'missing'!r}) is "
        f"not supported; closest supported: {', '.join(closest(name))}"
    )


def closest(unknown: str) -> list[str]:
    """The three known class names and model types that are spelled most like `unknown`."""
    choices = {
        name.lower(): name
        for architecture in all_architectures()
        for name in (*architecture.names, *architecture.model_types)
    }
    return [
        choices[name]
        for name in difflib.get_close_matches(unknown.lower(), choices, n=3, cutoff=0.4) or list(choices)[:3]
    ]

"""The artifact's manifest: everything the runtime needs to serve a model and everything needed to trust it.

The format page for people is `artifacts/README.md`. `manifest.json` is written last; every other
file of the folder is listed in `files` with its size and sha256, and a file that is not listed is
not part of the artifact.

This file is long because it holds one contract, record after record.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import ArtifactError
from .images import Images
from .records import Descriptive

FORMAT = 1
"""A higher number where an older runtime would misread a newer manifest. Newer formats are refused, older
ones are read. A new field with a default needs none: a manifest without it is read by everybody, and where it
changes what is computed an older runtime refuses it as an unknown key (docs/decisions/format-changes.md)."""

FILE = "manifest.json"

Task = Literal["embed", "token_embed", "classify", "token_classify"]
Scoring = Literal["bi-encoder", "late-interaction", "cross-encoder", "listwise"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights", "int4-weights"]
"""Of a graph. The last two are precisions of stored weights alone, whose products compute in another."""
WEIGHT_ONLY: tuple[Precision, ...] = ("int8-weights", "int4-weights")
INTEGERS: tuple[Precision, ...] = ("int8", *WEIGHT_ONLY)
"""Stored as integers, for processors only."""
Pool = Literal[
    "cls", "mean", "max", "mean_sqrt_len", "weightedmean", "last", "tokens", "step", "splade", "splade_sum"
]
Activation = Literal["identity", "l2", "sigmoid", "softmax", "relu", "tanh"]
RoleName = Literal["query", "document"]
"""One side of a comparison."""
GraphRole = Literal["text", "vision"]
"""What a graph computes: `text` the result of prompts, `vision` features of pictures, which the text graph
reads (or their embeddings, where `Images.apart`)."""
PAST, KEPT, PRESENT = "past", "kept", "present"
"""Inputs and output of a graph that computes tokens behind a prefix (docs/decisions/prefix-caching.md)."""
Backend = Literal["onnxruntime", "tensorrt-rtx", "tensorrt", "openvino"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedAdapter:
    """A LoRA adapter that was merged into the weights."""

    name: str
    """Hub id, or the folder's own name."""
    revision: str | None = None
    rank: int
    """The largest of its modules'."""
    files: dict[str, str] = field(default_factory=dict)
    """Its settings and its weights: file -> sha256."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where the weights came from."""

    checkpoint: str
    """Hub id (`BAAI/bge-m3`) or the folder's own name; never a path of the exporting machine."""
    revision: str | None = None
    subfolder: str | None = None
    """Folder of the checkpoint inside the repository; None: the repository itself."""
    weights: dict[str, str] = field(default_factory=dict)
    """Weight file inside the checkpoint -> sha256."""
    overrides: dict[str, object] = field(default_factory=dict)
    """hf_overrides, convert, pooler_config as asked for at export."""
    adapter: MergedAdapter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """How the model's own library prepares one side (`query`, `document`) of a comparison.

    The order is: put the prefix in front, tokenise with special tokens, cut to max_tokens - (1 if there is a
    marker), insert the marker after the first token, expand.
    """

    prefix: str = ""
    """Text put in front, e.g. `query: `."""
    suffix: str = ""
    """Text put behind."""
    template: str | None = None
    """Jinja text in place of prefix and suffix, with the variables `text` (may be empty), `media` (the
    placeholders of the prompt's videos and pictures), `images`, `videos` (their counts) and `instruction`."""
    add_special_tokens: bool = True
    """Whether the tokenizer puts its special tokens around what the template renders."""
    marker_id: int | None = None
    """ColBERT: token inserted after the first one ([Q] / [D])."""
    max_tokens: int | None = None
    """ColBERT: most tokens of this side, marker and special tokens included. Longer text is cut, not
    refused."""
    expand_id: int | None = None
    """ColBERT query expansion: the token that a row is filled up with. Every position is returned."""
    expand_to: int | None = None
    """Length that rows are filled up to; None: max_tokens. A longer row keeps its length."""
    attend_expansion: bool = False
    """Whether expansion tokens are attended to (attention mask 1)."""
    skip_ids: tuple[int, ...] = ()
    """ColBERT documents: vectors of these tokens are dropped after encoding."""
    static: bool = False
    """Inference-free sparse queries: no special tokens, and `token_kinds` tells the graph to take each
    word's weight from a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPreparation:
    """Text preparation."""

    tokenizer: str = "tokenizer.json"
    max_tokens: int
    """Longest item, special tokens included (vLLM's max_model_len)."""
    vocab_size: int
    """Rows of the token table; an id at or above it is refused."""
    pad_id: int
    pad_to: int | None = None
    """Every text is filled up with `pad_id` to so many tokens, which are attended to as its own (SigLIP);
    None: only as far as its batch needs, and masked."""
    pad_side: Literal["left", "right"] = "right"
    """The side of the padding of `pad_to`."""
    lowercase: bool = False
    """Of older artifacts: single texts are lower-cased before tokenising, pairs never. Today
    tokenizer.json does it itself."""
    split_special_tokens: bool = False
    """Special tokens that are spelled out in a text are read as ordinary text (the tokenizer setting of that
    name)."""
    truncation_side: Literal["left", "right"] = "right"
    """The side on which a text that is too long loses tokens, unless a request says otherwise (the tokenizer
    setting of that name). Special tokens stay."""
    pair: Literal["separator", "concatenate"] = "separator"
    """Cross-encoders: the tokenizer's own pair encoding, or plain concatenation
    (vLLM's use_sep_token false)."""
    pair_end: int | None = None
    """Cross-encoders whose score is the state of a token of its own: its id, put behind every pair after
    tokenising and cutting (jina-reranker-m0). Their score template is a part of the model."""
    pair_document_tokens: int | None = None
    """Cross-encoders whose own library cuts the text of a document to so many tokens before it writes the
    pair; None: it cuts none, or the whole pair."""
    roles: dict[str, Role] = field(default_factory=dict)
    """`query` and `document` as the model's own library prepares them; empty: both plain."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Stored prompts by name (config_sentence_transformers.json or task_instructions). A request applies one
    by its name."""
    default_role: RoleName | None = None
    """The side of a text that comes without a role; None: it is plain."""
    default_prompt: str | None = None
    instruction: str = ""
    """The `instruction` of role templates where a request gives none."""
    pools_prompts: bool = True
    """False: the tokens of a prompt are attended to and not pooled (include_prompt false), which
    `token_kinds` says to the graph."""
    special_tokens: dict[str, str] = field(default_factory=dict)
    """`bos_token`, `eos_token`, ... for templates."""
    chat_template: str | None = None
    """File with the tokenizer's chat template."""
    score_template: str | None = None
    """File with the template that turns a (query, document) pair into one prompt."""
    ends_with: int | None = None
    """LAST-pooled models: the id every encoded text must end with (EOS); asserted at export."""
    add_special_tokens: bool = True
    tokenizer_config: str | None = None
    """File with the tokenizer's init settings, for /tokenizer_info."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """One task's output: what the graph computes (`pool`), and what the runtime does to it (cut,
    activate)."""

    output: str
    """Name of the graph output. [batch, dim] for embed and classify, [batch, tokens,
    dim] for the token tasks."""
    dim: int
    pool: Pool
    activation: Activation
    """Applied by the runtime in float32 unless a request says use_activation=false. `l2` = L2
    normalisation of the last axis."""
    asked_activation: Activation | None = None
    """Applied instead where a request says use_activation=true, for heads that return raw values by default.
    None: `activation`."""
    labels: tuple[str, ...] = ()
    """Values of id2label in order; classification heads only."""
    matryoshka: tuple[int, ...] = ()
    """Widths a request may ask for with `dimensions`."""
    any_dimension: bool = False
    """is_matryoshka without a list: every width from 1 to dim."""
    dimensions: int | None = None
    """Default width (pooler config), None: dim."""
    norm_before_cut: bool = False
    """nomic v1.5: a LayerNorm without weights before cutting to `dimensions`. A vector of full width stays as
    it is."""
    logit_mean: float | None = None
    logit_sigma: float | None = None
    """activation((logit - mean) / sigma)."""
    drop_first: int = 0
    drop_last: int = 0
    """Token tasks: rows removed at the ends of each unpadded item (bge-m3: BOS, EOS)."""
    drop_first_id: int | None = None
    drop_last_id: int | None = None
    """Those rows are removed only where they are this token; None: whatever they are."""
    keep_ids: tuple[int, ...] = ()
    """Token tasks: only rows of these tokens are returned, those of the first id first (listwise models:
    documents, then the query)."""
    flat: bool = False
    """Token tasks of width 1 that return [tokens] rather than [tokens, 1] (bge-m3 sparse)."""
    sparse: bool = False
    """A [vocabulary] vector that is mostly zero (SPLADE) or weights per token id (bge-m3)."""
    step_tag_id: int | None = None
    """STEP pooling: only rows of this token id are returned."""
    returned_token_ids: tuple[int, ...] = ()
    """STEP pooling: the columns that are returned; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a graph."""

    name: str
    dtype: Literal["int64", "int32", "float32", "float16", "bool"]
    axes: tuple[str | int, ...]
    """Names of dynamic axes (`batch`, `tokens`, `patches`, `features`, `past`, `kept`), numbers for fixed
    ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """An ONNX graph of the artifact."""

    role: GraphRole = "text"
    file: str
    precision: Precision
    opset: int
    inputs: tuple[Tensor, ...]
    """Text: input_ids, attention_mask, token_type_ids, token_kinds (items.PLAIN, PROMPT, STATIC), all int64
    [batch, tokens]. With pictures also features float32 [features, width] (row 0 is zero), feature_index
    int64 [batch, tokens] (row of a token's features; 0: it has none), position_ids int64 [batch, 3,
    tokens]. Vision: pixel_values float32 [batch, ...], and with patches [batch, patches, values]:
    patch_positions int64 [batch, patches, 4] (row, column, rows, columns of the picture's patches),
    patch_mask int64 [batch, patches]. With a prefix: past float32 [2 x layers, heads, past, width] (keys and
    values, of each layer one behind the other, of tokens that stand in front of every row), kept int64 [kept]
    (the tokens whose own keys and values are returned)."""
    outputs: tuple[Tensor, ...]
    """Of each head. With a prefix also present float32 [batch, 2 x layers, heads, kept, width]."""
    external: tuple[str, ...] = ()
    """External-data files this graph reads, inside the folder."""
    weights: Precision | None = None
    """Precision of the stored weights where the graph casts them to its own (bf16 of large models, integers
    in groups); None: its own."""
    packed: bool = False
    """Whether padding costs something in attention only: tokens that the mask leaves out are dropped
    everywhere else."""
    sliced: bool = False
    """Whether vocabulary logits are pooled slice by slice, so that a batch never holds all of them. False of
    SPLADE in older artifacts, whose batches are bounded."""
    window: int = 0
    """Keys of the widest window of attention of at most 512; bounds stand in the names of nodes. 0: none, and
    in older artifacts."""
    static_scales: bool = False
    """int8: whether the scales of activations are constants of the graph, which then consists of standard
    operators. False: they are taken of each row while it runs, in operators of ONNX Runtime alone."""

    @property
    def stored(self) -> Precision:
        """Precision of the weights as they are stored."""
        return self.weights or self.precision

    @property
    def past(self) -> Tensor | None:
        """The input for keys and values of a prefix; None: texts are computed whole."""
        return next((tensor for tensor in self.inputs if tensor.name == PAST), None)

    def whole(self) -> Graph:
        """The record of the same graph without prefixes."""
        return replace(
            self,
            inputs=tuple(tensor for tensor in self.inputs if tensor.name not in (PAST, KEPT)),
            outputs=tuple(tensor for tensor in self.outputs if tensor.name != PRESENT),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Shapes one engine context accepts, as (batch, tokens)."""

    smallest: tuple[int, int]
    best: tuple[int, int]
    largest: tuple[int, int]
    past: int = 0
    """Most tokens of the prefix in front of every row. There may be none."""
    returns_past: bool = False
    """Whether it computes prefixes: the keys and values of all its tokens, which no other profile
    returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A compiled file. It is tied to its device, library version and precision."""

    backend: Backend
    file: str
    graph: str
    """The graph file it was compiled from."""
    device: str
    """`sm89` and so on."""
    version: str
    """Of the library that compiled it."""
    precision: Precision
    profiles: tuple[Profile, ...]

    @property
    def past(self) -> int:
        """Most tokens of a prefix that it computes and reads; 0: texts are computed whole."""
        return max((profile.past for profile in self.profiles if profile.returns_past), default=0)

    def reads(self, graph: Graph) -> Graph:
        """The record of its graph as it was compiled."""
        return graph if self.past else graph.whole()


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence(Descriptive):
    """What was measured for one engine and one task, against PyTorch."""

    engine: str
    """`onnxruntime:<graph file>` or the engine's file."""
    task: Task
    shape: str
    """Shape class: `one short`, `one long`, `odd batch`, `padded rows`, ..."""
    texts: int
    worst_cosine: float | None = None
    worst_difference: float | None = None
    """Largest absolute difference of a score, probability or logit."""
    mean_cosine: float | None = None
    """Of the texts; as `mean_difference` absent from artifacts of earlier exports."""
    mean_difference: float | None = None
    """Mean over the texts of each one's largest difference."""
    rank_agreement: float | None = None
    """Share of neighbouring pairs that are in the same order, for heads that rank."""
    tolerance: float
    """The bound that was enforced: a cosine for embeddings, a difference for scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement(Descriptive):
    """One comparison of the checkpoint's own library with poolrt's reading of it, within its tolerance."""

    what: str
    """`token ids`, `hidden states`, or a task."""
    texts: int
    worst_cosine: float | None = None
    """The least cosine of any vector, or of any token's vector."""
    worst_difference: float | None = None
    tolerance: float | None = None
    """The bound that was enforced: a cosine for vectors, a difference for logits; None: equality."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading(Descriptive):
    """How the checkpoint's own library compares with poolrt: our PyTorch module beside code that is not
    ours."""

    reference: str
    """`sentence-transformers 6.2.0 SentenceTransformer`, `transformers 5.24.0
    BertModel`, or `own reading only`."""
    why: str = ""
    """What could not be compared with the library, and why."""
    twin: bool = False
    """Compared on a shrunken twin (the same files with fewer and narrower layers and random weights), because
    the checkpoint is too large to be loaded twice."""
    agreements: tuple[Agreement, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file of the artifact's folder."""

    size: int
    """In bytes."""
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    format: int
    name: str
    architecture: str
    """The class name of the published checkpoint, in vLLM's spelling (`BertModel`, `HF_ColBERT`, ...)."""
    source: Source
    tasks: tuple[Task, ...]
    """In order of preference; the first is the default."""
    scoring: Scoring | None
    text: TextPreparation
    images: Images | None = None
    """None: the model reads text only."""
    graphs: tuple[Graph, ...]
    """A role may have several graphs in different precisions. ONNX Runtime runs the first of them by
    default."""
    heads: dict[str, Head]
    """Task -> head."""
    engines: tuple[Engine, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    reading: Reading | None = None
    """The comparison with the checkpoint's own library at export; None: of a poolrt that did not compare
    yet."""
    chunked: bool = False
    """enable_chunked_processing: texts beyond max_tokens are embedded in pieces."""
    max_embed_tokens: int | None = None
    """max_embed_len of the pooler config."""
    config: dict[str, object] = field(default_factory=dict)
    """The few config.json keys that serving shows (`model_type`, `num_labels`, ...)."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of the libraries that exported the artifact."""
    created: str = ""
    """UTC time, ISO 8601."""
    files: dict[str, File] = field(default_factory=dict)
    digest: str = ""
    """sha256 of manifest.json itself, computed with 64 zeros in this place. `runtime/artifact/reading.py`
    writes and checks it."""

    def graph(self, role: GraphRole, precision: Precision | None = None) -> Graph:
        """The graph of a role, in `precision` or else the first. Raises ArtifactError where there is none."""
        for graph in self.graphs:
            if graph.role == role and precision in (None, graph.precision):
                return graph
        known = ", ".join(f"{graph.role} {graph.precision} ({graph.file})" for graph in self.graphs) or "none"
        wanted = f"{role} graph" if precision is None else f"{role} graph in {precision}"
        raise ArtifactError(f"{self.name}: no {wanted}; it has {known}; export it again")

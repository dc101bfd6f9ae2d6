"""How the numbers of a checkpoint become those of its twin: settings of config.json and axes of tensors."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from .pictures import twin_tower
from .pictures.twin_tower import Tower

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint

HEAD_WIDTH = 16
MOST_EXPERTS = 4
WINDOW = 24
"""Far narrower than the texts of a comparison."""
# Names of one number in config.json, by family.
WIDTH = ("hidden_size", "n_embd", "d_model", "dim")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
KEY_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_head_kv")
HEAD = ("head_dim", "d_kv", "attention_head_size")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers")
INNER = (
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "d_ff",
    "hidden_dim",
    "encoder_ffn_dim",
    "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "block_ff_dim",
)
WIDTHS = (
    "embedding_size",
    "word_embed_proj_dim",
    "conv_dim",
    "conv_dim_out",
    "block_dim",
    "hidden_size_per_layer_input",
    "embedding_dim",
)
HEAD_WIDTHS = (
    "global_head_dim",
    "qk_rope_head_dim",
    "qk_nope_head_dim",
    "qk_head_dim",
    "v_head_dim",
    "rotary_dim",
)
RANKS = ("q_lora_rank", "kv_lora_rank")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
EXPERTS_USED = ("num_experts_per_tok", "moe_top_k", "num_experts_per_token")
WINDOWS = ("sliding_window", "local_attention")
PERIODS = (
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "full_attention_interval",
    "moe_every_n_layers",
    "global_attn_every_n_layers",
)
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")
LINEAR = ".linear_attn."
MULTIPLES = (1, 2, 3, 4)
SECTIONS = "mrope_section"
OUTER, TEXT = ("vlm_config",), ("text_config", "llm_config")
"""Keys of config.json under which models that read pictures have their own settings, and those of their text
model."""
WHOLE_WIDTHS = (*WIDTH, *WIDTHS, "projection_dim", "embed_dim", "dims", "image_dim_out")
"""Widths beside those of the text model."""
CUTS = ("matryoshka_dimensions", "matryoshka_dims", "truncate_dim")
"""Widths that vectors of the original are cut to, which the twin's are narrower than."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How numbers of the checkpoint become the twin's."""

    config: dict[str, Any]
    """config.json of the twin."""
    layers: int
    tower: Tower | None
    experts: int | None
    sizes: dict[int, int]
    """Axis of a tensor -> axis in the twin; what is not here stays."""
    heads: tuple[int, int]

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = (
            {0}
            if re.search(
                r"position|pos_embed|wpe|rel_embeddings|token_type|task_type|lora_A|lora_embedding_A", name
            )
            else set()
        )
        kept |= {1} if re.search(r"lora_B|lora_embedding_B", name) else set()
        kept |= {*range(1, len(shape))} if twin_tower.PATCH.search(name) else set()
        if LINEAR in name:  # of a gated delta net only the width of the model shrinks
            kept |= {*range(len(shape))} - (
                {1} if ".in_proj" in name else {0} if ".out_proj" in name else set()
            )
        if "relative_attention_bias" in name:
            return tuple(
                self.heads[1] if size == self.heads[0] and axis else size for axis, size in enumerate(shape)
            )
        # An embedding's rows and an output's are the vocabulary, which may have the size of something else.
        if (
            len(shape) == 2
            and shape[0] == self.config_vocabulary
            and re.search(r"embed|wte|lm_head|decoder|vocab|shared", name)
        ):
            kept = {0}
        return tuple(size if axis in kept else self.sizes.get(size, size) for axis, size in enumerate(shape))

    @property
    def config_vocabulary(self) -> int | None:
        *_, text = _nested(self.config)
        return text.get("vocab_size") or self.config.get("vocab_size")

    def has(self, name: str) -> bool:
        """Whether the twin has this tensor: of the first layers and experts."""
        layer, expert = LAYER.search(name), EXPERT.search(name)
        pictured = self.tower is not None and twin_tower.NAME.search(name) is not None
        layers = self.tower.kept if self.tower is not None and pictured else self.layers
        return (layer is None or int(layer[1]) < layers) and (
            expert is None or int(expert[1]) < (self.experts or 0)
        )


def scaled(checkpoint: Checkpoint, raw: Mapping[str, Any]) -> Scale:
    """Divides all widths by one number, so that equal ones stay equal, and multiples and sums stay what they
    are.

    Raises CheckpointError where config.json names no sizes, or no number divides them.
    """
    *places, inner = _nested(raw)
    facts = {**checkpoint.config, **inner}
    facts.pop(twin_tower.PART, None)
    tower = twin_tower.tower(checkpoint)
    width, heads = (
        _first(checkpoint, facts, WIDTH, "width"),
        _first(checkpoint, facts, HEADS, "number of heads"),
    )
    keys = next((facts[name] for name in KEY_HEADS if isinstance(facts.get(name), int)), heads)
    head = next((facts[name] for name in HEAD if isinstance(facts.get(name), int)), width // heads)
    layers = _first(checkpoint, facts, LAYERS, "number of layers")
    narrower, fewer = _divisors(checkpoint, (width, heads, keys, head), _sections(facts), tower)
    by = narrower * fewer
    experts = next(
        (facts[name] for name in EXPERTS if isinstance(facts.get(name), int) and facts[name] > 0), None
    )
    some = None if experts is None else min(experts, MOST_EXPERTS)
    sizes: dict[int, int] = {}
    inners = {
        facts[name]
        for name in (*INNER, *WIDTHS, *RANKS)
        if isinstance(facts.get(name), int) and facts[name] > 1
    }
    for size in (*inners, width, heads * head, keys * head, (heads + 2 * keys) * head):
        for multiple in MULTIPLES:
            sizes[multiple * size] = multiple * max(1, -(-size // by))
    if experts is not None and some is not None:
        sizes |= {experts * size: some * max(1, -(-size // by)) for size in inners}
    sizes[head] = sizes.get(head, head // narrower) if head in (width, keys * head) else head // narrower
    for other in _head_widths(facts):
        for count in {1, heads, keys, facts.get("num_global_key_value_heads") or 1}:
            new = count // fewer if count % fewer == 0 and count > 1 else count
            sizes.setdefault(count * other, new * (other // narrower))
    if experts is not None and some is not None:
        sizes.setdefault(experts, some)
    count = _fewest_layers(facts, layers)
    rules = _Rules(narrower, fewer, by, layers, count, some)
    if tower is not None:
        sizes = tower.sizes(by) | sizes
    config = rules.config(inner)
    for outer, key in reversed(places):
        config = {
            name: sizes.get(value, value) if name in WHOLE_WIDTHS and isinstance(value, int) else value
            for name, value in outer.items()
            if name not in CUTS
        } | {key: config}
        config = _with_tower(config, tower, by, sizes)
    if not places:
        config = _with_tower(config, tower, by, sizes)
    return Scale(
        config=config, layers=count, tower=tower, experts=some, sizes=sizes, heads=(heads, heads // fewer)
    )


def _nested(raw: Mapping[str, Any]) -> tuple[Any, ...]:
    """The settings around those of the text model, each with the key that leads inwards, and the text
    model's."""
    places: list[tuple[Mapping[str, Any], str]] = []
    for names in (OUTER, TEXT):
        key = next((name for name in names if isinstance(raw.get(name), Mapping)), None)
        if key is not None:
            places.append((raw, key))
            raw = raw[key]
    return (*places, raw)


def _with_tower(
    config: dict[str, Any], tower: Tower | None, by: int, sizes: Mapping[int, int]
) -> dict[str, Any]:
    old = config.get(twin_tower.PART)
    if tower is None or not isinstance(old, Mapping):
        return config
    return config | {twin_tower.PART: tower.config(old, by, sizes)}


def _sections(facts: Mapping[str, Any]) -> list[int]:
    """Of a head's pairs, those of time, height and width."""
    known = (facts.get(name) for name in ("rope_scaling", "rope_parameters"))
    return [part for value in known if isinstance(value, Mapping) for part in value.get(SECTIONS) or ()]


def _divisors(
    checkpoint: Checkpoint, sizes: tuple[int, int, int, int], sections: list[int], tower: Tower | None
) -> tuple[int, int]:
    """By what the width of a head and the number of heads are divided.

    `sizes`: width, heads, key heads, width of a head. Raises CheckpointError where nothing divides them.
    """
    width, heads, keys, head = sizes
    narrowest = head // HEAD_WIDTH if head % HEAD_WIDTH == 0 else 1
    narrower = [narrowest]
    if tower is not None or sections:
        narrower = [
            by
            for by in range(narrowest, 0, -1)
            if head % by == 0 and all(part % by == 0 for part in sections)
        ]
    pairs = [
        (by, fewer)
        for by in narrower
        for fewer in range(1, heads + 1)
        if math.gcd(heads, keys) % fewer == 0
        and heads // fewer >= min(2, heads)
        and width % (by * fewer) == 0
    ]
    if tower is not None:
        pairs = [pair for pair in pairs if tower.fewer(pair[0] * pair[1]) is not None]
    if not pairs:
        raise CheckpointError(
            f"{checkpoint.source}: no twin: a width of {width} and heads of {head} have no common divisor"
        )
    return max(pairs, key=lambda pair: (pair[0] * pair[1], pair[0]))


def _head_widths(facts: Mapping[str, Any]) -> set[int]:
    """Every width of a head in config.json, at any depth."""
    widths = {
        value for name, value in facts.items() if name in (*HEAD, *HEAD_WIDTHS) and isinstance(value, int)
    }
    return widths.union(*(_head_widths(value) for value in facts.values() if isinstance(value, Mapping)))


def _first(checkpoint: Checkpoint, facts: Mapping[str, Any], names: tuple[str, ...], what: str) -> int:
    number = next((facts[name] for name in names if isinstance(facts.get(name), int)), None)
    if number is None:
        raise CheckpointError(f"{checkpoint.source}: no twin: config.json has no {what} ({', '.join(names)})")
    return int(number)


def _fewest_layers(facts: Mapping[str, Any], layers: int) -> int:
    """Enough that every kind of layer is there."""
    wanted = 2
    for name in PERIODS:
        period = facts.get(name)
        wanted = max(wanted, period + 1 if isinstance(period, int) and not isinstance(period, bool) else 0)
    types = facts.get("layer_types") or []
    wanted = max([wanted, *(types.index(kind) + 1 for kind in set(types))])
    for places in (
        facts.get("full_attn_idxs") or [],
        [facts["first_k_dense_replace"]] if facts.get("first_k_dense_replace") else [],
    ):
        wanted = max(wanted, places[0] + 1) if places else wanted
    return min(wanted, layers)


@dataclass(frozen=True, slots=True)
class _Rules:
    narrower: int
    fewer: int
    by: int
    layers: int
    kept: int
    experts: int | None

    def config(self, old: Mapping[str, Any]) -> dict[str, Any]:
        new: dict[str, Any] = {}
        for key, value in old.items():
            if key == twin_tower.PART:
                new[key] = value
            elif isinstance(value, bool) or not isinstance(value, int):
                new[key] = self._list(key, value)
            elif key in WIDTH or key in INNER or key in WIDTHS or key in RANKS:
                new[key] = max(1, -(-value // self.by)) if value > 1 else value
            elif key in HEADS or key in KEY_HEADS or key == "num_global_key_value_heads":
                new[key] = value // self.fewer if value % self.fewer == 0 else value
            elif key in HEAD or key in HEAD_WIDTHS:
                new[key] = value // self.narrower
            elif key in LAYERS:
                new[key] = self.kept
            elif key in EXPERTS:
                new[key] = min(value, MOST_EXPERTS)
            elif key in EXPERTS_USED:
                new[key] = min(value, 2)
            elif key in WINDOWS:
                new[key] = min(value, WINDOW)
            elif key == "max_window_layers":
                new[key] = min(value, self.kept)
            else:
                new[key] = value
        return {key: value for key, value in new.items() if key not in CUTS}

    def _list(self, key: str, value: Any) -> Any:
        if key == SECTIONS and isinstance(value, list):
            return [part // self.narrower for part in value]
        if isinstance(value, list) and len(value) == self.layers:
            return value[: self.kept]
        if key == "full_attn_idxs" and value:
            return [place for place in value if place < self.kept]
        if isinstance(value, Mapping) and any(name in value for name in ("short_factor", "long_factor")):
            # One factor for each pair of a head's numbers.
            return {
                name: factors[: len(factors) // self.narrower] if isinstance(factors, list) else factors
                for name, factors in value.items()
            }
        return self.config(value) if isinstance(value, Mapping) else value

"""A shrunken twin of a checkpoint: the same files with fewer and narrower layers and random weights.

What both readers make of the twin proves the reading of the checkpoint that it was made of: the same
config.json keys, the same tensor names, the same tokenizer and modules. It is written where a checkpoint is
too large to be loaded twice, and it is the cheapest test of a recipe or a new family, as only headers and
JSON of the original are read.

    folder = twin.write(checkpoint.read("Qwen/Qwen3-Embedding-8B"), place)
    library_reference.compare(folder)
"""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from ..files import weights

if TYPE_CHECKING:
    import torch

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
    "intermediate_size", "n_inner", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim", "ffn_hidden_size",
    "moe_intermediate_size",
    "shared_expert_intermediate_size", "block_ff_dim",
)  # fmt: skip
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
    "sliding_window_pattern", "_sliding_window_pattern", "full_attention_interval", "moe_every_n_layers",
    "global_attn_every_n_layers",
)  # fmt: skip
LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)\.")
EXPERT = re.compile(r"\.experts\.(\d+)\.")
MULTIPLES = (1, 2, 3, 4)
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf", ".onnx", ".h5", ".msgpack")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How numbers of the checkpoint become the twin's."""

    config: dict[str, Any]
    """config.json of the twin."""
    layers: int
    experts: int | None
    sizes: dict[int, int]
    """Axis of a tensor -> axis in the twin; what is not here stays."""
    heads: tuple[int, int]

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = (
            {0}
            if re.search(r"position|wpe|rel_embeddings|token_type|task_type|lora_A|lora_embedding_A", name)
            else set()
        )
        kept |= {1} if re.search(r"lora_B|lora_embedding_B", name) else set()
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
        return self.config.get("vocab_size") or (self.config.get("text_config") or {}).get("vocab_size")

    def has(self, name: str) -> bool:
        """Whether the twin has this tensor: of the first layers and experts."""
        layer, expert = LAYER.search(name), EXPERT.search(name)
        return (layer is None or int(layer[1]) < self.layers) and (
            expert is None or int(expert[1]) < (self.experts or 0)
        )


def write(checkpoint: Checkpoint, folder: Path) -> Path:
    """Writes the twin into `folder` (which may exist) and returns it. Raises CheckpointError where
    config.json names no sizes."""
    raw = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    scale = scaled(checkpoint, raw)
    folder.mkdir(parents=True, exist_ok=True)
    for path in _small_files(checkpoint.folder):
        place = folder / path.relative_to(checkpoint.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
        if place.name == "config.json" and place.parent != folder:
            _module_config(place, scale)
    (folder / "config.json").write_text(json.dumps(scale.config, indent=2), encoding="utf-8")
    base = getattr(checkpoint.weights, "base", None)
    opened = checkpoint.weights if base is None else base
    _weights(
        opened, scale, folder / "model.safetensors", tied=bool(scale.config.get("tie_word_embeddings", False))
    )
    inside = [path for pattern in ("*/*", "*/*/*") for path in checkpoint.folder.glob(pattern)]
    for place in sorted({path.parent for path in inside if path.name in weights.SINGLES}):
        _weights(
            weights.open_folder(place),
            scale,
            folder / place.relative_to(checkpoint.folder) / "model.safetensors",
        )
    for path in (path for path in inside if path.name == "adapter_model.safetensors"):
        _weights(weights.open_files([path]), scale, folder / path.relative_to(checkpoint.folder))
    for path in checkpoint.folder.glob("*.pt"):
        _pickled(path, scale, folder / path.name)
    return folder


def scaled(checkpoint: Checkpoint, raw: Mapping[str, Any]) -> Scale:
    """All widths are divided by one number, so that what was equal, a multiple or
    a sum of others stays so."""
    text = raw.get("text_config")
    inner = dict(text) if isinstance(text, Mapping) else dict(raw)
    facts = {**checkpoint.config, **inner}
    width, heads = (
        _first(checkpoint, facts, WIDTH, "width"),
        _first(checkpoint, facts, HEADS, "number of heads"),
    )
    keys = next((facts[name] for name in KEY_HEADS if isinstance(facts.get(name), int)), heads)
    head = next((facts[name] for name in HEAD if isinstance(facts.get(name), int)), width // heads)
    layers = _first(checkpoint, facts, LAYERS, "number of layers")
    narrower = head // HEAD_WIDTH if head % HEAD_WIDTH == 0 else 1
    fewer = max(
        n
        for n in range(1, heads + 1)
        if math.gcd(heads, keys) % n == 0 and heads // n >= min(2, heads) and width % (narrower * n) == 0
    )
    by = narrower * fewer
    if width % by:
        raise CheckpointError(
            f"{checkpoint.source}: no twin: a width of {width} and heads of {head} have no common divisor"
        )
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
    config = {**raw, "text_config": rules.config(inner)} if isinstance(text, Mapping) else rules.config(inner)
    return Scale(config=config, layers=count, experts=some, sizes=sizes, heads=(heads, heads // fewer))


def _head_widths(facts: Mapping[str, Any]) -> set[int]:
    """Widths of other heads than the usual, wherever config.json says them."""
    found = {
        value for name, value in facts.items() if name in (*HEAD, *HEAD_WIDTHS) and isinstance(value, int)
    }
    return found.union(*(_head_widths(value) for value in facts.values() if isinstance(value, Mapping)))


def _first(checkpoint: Checkpoint, facts: Mapping[str, Any], names: tuple[str, ...], what: str) -> int:
    found = next((facts[name] for name in names if isinstance(facts.get(name), int)), None)
    if found is None:
        raise CheckpointError(f"{checkpoint.source}: no twin: config.json has no {what} ({', '.join(names)})")
    return int(found)


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
            if isinstance(value, bool) or not isinstance(value, int):
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
        new.pop("matryoshka_dimensions", None)  # widths of the original
        return new

    def _list(self, key: str, value: Any) -> Any:
        if isinstance(value, list) and len(value) == self.layers:
            return value[: self.kept]
        if key == "full_attn_idxs" and value:
            return [place for place in value if place < self.kept]
        if isinstance(value, Mapping) and any(name in value for name in ("short_factor", "long_factor")):
            # One factor for each pair of a head's numbers.
            return {
                name: one[: len(one) // self.narrower] if isinstance(one, list) else one
                for name, one in value.items()
            }
        return self.config(value) if isinstance(value, Mapping) else value


def _small_files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden and not path.name.endswith((*WEIGHTS, ".index.json")):
            yield path


def _module_config(path: Path, scale: Scale) -> None:
    found = json.loads(path.read_text(encoding="utf-8"))
    keys = ("in_features", "out_features", "dimension", "word_embedding_dimension", "embedding_dimension")
    path.write_text(
        json.dumps(
            {k: scale.sizes.get(v, v) if k in keys and isinstance(v, int) else v for k, v in found.items()}
        ),
        encoding="utf-8",
    )


def _weights(opened: weights.Weights, scale: Scale, path: Path, *, tied: bool = False) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    for name, shape in opened.shapes.items():
        stored = opened.places[name][1]
        if scale.has(stored):
            tensors[stored] = _random(name, scale.shape(name, shape), seed=len(tensors))
    table = next(
        (
            name
            for name in tensors
            if name.endswith(("embed_tokens.weight", "wte.weight", "word_embeddings.weight"))
        ),
        None,
    )
    for name in tensors if tied and table is not None else ():
        if (
            name.endswith(("lm_head.weight", "predictions.decoder.weight"))
            and tensors[name].shape == tensors[table or ""].shape
        ):
            tensors[name] = tensors[table or ""].clone()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})


def _pickled(path: Path, scale: Scale, place: Path) -> None:
    import torch

    found = torch.load(path, map_location="cpu", weights_only=True)
    torch.save(
        {
            name: _random(name, scale.shape(name, tuple(tensor.shape)), seed=index)
            for index, (name, tensor) in enumerate(found.items())
        },
        place,
    )


def _random(name: str, shape: tuple[int, ...], *, seed: int) -> torch.Tensor:
    """Of a size that makes each count: rows of a product keep their length, norms are near
    one, biases are not zero."""
    import torch

    if name.endswith("position_ids"):
        return torch.arange(shape[-1]).expand(shape).contiguous()
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1))
    if len(shape) > 1:
        table = re.search(r"embed|wte|wpe|shared", name) is not None
        return noise * (0.5 if table else 1.2 / math.prod(shape[1:]) ** 0.5)
    return 1.0 + 0.3 * noise if name.endswith("weight") else 0.2 * noise

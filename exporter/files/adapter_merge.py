"""LoRA adapters merged into the weights they adapt: W + scale · B·A, exact in float32, so that nothing of
an adapter is left to run.

Everything that reads a checkpoint's tensors reads them through `Weights`; merged ones are `Weights` too,
and nothing else differs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...runtime.errors import CheckpointError
from .adapter import WRAPPED, Factors, LoraAdapter
from .weights import Change, Weights

if TYPE_CHECKING:
    import torch


MOST_NAMES = 12
TURNED = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer")
"""model_type of the families whose layers are transformers' Conv1D, which stores [in, out]."""


def added(weight: torch.Tensor, first: torch.Tensor, second: torch.Tensor, scale: float) -> torch.Tensor:
    """W [out, in] + scale · B [out, rank] · A [rank, in] in float32; `first` is A, `second` is B."""
    return weight.float() + scale * (second.float() @ first.float())


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """W [out, in] -> W + scale · B·A; with a magnitude (DoRA) each row of that is brought to its length."""

    weights: Weights
    first: str
    """A [rank, in]"""
    second: str
    """B [out, rank]"""
    magnitude: str | None
    """[out]"""
    scale: float
    turned: bool
    """The weight is stored as [in, out]."""

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        first, second = self.weights.read(self.first), self.weights.read(self.second)
        merged = added(base.T if self.turned else base, first, second, self.scale)
        if self.magnitude is not None:
            merged = merged * (self.weights.read(self.magnitude).float() / merged.norm(dim=1))[:, None]
        return merged.T.contiguous() if self.turned else merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """lora_bias: a bias of B, which the layer's own takes up."""

    weights: Weights
    name: str
    scale: float

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        return base + self.scale * self.weights.read(self.name).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """trainable_token_indices: rows of a table [vocabulary, hidden] that were trained,
    in the place of its own."""

    weights: Weights
    name: str
    """[len(ids), hidden]"""
    ids: tuple[int, ...]

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        changed = base.clone()
        changed[list(self.ids)] = self.weights.read(self.name).float()
        return changed


@dataclass(frozen=True, slots=True)
class Replacement:
    weights: Weights
    name: str

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        return self.weights.read(self.name).float()


@dataclass(frozen=True, slots=True)
class Chain:
    """All that happens to one tensor. Raises CheckpointError for numbers that are none."""

    name: str
    steps: tuple[Change, ...]

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        for step in self.steps:
            base = step(base)
        if not bool(base.isfinite().all()):
            raise CheckpointError(
                f"with the adapter, {self.name} holds numbers that are not finite; train the adapter "
                "again, or download it again"
            )
        return base


@dataclass(frozen=True, slots=True)
class Merged(Weights):
    """`places` and `shapes` already hold the adapter's whole tensors; `changes` are
    applied to what is read."""

    base: Weights | None = None
    brought: frozenset[str] = frozenset()
    """Names whose tensor is the adapter's own."""
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)

    def read(self, name: str) -> torch.Tensor:
        return self._changed(name, Weights.read(self, name))

    def rows(self, name: str, wanted: Any) -> torch.Tensor:
        return self.read(name)[list(wanted)] if name in self.changes else Weights.rows(self, name, wanted)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: self._changed(name, tensor) for name, tensor in Weights.state(self).items()}

    def unmerged(self) -> tuple[dict[str, torch.Tensor], dict[str, Change]]:
        assert self.base is not None
        waiting: dict[str, Change] = {}
        for name in self.base:
            # Whole tensors too: they may be stored in another type than the checkpoint's.
            whole = (Replacement(self, name),) if name in self.brought else ()
            if chain := whole or self.changes.get(name):
                waiting[name] = Chain(name, chain)
        return self.base.state(), waiting

    def _changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in self.changes and name not in self.brought:
            return tensor
        return Chain(name, self.changes.get(name, ()))(tensor.float())


def merged(
    source: str, base: Weights, adapter: LoraAdapter, prefixes: Iterable[str], *, turned: bool = False
) -> Merged:
    """The checkpoint's tensors with the adapter in them. Raises CheckpointError naming every tensor that has
    no place or does not fit.

    `turned`: the backbone's layers store [in, out]. PEFT too goes by the layer, whatever fan_in_fan_out says.
    """
    prefixes = tuple(prefixes)
    shapes, places = dict(base.shapes), dict(base.places)
    brought: set[str] = set()
    changes: dict[str, tuple[Change, ...]] = {}
    problems: list[str] = []
    unwrapped = _unwrapping(base, adapter, prefixes)
    for name, stored in adapter.whole.items():
        bare = unwrapped(name)
        home, shape = _home(base, bare, prefixes), adapter.weights.shapes[stored]
        if home is None and not adapter.saves(name):
            problems.append(f"{name} has no place in the checkpoint")
        elif (
            home is not None
            and shape != base.shapes[home]
            and (not adapter.saves(name) or _inside(base, home, prefixes))
        ):
            problems.append(f"{name} has shape {list(shape)}, {home} has {list(base.shapes[home])}")
        else:
            shapes[home or bare], places[home or bare] = shape, adapter.weights.places[stored]
            brought.add(home or bare)
    for module, factors in adapter.factors.items():
        bare = unwrapped(module)
        home = _home(base, f"{bare}.weight", prefixes)
        found = (
            [f"{module}.weight has no place in the checkpoint"]
            if home is None
            else _unfit(adapter, module, factors, shapes[home], turned)
        )
        shifted = None if factors.bias is None else _home(base, f"{bare}.bias", prefixes)
        if factors.bias is not None and shifted is None:
            found.append(f"{module} has no bias that lora_bias could be added to")
        problems += found
        if found or home is None or factors.first is None or factors.second is None:
            continue
        scale = adapter.scale(module)
        product = Product(
            weights=adapter.weights, first=factors.first, second=factors.second, magnitude=factors.magnitude,
            scale=scale,
            turned=_turned(module, factors, turned),
        )  # fmt: skip
        changes[home] = (*changes.get(home, ()), product)
        if factors.bias is not None and shifted is not None:
            changes[shifted] = (Shift(weights=adapter.weights, name=factors.bias, scale=scale),)
    for module, stored in adapter.tokens.items():
        home, ids = _home(base, f"{unwrapped(module)}.weight", prefixes), adapter.token_ids(module)
        if home is None:
            problems.append(f"{module}.weight has no place in the checkpoint")
        elif (
            adapter.weights.shapes[stored] != (len(ids), *shapes[home][1:])
            or max(ids, default=0) >= shapes[home][0]
        ):
            problems.append(
                f"{stored} has shape {list(adapter.weights.shapes[stored])}, expected {len(ids)} rows "
                f"(trainable_token_indices) of {home}, "
                f"which has {list(shapes[home])}"
            )
        else:
            changes[home] = (*changes.get(home, ()), Rows(weights=adapter.weights, name=stored, ids=ids))
    if not changes and not adapter.whole and not problems:
        problems.append("it holds no tensors")
    if problems:
        more = f" and {len(problems) - MOST_NAMES} more" if len(problems) > MOST_NAMES else ""
        trained = adapter.settings.get("base_model_name_or_path")
        raise CheckpointError(
            f"{source}: the adapter {adapter.name} does not fit: {'; '.join(problems[:MOST_NAMES])}{more}; "
            f"it was trained on {trained or 'a checkpoint that it does not name'}"
        )
    pickled = {**base._pickled, **adapter.weights._pickled}
    return Merged(
        (*base.files, *adapter.weights.files), shapes, places, pickled, base, frozenset(brought), changes
    )


def _unwrapping(base: Weights, adapter: LoraAdapter, prefixes: tuple[str, ...]) -> Callable[[str], str]:
    """Removes what a wrapper around the transformers model put before its names, unless they are the
    checkpoint's own as they stand."""
    names = [*(f"{module}.weight" for module in (*adapter.factors, *adapter.tokens)), *adapter.whole]
    wrapped = [name for name in names if WRAPPED.match(name)]
    if len(wrapped) < len(names) or any(_home(base, name, prefixes) for name in names):
        return lambda name: name
    return lambda name: WRAPPED.sub("", name, count=1)


def _home(base: Weights, name: str, prefixes: tuple[str, ...]) -> str | None:
    """A model with a head puts a prefix before the backbone's names; checkpoint and adapter
    may differ in having it."""
    bare = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
    # The output bias of masked language models has two names in transformers, one of which is stored.
    other = re.sub(r"\.decoder\.bias$", ".bias", name)
    return (
        base.find(name, prefixes)
        or base.find(bare)
        or (base.find(other, prefixes) if other != name else None)
    )


def _inside(base: Weights, name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a tensor is the backbone's: all are where none carries its prefix."""
    return name.startswith(prefixes) or not any(other.startswith(prefixes) for other in base)


def _turned(module: str, factors: Factors, turned: bool) -> bool:
    """Whether a weight is stored as [in, out]: a table's, or one of a family whose layers are; a classifier
    is a plain layer there too."""
    return factors.table or (turned and module.rpartition(".")[2] not in ("score", "classifier", "lm_head"))


def _unfit(
    adapter: LoraAdapter, module: str, factors: Factors, shape: tuple[int, ...], turned: bool
) -> list[str]:
    if factors.first is None or factors.second is None:
        return [f"{module} has only one of lora_A and lora_B"]
    rows, columns = (
        reversed(shape) if len(shape) == 2 and _turned(module, factors, turned) else (*shape, 0)[:2]
    )
    rank = adapter.rank(module)
    expected = {
        factors.first: (rank, columns),
        factors.second: (rows, rank),
        factors.bias: (rows,),
        factors.magnitude: (rows,),
    }
    if bool(adapter.settings.get("use_dora")) != (factors.magnitude is not None):
        return [f"{module}: use_dora and lora_magnitude_vector do not go together"]
    shapes = adapter.weights.shapes
    return [
        f"{name} has shape {list(shapes[name])}, expected {list(wanted)}"
        for name, wanted in expected.items()
        if name is not None and (shapes[name] != wanted or len(shape) != 2)
    ]

"""Merges LoRA adapters into the weights they adapt: W + scale · B·A in float32, so that the exported model
runs no adapter.

Everything that reads a checkpoint's tensors reads them through `Weights`. `Merged` weights are `Weights` too,
so their readers need to know nothing about adapters.
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
"""Values of model_type whose layers are transformers' Conv1D, which stores [in, out]."""


def added(weight: torch.Tensor, first: torch.Tensor, second: torch.Tensor, scale: float) -> torch.Tensor:
    """W [out, in] + scale · B·A in float32. `first` is A [rank, in], `second` is B [out, rank]."""
    return weight.float() + scale * (second.float() @ first.float())


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """W [out, in] -> W + scale · B·A. With a magnitude (DoRA), each row of that is scaled to its length."""

    weights: Weights
    first: str
    """A [rank, in]"""
    second: str
    """B [out, rank]"""
    magnitude: str | None
    """Lengths of rows, [out]; None: rows keep theirs."""
    scale: float
    turned: bool
    """Whether the weight is stored as [in, out]."""

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        first, second = self.weights.read(self.first), self.weights.read(self.second)
        merged = added(base.T if self.turned else base, first, second, self.scale)
        if self.magnitude is not None:
            merged = merged * (self.weights.read(self.magnitude).float() / merged.norm(dim=1))[:, None]
        return merged.T.contiguous() if self.turned else merged


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """lora_bias: adds the bias of B to the layer's own, [out]."""

    weights: Weights
    name: str
    scale: float

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        return base + self.scale * self.weights.read(self.name).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """trainable_token_indices: replaces some rows of a table [vocabulary, hidden] by trained ones."""

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
    """modules_to_save and biases: the adapter's tensor replaces the checkpoint's."""

    weights: Weights
    name: str

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        return self.weights.read(self.name).float()


@dataclass(frozen=True, slots=True)
class Chain:
    """All changes of one tensor, in order. Raises CheckpointError when the result is not finite."""

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
    """A checkpoint's weights with an adapter in them.

    `places` and `shapes` already hold the adapter's whole tensors.
    """

    base: Weights | None = None
    """The checkpoint's own."""
    brought: frozenset[str] = frozenset()
    """Names whose tensor is the adapter's own."""
    changes: Mapping[str, tuple[Change, ...]] = field(default_factory=dict)
    """Name -> changes that are applied when the tensor is read."""

    def read(self, name: str) -> torch.Tensor:
        return self._changed(name, Weights.read(self, name))

    def rows(self, name: str, wanted: Any) -> torch.Tensor:
        return self.read(name)[list(wanted)] if name in self.changes else Weights.rows(self, name, wanted)

    def state(self) -> dict[str, torch.Tensor]:
        return {name: self._changed(name, tensor) for name, tensor in Weights.state(self).items()}

    def unmerged(self) -> tuple[dict[str, torch.Tensor], dict[str, Change]]:
        assert self.base is not None
        changes: dict[str, Change] = {}
        for name in self.base:
            # A whole tensor may be stored in another type than the checkpoint's, so it is a change as well.
            replacement = (Replacement(self, name),) if name in self.brought else ()
            if steps := replacement or self.changes.get(name):
                changes[name] = Chain(name, steps)
        return self.base.state(), changes

    def _changed(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in self.changes and name not in self.brought:
            return tensor
        return Chain(name, self.changes.get(name, ()))(tensor.float())


def merged(
    source: str,
    base: Weights,
    adapter: LoraAdapter,
    prefixes: Iterable[str],
    *,
    turned: bool = False,
    spelled: Callable[[str], str] | None = None,
) -> Merged:
    """The checkpoint's tensors with the adapter in them. `source` names the checkpoint in messages.

    `turned`: the backbone's layers store [in, out]. PEFT too decides that by the layer's class, not by
    fan_in_fan_out. `spelled`: as in the family's record.

    Raises CheckpointError that names the tensors without a place and those that do not fit.
    """
    prefixes = tuple(prefixes)
    shapes, places = dict(base.shapes), dict(base.places)
    brought: set[str] = set()
    changes: dict[str, tuple[Change, ...]] = {}
    problems: list[str] = []
    unwrapped = _respelling(base, _unwrapping(base, adapter, prefixes), spelled)
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
        misfits = (
            [f"{module}.weight has no place in the checkpoint"]
            if home is None
            else _misfits(adapter, module, factors, shapes[home], turned)
        )
        shifted = None if factors.bias is None else _home(base, f"{bare}.bias", prefixes)
        if factors.bias is not None and shifted is None:
            misfits.append(f"{module} has no bias that lora_bias could be added to")
        problems += misfits
        if misfits or home is None or factors.first is None or factors.second is None:
            continue
        scale = adapter.scale(module)
        product = Product(
            weights=adapter.weights,
            first=factors.first,
            second=factors.second,
            magnitude=factors.magnitude,
            scale=scale,
            turned=_turned(module, factors, turned),
        )
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
                f"(trainable_token_indices) of {home}, which has {list(shapes[home])}"
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
    """A function that removes a wrapper's prefix from the adapter's names. Where one of them is the
    checkpoint's own name already, it removes nothing."""
    names = [*(f"{module}.weight" for module in (*adapter.factors, *adapter.tokens)), *adapter.whole]
    wrapped = [name for name in names if WRAPPED.match(name)]
    if len(wrapped) < len(names) or any(_home(base, name, prefixes) for name in names):
        return lambda name: name
    return lambda name: WRAPPED.sub("", name, count=1)


def _respelling(
    base: Weights, unwrapped: Callable[[str], str], spelled: Callable[[str], str] | None
) -> Callable[[str], str]:
    """`unwrapped`, whose results are the checkpoint's names of the same modules and tensors."""
    if spelled is None:
        return unwrapped
    known: dict[str, str] = {}
    for stored in base:
        module = stored.rpartition(".")[0]
        known |= {spelled(stored): stored, spelled(f"{module}."): f"{module}."}

    def respelled(name: str) -> str:
        bare = unwrapped(name)
        module = known.get(spelled(f"{bare}."))
        return known.get(spelled(bare), bare) if module is None else module.removesuffix(".")

    return respelled


def _home(base: Weights, name: str, prefixes: tuple[str, ...]) -> str | None:
    """The checkpoint's name of an adapted tensor; None: it has no such tensor.

    Either of the two may lack the prefix that a model with a head puts before the backbone's names.
    """
    bare = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
    # The output bias of masked language models has two names in transformers; only one is stored.
    other = re.sub(r"\.decoder\.bias$", ".bias", name)
    return (
        base.find(name, prefixes)
        or base.find(bare)
        or (base.find(other, prefixes) if other != name else None)
    )


def _inside(base: Weights, name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a tensor is the backbone's. Where no name carries the prefix, all of them are."""
    return name.startswith(prefixes) or not any(other.startswith(prefixes) for other in base)


def _turned(module: str, factors: Factors, turned: bool) -> bool:
    """Whether a weight is stored as [in, out]. Embedding tables are, and the layers of families with `turned`
    except their classifiers, which are plain layers."""
    return factors.table or (turned and module.rpartition(".")[2] not in ("score", "classifier", "lm_head"))


def _misfits(
    adapter: LoraAdapter, module: str, factors: Factors, shape: tuple[int, ...], turned: bool
) -> list[str]:
    """What of an adapted module does not fit a weight of this shape, one sentence each."""
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

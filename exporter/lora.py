"""LoRA adapters merged into the weights they adapt: W + scale · B·A, exact in float32, so that nothing of an adapter is left to run.

Everything that reads a checkpoint's tensors reads them through `Weights`; merged ones are `Weights` too, and nothing else differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..runtime.errors import CheckpointError
from .adapter import Adapter, Factors
from .detection import Guess
from .weights import Change, Weights

if TYPE_CHECKING:
    import torch

    from .architectures import Architecture
    from .checkpoint import Checkpoint
    from .layers import Step

MOST_NAMES = 12
CLASSES = {"SEQ_CLS": "ForSequenceClassification", "TOKEN_CLS": "ForTokenClassification"}
LABELS = ("num_labels", "id2label", "label2id")


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
        made = base.T if self.turned else base
        made = made + self.scale * (self.weights.read(self.second).float() @ self.weights.read(self.first).float())
        if self.magnitude is not None:
            made = made * (self.weights.read(self.magnitude).float() / made.norm(dim=1))[:, None]
        return made.T.contiguous() if self.turned else made


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """lora_bias: a bias of B, which the layer's own takes up."""

    weights: Weights
    name: str
    scale: float

    def __call__(self, base: torch.Tensor) -> torch.Tensor:
        return base + self.scale * self.weights.read(self.name).float()


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
                f"with the adapter, {self.name} holds numbers that are not finite; train the adapter again, or download it again"
            )
        return base


@dataclass(frozen=True, slots=True)
class Merged(Weights):
    """`places` and `shapes` already hold the adapter's whole tensors; `changes` are applied to what is read."""

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


def merged(source: str, base: Weights, adapter: Adapter, prefixes: Iterable[str]) -> Merged:
    """The checkpoint's tensors with the adapter in them. Raises CheckpointError naming every tensor that has no place or does not fit."""
    prefixes = tuple(prefixes)
    shapes, places = dict(base.shapes), dict(base.places)
    brought: set[str] = set()
    changes: dict[str, tuple[Change, ...]] = {}
    problems: list[str] = []
    for name, stored in adapter.whole.items():
        home, shape = _home(base, name, prefixes), adapter.weights.shapes[stored]
        if home is None and not adapter.saves(name):
            problems.append(f"{name} has no place in the checkpoint")
        elif home is not None and shape != base.shapes[home] and (not adapter.saves(name) or _inside(base, home, prefixes)):
            problems.append(f"{name} has shape {list(shape)}, {home} has {list(base.shapes[home])}")
        else:
            shapes[home or name], places[home or name] = shape, adapter.weights.places[stored]
            brought.add(home or name)
    for module, factors in adapter.factors.items():
        home = _home(base, f"{module}.weight", prefixes)
        found = [f"{module}.weight has no place in the checkpoint"] if home is None else _unfit(adapter, module, factors, shapes[home])
        shifted = None if factors.bias is None else _home(base, f"{module}.bias", prefixes)
        if factors.bias is not None and shifted is None:
            found.append(f"{module} has no bias that lora_bias could be added to")
        problems += found
        if found or home is None or factors.first is None or factors.second is None:
            continue
        scale = adapter.scale(module)
        product = Product(
            weights=adapter.weights, first=factors.first, second=factors.second, magnitude=factors.magnitude, scale=scale,
            turned=_turned(adapter, factors),
        )  # fmt: skip
        changes[home] = (*changes.get(home, ()), product)
        if factors.bias is not None and shifted is not None:
            changes[shifted] = (Shift(weights=adapter.weights, name=factors.bias, scale=scale),)
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
    return Merged((*base.files, *adapter.weights.files), shapes, places, pickled, base, frozenset(brought), changes)


def _home(base: Weights, name: str, prefixes: tuple[str, ...]) -> str | None:
    """A model with a head puts a prefix before the backbone's names; checkpoint and adapter may differ in having it."""
    bare = next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)
    return base.find(name, prefixes) or base.find(bare)


def _inside(base: Weights, name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a tensor is the backbone's: all are where none carries its prefix."""
    return name.startswith(prefixes) or not any(other.startswith(prefixes) for other in base)


def _turned(adapter: Adapter, factors: Factors) -> bool:
    return factors.table or bool(adapter.settings.get("fan_in_fan_out"))


def _unfit(adapter: Adapter, module: str, factors: Factors, shape: tuple[int, ...]) -> list[str]:
    if factors.first is None or factors.second is None:
        return [f"{module} has only one of lora_A and lora_B"]
    rows, columns = reversed(shape) if len(shape) == 2 and _turned(adapter, factors) else (*shape, 0)[:2]
    rank = adapter.rank(module)
    expected = {factors.first: (rank, columns), factors.second: (rows, rank), factors.bias: (rows,), factors.magnitude: (rows,)}
    if bool(adapter.settings.get("use_dora")) != (factors.magnitude is not None):
        return [f"{module}: use_dora and lora_magnitude_vector do not go together"]
    shapes = adapter.weights.shapes
    return [
        f"{name} has shape {list(shapes[name])}, expected {list(wanted)}"
        for name, wanted in expected.items()
        if name is not None and (shapes[name] != wanted or len(shape) != 2)
    ]


def configured(
    config: Mapping[str, Any], adapter: Adapter, opened: Merged, family: Architecture, asked: Mapping[str, Any], *, convert: str
) -> dict[str, Any]:
    """config.json for the adapted model: an adapter of a classifier says so in task_type, and brings its own labels."""
    made = dict(config)
    suffix = CLASSES.get(str(adapter.settings.get("task_type")))
    name = next((name for name in family.names if suffix and name.endswith(suffix)), None)
    if name is not None and "architectures" not in asked and convert == "auto":
        made["architectures"] = [name]
    known = family.tokens if suffix == CLASSES["TOKEN_CLS"] else family.sequence.layers if family.sequence else ()
    weight = known and opened.find(f"{known[-1].name}.weight", family.prefixes)
    if weight and weight in opened.brought and not set(LABELS) & set(asked):
        named = config.get("num_labels", len(config.get("id2label") or ()))
        if named and named != opened.shapes[weight][0]:
            made = {key: value for key, value in made.items() if key not in LABELS}
    return made


def told(adapter: Adapter) -> Guess:
    trained = adapter.settings.get("base_model_name_or_path")
    whole = f", {len(adapter.whole)} whole tensors" if adapter.whole else ""
    return Guess("adapter", f"{adapter.name}, {len(adapter.factors)} modules{whole}", f"trained on {trained}" if trained else "--lora")


def check_heads(checkpoint: Checkpoint, steps: Iterable[Step]) -> None:
    """Raises CheckpointError for tensors that the adapter brings and no head uses, and for a head that would get the adapter of a table
    which in the adapted model it does not see: PEFT changes the look-up, while a tied output keeps the old table."""
    opened = checkpoint.weights
    if not isinstance(opened, Merged) or opened.base is None:
        return
    used = {name for step in steps if not step.layer.where for name in (step.weight, step.bias, step.residual) if name is not None}
    shared = sorted(name for name in used if "embed" in name and (name in opened.changes or name in opened.brought))
    if shared:
        raise CheckpointError(
            f"{checkpoint.source}: the adapter changes {', '.join(shared)}, which the head shares: the adapted model has two versions of "
            "it, a merged one cannot; untie them in the checkpoint and train the adapter on that"
        )
    unused = sorted(set(opened.places) - set(opened.base.places) - used)
    if unused and checkpoint.overrides.get("convert") != "embed":
        raise CheckpointError(
            f"{checkpoint.source}: the adapter brings tensors that this {checkpoint.kind} model does not use: {', '.join(unused)}; "
            "choose its head with --convert classify, or leave it out with --convert embed"
        )

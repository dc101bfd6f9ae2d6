"""From a plan to one torch module, and from the module to one ONNX graph whose interface is then checked."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from ...runtime.artifact import manifest
from ...runtime.inputs.items import PROMPT
from ..base.refusals import in_one_sentence
from ..checkpoint import Checkpoint
from ..families import _published_class
from ..files import plausible
from ..heads.head_modules import HeadsModule
from ..heads.planning import Plan
from ..heads.tasks import TaskHead
from . import onnx_files
from .passes import order, packing
from .passes.signature import PassOptions

if TYPE_CHECKING:
    import onnx_ir

# torch.onnx silently turns 17 into 18. From 23 on attention is an op that TensorRT-RTX refuses in float32.
OPSET = 20


class PoolingModel(nn.Module):
    """The backbone and its heads: graph inputs in order -> task outputs in order, all float32."""

    def __init__(
        self,
        backbone: nn.Module,
        heads: HeadsModule,
        names: tuple[str, ...],
        sample_tokens: int,
        pooled: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.heads, self.pooled = backbone, heads, pooled
        self.names, self.sample_tokens = names, sample_tokens

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.names, inputs, strict=True))
        kinds = named.pop("token_kinds", None)
        mask = named["attention_mask"]
        if self.pooled is not None:
            mask = self.pooled(named["input_ids"], mask)
        # A prompt is attended to. Where the graph has token kinds, it is not pooled.
        pooled = None if kinds is None else mask * (kinds != PROMPT).to(mask.dtype)
        return self.heads(self.backbone(**named), mask, named["input_ids"], pooled, kinds)


class HiddenStates(nn.Module):
    """A transformers model reduced to its last hidden state, to those of all layers [layers + 1, batch,
    tokens, hidden], or to the logits of its own head."""

    def __init__(self, model: nn.Module, result: str = "last_hidden_state") -> None:
        super().__init__()
        self.model, self.result = model, result

    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        if self.result == "hidden_states":
            return torch.stack(
                self.model(**inputs, return_dict=True, output_hidden_states=True).hidden_states
            )
        output = self.model(**inputs, return_dict=True)
        return output if isinstance(output, torch.Tensor) else output[self.result]


def module(checkpoint: Checkpoint, plan: Plan) -> PoolingModel:
    """Returns the whole model in eager float32: what is exported, and what the artifact is verified against.

    Raises CheckpointError.
    """
    heads = HeadsModule(checkpoint, plan.parts)
    with in_one_sentence(
        f"{checkpoint.source}: {plan.published or checkpoint.family.names[0]} cannot be loaded"
    ):
        if plan.published is not None:
            backbone = HiddenStates(_published_class.load(checkpoint, plan.published), "logits")
        else:
            backbone = HiddenStates(
                checkpoint.family.load(checkpoint),
                "hidden_states" if heads.wants_layers else "last_hidden_state",
            )
    tokens = min(checkpoint.family.sample_tokens, plan.text.max_tokens)
    pooled = checkpoint.family.pooled(checkpoint) if checkpoint.family.pooled is not None else None
    model = PoolingModel(backbone, heads, plan.inputs, tokens, pooled).eval().requires_grad_(False)
    if not checkpoint.large:
        plausible.check_finite(checkpoint, model)
    return model


def onnx_from_module(module: PoolingModel, plan: Plan, path: Path) -> manifest.Graph:
    """Writes the graph to `path`, and large weights to a file beside it. Returns the manifest's record of it.

    The axes [batch, tokens] are free. Raises CheckpointError where torch cannot trace the module, or traces
    it with other inputs and outputs than the plan's.
    """
    program = _traced(module, plan, optimize=True)
    if not _has_axes(program.model, plan):
        # A position table is sliced to min(rows, tokens). With a bound of `rows` on tokens, that is `tokens`.
        program = _traced(module, plan, optimize=True, bounded=True)
    results = order.rewrite(program.model, "fp32", PassOptions(attends_all=_attends_all(plan)))
    packed = results[packing].changes > 0
    with in_one_sentence(f"{_class_of(module)} became another graph than was asked for"):
        _assert_interface(program.model, plan, _outputs(plan))
    path.parent.mkdir(parents=True, exist_ok=True)
    external = onnx_files.save(program.model, path)
    return described(plan, path.name, tuple(external), packed=packed)


def streamed_from_module(module: PoolingModel, plan: Plan) -> onnx_ir.Model:
    """Returns the same graph, not yet written, whose weights are read from the checkpoint's files when they
    are needed (streaming.py)."""
    from onnxscript import optimizer
    from onnxscript.rewriter import onnx_fusions

    from . import streaming

    with streaming.faked(module) as weights:
        model = cast("onnx_ir.Model", _traced(module, plan, optimize=False).model)
        streaming.attach(model, weights)
    with _quiet():
        optimizer.optimize_ir(model)
        onnx_fusions.fuse(model)
    order.rewrite(model, "large", PassOptions(attends_all=_attends_all(plan)))
    _assert_interface(model, plan, _outputs(plan))
    return model


def _attends_all(plan: Plan) -> bool:
    """Whether every row that the graph returns attends to a key. ColBERT's expansion tokens are returned, and
    may be masked."""
    return all(role.expand_id is None or role.attend_expansion for role in plan.text.roles.values())


def described(plan: Plan, file: str, external: tuple[str, ...], *, packed: bool = False) -> manifest.Graph:
    """Returns the manifest's record of a float32 graph."""
    return manifest.Graph(
        file=file,
        precision="fp32",
        opset=OPSET,
        inputs=tuple(
            manifest.Tensor(name=name, dtype="int64", axes=("batch", "tokens")) for name in plan.inputs
        ),
        outputs=tuple(
            manifest.Tensor(
                name=plan.heads[part.task].output,
                dtype="float32",
                axes=("batch", "tokens", part.dim) if part.pools == ("tokens",) else ("batch", part.dim),
            )
            for part in plan.parts
        ),
        external=external,
        packed=packed,
    )


def _traced(
    module: PoolingModel, plan: Plan, *, optimize: bool, bounded: bool = False
) -> torch.onnx.ONNXProgram:
    """Traces the module. `bounded`: torch may assume that a text has at most the plan's `max_tokens`."""
    inputs = _samples(module, plan)
    free: dict[int, Any] = {0: "batch", 1: "tokens"}
    if bounded:
        free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=plan.text.max_tokens)}
    axes = tuple(free for _ in inputs)
    with _quiet(), in_one_sentence(f"{_class_of(module)} cannot be traced to ONNX"):
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(plan.inputs),
            output_names=_outputs(plan),
            dynamic_shapes={"inputs": axes},
            verbose=False,
            optimize=optimize,
        )
    assert program is not None
    return program


def _class_of(module: PoolingModel) -> str:
    """Returns the name of the transformers class inside."""
    inner: object = module.backbone
    while (
        isinstance(inner, nn.Module)
        and type(inner).__module__.startswith("poolrt.")
        and hasattr(inner, "model")
    ):
        inner = inner.model
    return type(inner).__name__


def _outputs(plan: Plan) -> list[str]:
    return [plan.heads[part.task].output for part in plan.parts]


def _samples(module: PoolingModel, plan: Plan) -> tuple[torch.Tensor, ...]:
    """Returns three rows for each input, one of them padded.

    Each input is its own tensor, because torch.onnx silently merges inputs that are the same tensor.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (3, module.sample_tokens)
    padded = torch.arange(shape[1]) >= shape[1] - 3
    samples = []
    for name in plan.inputs:
        fixed = {"attention_mask": torch.ones, "token_type_ids": torch.zeros, "token_kinds": torch.zeros}
        value = fixed[name](shape, dtype=torch.int64) if name in fixed else None
        if value is None:
            value = torch.randint(0, plan.text.vocab_size, shape, generator=generator)
            value[1, padded] = plan.text.pad_id
        if name == "attention_mask":
            value[1, padded] = 0
        if name == "token_kinds":
            value[0, :3] = PROMPT
        samples.append(value)
    return tuple(samples)


def _assert_interface(model: onnx_ir.Model, plan: Plan, outputs: list[str]) -> None:
    """Asserts what torch.onnx has silently got wrong: opset, inputs, outputs, types and names."""
    graph = model.graph
    assert graph.opset_imports.get("") == OPSET, f"opset {graph.opset_imports}, expected {OPSET}"
    assert [value.name for value in graph.inputs] == list(plan.inputs), (
        f"inputs {[value.name for value in graph.inputs]}"
    )
    assert [value.name for value in graph.outputs] == outputs, (
        f"outputs {[value.name for value in graph.outputs]}"
    )
    for value in graph.inputs:
        assert [str(axis) for axis in value.shape or ()] == ["batch", "tokens"], (
            f"{value.name}: axes {value.shape}"
        )
    for value, part in zip(graph.outputs, plan.parts, strict=True):
        shape, expected = _shape(value), _expected(part)
        assert shape == expected, f"{value.name}: axes {shape}, expected {expected}"
        assert str(value.dtype) == "FLOAT", f"{value.name}: {value.dtype}"
    names = Counter(value.name for node in graph.all_nodes() for value in node.outputs if value.name)
    names.update(value.name for value in graph.inputs if value.name)
    names.update(list(graph.initializers))
    repeated = [name for name, count in names.items() if count > 1]
    assert not repeated, f"names used twice: {', '.join(repeated[:5])}"


def _shape(value: onnx_ir.Value) -> list[str]:
    return [str(axis) for axis in value.shape or ()]


def _expected(part: TaskHead) -> list[str]:
    return ["batch", "tokens", str(part.dim)] if part.pools == ("tokens",) else ["batch", str(part.dim)]


def _has_axes(model: Any, plan: Plan) -> bool:
    """Whether the free axes of the outputs are those of the inputs, not computed from them."""
    return all(
        _shape(value)[:-1] == _expected(part)[:-1]
        for value, part in zip(model.graph.outputs, plan.parts, strict=True)
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch.onnx, which warns about its own plans and prints its progress."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

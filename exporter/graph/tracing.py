"""From a plan to one torch module, and from the module to one ONNX graph whose interface is then checked."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

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
from . import interface, onnx_files
from .interface import OPSET, Interface
from .passes import blocks, order, packing, slices
from .passes.signature import PassOptions
from .prefix import BehindPrefix, check_exact

if TYPE_CHECKING:
    import onnx_ir


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


class PictureModel(nn.Module):
    """The half that reads pictures: inputs of the vision graph in order -> features or embeddings,
    float32."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**dict(zip(self.names, inputs, strict=True))).float()


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


def picture_module(checkpoint: Checkpoint, plan: Plan, model: PoolingModel) -> PictureModel | None:
    """Returns the half of the model that reads pictures, which shares its weights with `model`; None where
    the model reads text only. Raises CheckpointError."""
    if plan.vision is None or checkpoint.family.vision is None:
        return None
    inner = model.backbone.model
    assert isinstance(inner, nn.Module), "a family with pictures loads a module of its own"
    with in_one_sentence(f"{checkpoint.source}: its vision half cannot be loaded"):
        vision = checkpoint.family.vision.load(checkpoint, inner)
    names = tuple(tensor.name for tensor in plan.vision.inputs)
    pictures = PictureModel(vision, names).eval().requires_grad_(False)
    if not checkpoint.large:
        plausible.check_finite(checkpoint, pictures)
    return pictures


def onnx_from_module(module: PoolingModel, plan: Plan, path: Path) -> manifest.Graph:
    """Writes the text graph to `path`, and large weights to a file beside it. Returns the manifest's record
    of it.

    Its axes [batch, tokens] are free. Raises CheckpointError where torch cannot trace the module, or traces
    it with other inputs and outputs than the plan's.
    """
    shape = interface.text(plan, module.sample_tokens)
    return _written(_behind_prefix(module, plan, shape), shape, path, _options(plan))


def _behind_prefix(module: PoolingModel, plan: Plan, shape: Interface) -> nn.Module:
    """The module that is traced: where the plan has prefixes, the one that computes tokens behind them."""
    if plan.past is None:
        return module
    from .streaming import widened

    behind = BehindPrefix(module.backbone, module.heads, module.names)
    with in_one_sentence(f"{_class_of(module)} cannot be computed behind a prefix"), widened(behind):
        check_exact(behind, shape)
    return behind


def onnx_from_pictures(module: PictureModel, plan: Plan, path: Path) -> manifest.Graph:
    """Writes the vision graph to `path`; returns and raises as `onnx_from_module`."""
    return _written(module, interface.vision(plan), path, PassOptions())


def _written(module: nn.Module, shape: Interface, path: Path, options: PassOptions) -> manifest.Graph:
    program = _traced(module, shape, optimize=True)
    if shape.role == "text" and not interface.has_axes(program.model, shape):
        # A position table is sliced to min(rows, tokens). With a bound of `rows` on tokens, that is `tokens`.
        program = _traced(module, shape, optimize=True, bounded=True)
    interface.named(program.model, shape)
    results = order.rewrite(program.model, "fp32", options)
    packed = results[packing].changes > 0
    with in_one_sentence(f"{_class_of(module)} became another graph than was asked for"):
        interface.check(program.model, shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    external = onnx_files.save(program.model, path)
    sliced = slices.in_slices(program.model)
    window = blocks.widest(program.model)
    return recorded(shape, path.name, tuple(external), packed=packed, sliced=sliced, window=window)


def streamed_from_module(module: PoolingModel, plan: Plan) -> onnx_ir.Model:
    """Returns the same graph, not yet written, whose weights are read from the checkpoint's files when they
    are needed (streaming.py)."""
    shape = interface.text(plan, module.sample_tokens)
    return _streamed(_behind_prefix(module, plan, shape), shape, _options(plan))


def streamed_from_pictures(module: PictureModel, plan: Plan) -> onnx_ir.Model:
    """Returns the vision graph in the same form."""
    return _streamed(module, interface.vision(plan), PassOptions())


def _streamed(module: nn.Module, shape: Interface, options: PassOptions) -> onnx_ir.Model:
    from onnxscript import optimizer
    from onnxscript.rewriter import onnx_fusions

    from . import streaming

    with streaming.faked(module) as weights:
        model = cast("onnx_ir.Model", _traced(module, shape, optimize=False).model)
        streaming.attach(model, weights)
    with _quiet():
        optimizer.optimize_ir(model)
        onnx_fusions.fuse(model)
    interface.named(model, shape)
    order.rewrite(model, "large", options)
    interface.check(model, shape)
    return model


def _options(plan: Plan) -> PassOptions:
    """What passes must know of the plan. ColBERT's expansion tokens are returned, and may be masked."""
    attends = all(role.expand_id is None or role.attend_expansion for role in plan.text.roles.values())
    return PassOptions(attends_all=attends, longest=plan.text.max_tokens)


def described(
    plan: Plan, file: str, external: tuple[str, ...], *, model: onnx_ir.Model | None = None
) -> manifest.Graph:
    """Returns the manifest's record of a float32 text graph, `model`, if it was traced already."""
    shape = interface.text(plan)
    if model is None:
        return recorded(shape, file, external)
    window = blocks.widest(model)
    return recorded(shape, file, external, sliced=slices.in_slices(model), window=window)


def recorded(
    shape: Interface,
    file: str,
    external: tuple[str, ...] = (),
    *,
    packed: bool = False,
    sliced: bool = False,
    window: int = 0,
) -> manifest.Graph:
    """Returns the manifest's record of a float32 graph."""
    return manifest.Graph(
        role=shape.role,
        file=file,
        precision="fp32",
        opset=OPSET,
        inputs=shape.inputs,
        outputs=shape.outputs,
        external=external,
        packed=packed,
        sliced=sliced,
        window=window,
    )


def _traced(
    module: nn.Module, shape: Interface, *, optimize: bool, bounded: bool = False
) -> torch.onnx.ONNXProgram:
    """Traces the module. `bounded`: torch may assume that a text is no longer than the longest."""
    with _quiet(), in_one_sentence(f"{_class_of(module)} cannot be traced to ONNX"):
        program = torch.onnx.export(
            module,
            interface.samples(shape),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(shape.names),
            output_names=[tensor.name for tensor in shape.outputs],
            dynamic_shapes={"inputs": interface.free_axes(shape, bounded=bounded)},
            verbose=False,
            optimize=optimize,
        )
    assert program is not None
    return program


def _class_of(module: nn.Module) -> str:
    """Returns the name of the transformers class inside."""
    inner: object = getattr(module, "backbone", module)
    while (
        isinstance(inner, nn.Module)
        and type(inner).__module__.startswith("poolrt.")
        and hasattr(inner, "model")
    ):
        inner = inner.model
    return type(inner).__name__


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

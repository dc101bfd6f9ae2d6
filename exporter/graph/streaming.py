"""Models too large for memory: their weights stay in the checkpoint's files until each is written or used.

Loading: parameters are mapped from the files in their stored type (`families/_transformers.py`).
Tracing: the graph is traced on fake float32 tensors of the same shapes, then a `Weight` replaces each fake.
Computing: for verification the module runs with the parameters of one layer at a time in float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ml_dtypes
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import nn

from ..files.adapted_parameter import Adapted, whole

TYPES = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
}


class Weight(ir.LazyTensor):
    """An initialiser that is read, converted and transposed at each use, and never kept in memory."""

    def __init__(
        self,
        source: torch.Tensor,
        *,
        name: str,
        dtype: ir.DataType = ir.DataType.FLOAT,
        order: tuple[int, ...] = (),
    ) -> None:
        self.source, self.order = source, order or tuple(range(source.dim()))
        shape = ir.Shape([source.shape[axis] for axis in self.order])
        super().__init__(lambda: ir.tensor(self._array(), dtype=dtype), dtype, shape, name=name)

    def transposed(self, order: tuple[int, ...], name: str) -> Weight:
        """Returns the same weight with its axes in `order`."""
        return Weight(
            self.source, name=name, dtype=self.dtype, order=tuple(self.order[axis] for axis in order)
        )

    def lowered(self, dtype: ir.DataType, name: str) -> Weight:
        """Returns the same weight in another type."""
        return Weight(self.source, name=name, dtype=dtype, order=self.order)

    def columns(self, first: int, last: int, name: str) -> Weight:
        """Returns the columns `first` to `last` of a matrix as a weight of its own."""
        source = whole(self.source) if isinstance(self.source, Adapted) else self.source
        part = source.narrow(self.order[-1], first, last - first)
        return Weight(part, name=name, dtype=self.dtype, order=self.order)

    def largest(self) -> float:
        """Returns the largest magnitude; not finite where an element is not."""
        return float(self._changed().abs().max()) if self.source.numel() else 0.0

    def _changed(self) -> torch.Tensor:
        """Returns the tensor with its adapter merged, then in float32, else in the stored type."""
        return whole(self.source) if isinstance(self.source, Adapted) else self.source.detach()

    def _array(self) -> NDArray[Any]:
        # Converted before it is transposed, so that fewer bytes are moved.
        tensor = self._changed().to(TYPES[self.dtype]).permute(self.order).contiguous()
        return (
            tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
            if tensor.dtype == torch.bfloat16
            else tensor.numpy()
        )


# --- tracing


@contextmanager
def faked(module: nn.Module) -> Iterator[Mapping[str, torch.Tensor]]:
    """While open, the parameters are empty float32 tensors, for tracing; yields the true ones by name.

    Buffers stay as they are.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    true = dict(module.named_parameters(remove_duplicate=False))
    mode = FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv())
    fakes: dict[int, nn.Parameter] = {}
    for parameter in true.values():
        with mode:
            empty = torch.empty(tuple(parameter.shape), dtype=torch.float32)
        fakes[id(parameter)] = nn.Parameter(empty, requires_grad=False)
    places = [
        (layer, name, parameter)
        for layer in module.modules()
        for name, parameter in layer._parameters.items()
        if parameter is not None
    ]
    for layer, name, parameter in places:
        layer._parameters[name] = fakes[id(parameter)]
    try:
        yield true
    finally:
        for layer, name, parameter in places:
            layer._parameters[name] = parameter


def attach(model: ir.Model, weights: Mapping[str, torch.Tensor]) -> None:
    """Replaces the traced fakes by the true weights, and the Transpose of a weight by a transposed weight."""
    for name, value in model.graph.initializers.items():
        if name in weights:
            value.const_value = Weight(weights[name], name=name)
    left = [name for name, value in model.graph.initializers.items() if _is_fake(value.const_value)]
    assert not left, f"no weight for {', '.join(left[:5])}"
    transposes: dict[tuple[ir.Value, tuple[int, ...]], ir.Value] = {}
    for node in list(model.graph.all_nodes()):
        source = node.inputs[0] if node.op_type == "Transpose" else None
        if source is None or not isinstance(source.const_value, Weight):
            continue
        order = tuple(node.attributes["perm"].as_ints())
        if (source, order) not in transposes:
            weight = source.const_value.transposed(order, f"{source.name}/{''.join(map(str, order))}")
            value = ir.Value(
                name=weight.name, type=ir.TensorType(weight.dtype), shape=weight.shape, const_value=weight
            )
            model.graph.register_initializer(value)
            transposes[source, order] = value
        node.outputs[0].replace_all_uses_with(transposes[source, order])
        node.graph.remove(node, safe=True)  # pyright: ignore[reportOptionalMemberAccess]


def _is_fake(tensor: Any) -> bool:
    from torch._subclasses.fake_tensor import FakeTensor

    return isinstance(getattr(tensor, "raw", None), FakeTensor)


# --- computing

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """While open, the module computes in float32 whatever type its parameters are stored in.

    A hook widens the parameters of each layer for its own call. Those of convolutions are few, and models
    look at their type before they call them (CLIP and SigLIP, to choose that of the pixels): they are wide
    all the time.
    """
    handles: list[Any] = []
    narrow: list[tuple[nn.Module, dict[str, Any]]] = []
    for layer in module.modules():
        parameters = [parameter for parameter in layer._parameters.values() if parameter is not None]
        adapted = any(isinstance(parameter, Adapted) for parameter in parameters)
        if not adapted and all(parameter.dtype == torch.float32 for parameter in parameters):
            continue
        if type(layer) is nn.Embedding and not adapted:
            # An embedding only selects rows, so widening the selected rows is enough.
            handles.append(layer.register_forward_hook(lambda layer, inputs, output: output.float()))
            continue
        stored = dict(layer._parameters)
        if isinstance(layer, CONVOLUTIONS):
            narrow.append((layer, stored))
            continue

        def widen(layer: nn.Module, inputs: Any, stored: dict[str, Any] = stored) -> None:
            _widen(layer, stored)

        def restore(layer: nn.Module, inputs: Any, output: Any, stored: dict[str, Any] = stored) -> None:
            layer._parameters.update(stored)

        handles.append(layer.register_forward_pre_hook(widen))
        handles.append(layer.register_forward_hook(restore, always_call=True))
    try:
        for layer, stored in narrow:
            _widen(layer, stored)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, stored in narrow:
            layer._parameters.update(stored)


def _widen(layer: nn.Module, stored: dict[str, Any]) -> None:
    """Replaces the parameters of a layer, which are `stored`, by float32 ones."""
    for name, parameter in stored.items():
        layer._parameters[name] = (
            None if parameter is None else nn.Parameter(whole(parameter), requires_grad=False)
        )

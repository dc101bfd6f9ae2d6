"""From Sentence Transformers' modules to the steps of a head, with their tensors and widths."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...runtime.errors import CheckpointError
from ..checkpoint import Checkpoint
from ..families.registry import Layer
from ..files import module_chain
from ..files.module_chain import Route
from ..files.sentence_files import POOLED, Module
from . import layers
from .layers import LayerStep, Operation, Steps

TANH = "torch.nn.modules.activation.Tanh"  # the library's default


def route(checkpoint: Checkpoint, output: str = POOLED) -> Route | None:
    """Returns the modules that compute `output`; None where modules.json is missing or has none."""
    if checkpoint.sentence is None:
        return None
    return module_chain.route(checkpoint.sentence, output, all_layers=mixes(checkpoint))


def mixes(checkpoint: Checkpoint) -> bool:
    """Whether the transformer module returns the hidden states of all layers."""
    return bool(checkpoint.config.get("output_hidden_states"))


def source(checkpoint: Checkpoint, modules: Route | None) -> tuple[tuple[LayerStep, ...], int]:
    """Returns the steps of the transformer's own head in front of all modules, and the width behind it.

    These are the layers of vocabulary logits, or none. Raises CheckpointError.
    """
    hidden = layers.hidden_size(checkpoint)
    if modules is None or modules.task == "feature-extraction":
        return (), hidden
    if modules.task == "fill-mask":
        return layers.steps(checkpoint, vocabulary(checkpoint), hidden)
    raise CheckpointError(
        f"{checkpoint.source}: modules behind a transformer for {modules.task}; expected "
        "feature-extraction or fill-mask"
    )


def vocabulary(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    """Returns the family's masked-language-model head. Raises CheckpointError where it has none."""
    if not checkpoint.family.vocabulary:
        raise CheckpointError(
            f"{checkpoint.source}: {checkpoint.family.names[0]} has no masked-language-model "
            "head, which SPLADE needs"
        )
    return checkpoint.family.vocabulary


def steps(checkpoint: Checkpoint, modules: Iterable[Module], width: int) -> tuple[Steps, int]:
    """Returns the steps of the modules and the width of the last one.

    Raises CheckpointError where tensors are missing or do not fit, or where a setting is not known.
    """
    planned: list[LayerStep | Operation] = []
    for module in modules:
        match module.kind:
            case "Dense" | "LayerNorm":
                layer_steps, width = layers.steps(checkpoint, (_layer(module),), width)
                planned += layer_steps
            case "Normalize":
                planned.append(Operation(kind="normalize"))
            case "WordWeights":
                _check_words(checkpoint, module)
                planned.append(Operation(kind="word_weights", where=module.folder))
            case "WeightedLayerPooling":
                planned.append(
                    Operation(kind="layer_mix", where=module.folder, number=_first_layer(checkpoint, module))
                )
            case "CNN":
                width = _convolved(checkpoint, module, width)
                planned.append(Operation(kind="convolve", where=module.folder))
            case "SparseAutoEncoder":
                planned.append(_code(checkpoint, module, width))
                width = module.number("hidden_dim", 512)
            case "HierarchicalTokenPooling":
                _check_token_pooling(checkpoint, module, planned)
            case _:
                raise CheckpointError(
                    f"{checkpoint.source}: {module} in this place of modules.json; poolrt does "
                    "not know what it does there"
                )
    return tuple(planned), width


def split(modules: Sequence[Module]) -> tuple[tuple[Module, ...], bool]:
    """Returns the modules without Normalize at their end, which the runtime does, and whether there was
    one."""
    end = len(modules)
    while end and modules[end - 1].kind == "Normalize":
        end -= 1
    return tuple(modules[:end]), end < len(modules)


def _layer(module: Module) -> Layer:
    """Returns the layer of a Dense or LayerNorm module."""
    if module.kind == "LayerNorm":
        return Layer(name="norm", where=module.folder, kind="layer_norm")
    activation = module.settings.get("activation_function", TANH)
    return Layer(
        name="linear",
        names=("dense", ""),
        where=module.folder,
        bias=bool(module.settings.get("bias", True)),
        activation="identity" if activation is None else str(activation),
        residual=bool(module.settings.get("use_residual", False)),
    )


def _check_words(checkpoint: Checkpoint, module: Module) -> None:
    """Raises CheckpointError where a token of the vocabulary has no weight."""
    opened = layers.tensors(checkpoint, module.folder)
    stored = opened.find("emb_layer.weight")
    rows, last = (
        opened.shapes[stored][0] if stored else 0,
        max(checkpoint.text.tokenizer.get_vocab().values(), default=0),
    )
    if rows <= last:
        raise CheckpointError(
            f"{checkpoint.source}: {module} weighs {rows} tokens, the vocabulary goes up to id {last}"
        )


def _first_layer(checkpoint: Checkpoint, module: Module) -> int:
    """Returns the first layer of a weighted mean. Raises CheckpointError unless each layer from it on has a
    weight."""
    first = module.settings.get("layer_start", 4)
    opened = layers.tensors(checkpoint, module.folder)
    stored = opened.find("layer_weights")
    weights = opened.shapes[stored][0] if stored else 0
    expected = checkpoint.number("num_hidden_layers") + 1 - int(first)
    if weights != expected:
        raise CheckpointError(
            f"{checkpoint.source}: {module} weighs {weights} layers from layer {first} on, the "
            f"transformer has {expected}"
        )
    return int(first)


def _convolved(checkpoint: Checkpoint, module: Module, width: int) -> int:
    """Returns the width behind convolutions. Raises CheckpointError where they change the number of
    tokens."""
    kernels = [int(kernel) for kernel in module.settings.get("kernel_sizes", (1, 3, 5))]
    strides = set(module.settings.get("stride_sizes") or (1,))
    if (
        strides != {1}
        or any(kernel % 2 == 0 for kernel in kernels)
        or module.settings.get("in_embedding_dimension") not in (None, width)
    ):
        raise CheckpointError(
            f"{checkpoint.source}: {module} has kernels {kernels} and strides {sorted(strides)} over "
            f"{width} values; expected odd kernels and strides of 1, which leave the "
            "tokens as many as they are"
        )
    return module.number("out_channels", 256) * len(kernels)


def _code(checkpoint: Checkpoint, module: Module, width: int) -> Operation:
    """Returns the operation of a SparseAutoEncoder module. Raises CheckpointError."""
    if module.number("input_dim") != width:
        raise CheckpointError(
            f"{checkpoint.source}: {module} reads {module.settings['input_dim']} values, there are {width}"
        )
    limit = checkpoint.sentence.settings.get("max_active_dims") if checkpoint.sentence else None
    count = int(limit or module.number("k", 8))
    return Operation(
        kind="code", where=module.folder, number=count, flag=bool(module.settings.get("normalize", False))
    )


def _check_token_pooling(
    checkpoint: Checkpoint, module: Module, before: Sequence[LayerStep | Operation]
) -> None:
    """Raises CheckpointError for a HierarchicalTokenPooling module that changes anything."""
    joins = float(module.settings.get("pool_factor", 1.0)) > 1
    norms = bool(module.settings.get("normalize_embeddings", False))
    if joins or (norms and before[-1:] != [Operation(kind="normalize")]):
        raise CheckpointError(
            f"{checkpoint.source}: {module} joins token vectors of documents, which poolrt does not "
            "do; remove it from modules.json"
        )

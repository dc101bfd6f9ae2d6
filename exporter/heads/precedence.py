"""What the files say of pooling, normalisation, activation, labels and widths, in vLLM's order of
precedence."""

from __future__ import annotations

from typing import Any

from ...runtime.artifact.manifest import Activation, Pool
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..checkpoint import Checkpoint
from ..files import sentence_files
from ..files.module_chain import Route


def pools(checkpoint: Checkpoint, route: Route | None) -> tuple[tuple[Pool, ...], str]:
    """Returns the poolings, to be concatenated, and the reason. Raises CheckpointError."""
    if checkpoint.family.own_pooling:
        if checkpoint.pooler.pool not in (None, "cls", "last"):
            raise CheckpointError(
                f"{checkpoint.source}: pooler config asks for the pooling {checkpoint.pooler.pool!r}; a text "
                "of this model has one vector of its own, which CLS and LAST name"
            )
        return (checkpoint.family.pool,), "the model's own pooled vector"
    if checkpoint.pooler.pool is not None:
        return (checkpoint.pooler.pool,), "pooler config"
    if route is not None and route.pooling is not None:
        if route.pooling.kind != "Pooling":
            raise CheckpointError(
                f"{checkpoint.source}: {route.pooling} in a model that is no SparseEncoder; "
                "expected a Pooling module"
            )
        return sentence_files.pools(route.pooling), "the Pooling module of modules.json"
    if "ForCausalLM" in checkpoint.architecture:
        return ("last",), "default of converted decoders"
    return (checkpoint.family.pool,), f"no Pooling module; default of {checkpoint.family.names[0]}"


def known_pool(checkpoint: Checkpoint, name: str) -> Pool:
    """Returns the pooling of a classifier that config.json names. Raises CheckpointError."""
    if name not in ("cls", "mean", "last"):
        raise CheckpointError(
            f"{checkpoint.source}: config.json asks for classifier pooling {name!r}; "
            "known are cls, mean, last"
        )
    return name  # pyright: ignore[reportReturnType]


def normalisation(
    checkpoint: Checkpoint, route: Route | None, ends_normalised: bool
) -> tuple[Activation, Guess]:
    """Returns whether embeddings are normalised, and why.

    Args:
        ends_normalised: whether a Normalize module is the last on the way to the embedding.
    """
    override = "--pooler-config '{\"use_activation\": true|false}'"
    if checkpoint.pooler.use_activation is not None:
        value, why = checkpoint.pooler.use_activation, "pooler config"
    elif route is not None and route.pooling is not None:
        value = ends_normalised
        why = f"modules.json ends with {'a' if value else 'no'} Normalize module"
    else:
        value, why = True, "no Sentence Transformers files: the default"
    return "l2" if value else "identity", Guess("normalised", "yes" if value else "no", why, override)


def unless_off(checkpoint: Checkpoint, activation: Activation) -> Activation:
    """Returns `activation`, unless the pooler config turns activations off."""
    return "identity" if checkpoint.pooler.use_activation is False else activation


def classifier_activation(checkpoint: Checkpoint, labels: int) -> tuple[Activation, str]:
    """Returns the activation of a classifier, and why. Raises CheckpointError.

    The order is vLLM's: problem_type, then the keys of Sentence Transformers, then the number of labels.
    """
    config = checkpoint.config
    by_count: Activation = "sigmoid" if labels < 2 else "softmax"
    stored = (config.get("sentence_transformers") or {}).get("activation_fn")
    origin = "config.json, sentence_transformers.activation_fn"
    if stored is None:
        stored, origin = (
            config.get("sbert_ce_default_activation_function"),
            "config.json, sbert_ce_default_activation_function",
        )
    if stored is None and labels == 1 and checkpoint.sentence is not None:
        # Sentence Transformers 6 stores it in this file. vLLM does not read the file. For several labels the
        # library always stores Identity, where vLLM has softmax, so only one label counts.
        stored, origin = (
            checkpoint.sentence.settings.get("activation_fn"),
            "config_sentence_transformers.json, activation_fn",
        )
    if (problem := config.get("problem_type")) is not None:
        known: dict[str, Activation] = {
            "regression": "identity",
            "single_label_classification": by_count,
            "multi_label_classification": "sigmoid",
        }
        if problem not in known:
            raise CheckpointError(
                f"{checkpoint.source}: problem_type {problem!r}; known are {', '.join(known)}"
            )
        return known[problem], f"config.json, problem_type {problem}"
    if stored is None:
        return by_count, f"{labels} label{'s' if labels > 1 else ''}"
    name = _activation_name(checkpoint, stored)
    return by_count if name in ("sigmoid", "softmax") else name, origin


def _activation_name(checkpoint: Checkpoint, stored: object) -> Activation:
    name = str(stored).rsplit(".", 1)[-1].lower()
    if not str(stored).startswith("torch.nn.") or name not in (
        "identity",
        "sigmoid",
        "softmax",
        "tanh",
        "relu",
    ):
        raise CheckpointError(
            f"{checkpoint.source}: activation {stored!r}; expected a class of torch.nn.modules: "
            "Identity, Sigmoid, Softmax, Tanh, ReLU"
        )
    return name  # pyright: ignore[reportReturnType]


def modular_activations(checkpoint: Checkpoint, labels: int) -> tuple[dict[str, Any], str]:
    """Returns what `activations` does, for a cross-encoder of Sentence Transformers' modules.

    The order is the library's: its own file, then config.json, then a sigmoid for one label, else nothing.
    """
    settings = checkpoint.sentence.settings if checkpoint.sentence else {}
    stored, why = settings.get("activation_fn"), "config_sentence_transformers.json, activation_fn"
    if stored is None:
        stored, why = (
            (checkpoint.config.get("sentence_transformers") or {}).get("activation_fn"),
            "config.json, sentence_transformers",
        )
    if stored is None:
        activation: Activation = "sigmoid" if labels == 1 else "identity"
        why = f"{labels} label{'s' if labels > 1 else ''}"
    else:
        activation = _activation_name(checkpoint, stored)
    if checkpoint.pooler.use_activation is False:
        return {"activation": "identity", "asked_activation": activation}, "pooler config"
    return {"activation": activation}, why


def activations(checkpoint: Checkpoint, labels: int, *, raw: bool = False) -> tuple[dict[str, Any], str]:
    """Returns the fields `activation` and `asked_activation` of a classification head, and why.

    `asked_activation` is what requests get that ask for one. It is set where the pooler config turns
    activations off, and for `raw` architectures.
    """
    activation, why = classifier_activation(checkpoint, labels)
    if checkpoint.pooler.use_activation is False:
        return {"activation": "identity", "asked_activation": activation}, "pooler config"
    if raw and checkpoint.pooler.use_activation is None:
        return {"activation": "identity", "asked_activation": activation}, (
            f"{checkpoint.architecture} answers raw values"
        )
    return {"activation": activation}, why


def labels_of(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    """Returns the names of the classifier's `count` rows. Raises CheckpointError for any other number."""
    named = {int(index): str(name) for index, name in (checkpoint.config.get("id2label") or {}).items()}
    if beyond := sorted(index for index in named if index >= count):
        raise CheckpointError(
            f"{checkpoint.source}: id2label names row {beyond[0]}, the classifier has {count} rows, from 0 on"
        )
    configured = checkpoint.config.get("num_labels")
    expected = configured if isinstance(configured, int) else len(named) or count
    if expected != count:
        raise CheckpointError(
            f"{checkpoint.source}: config.json names {expected} labels, the classifier has {count} rows"
        )
    return tuple(named.get(index, f"LABEL_{index}") for index in range(count))


def truncation(checkpoint: Checkpoint, dim: int) -> int | None:
    """Returns the library's truncate_dim, if it is smaller than `dim`."""
    width = _setting(checkpoint, "truncate_dim")
    return width if width is not None and width < dim else None


def active(checkpoint: Checkpoint) -> int | None:
    """Returns the library's max_active_dims: how many values of a sparse vector stay."""
    return _setting(checkpoint, "max_active_dims")


def _setting(checkpoint: Checkpoint, key: str) -> int | None:
    """Returns a count of config_sentence_transformers.json. Raises CheckpointError for any other value."""
    value = checkpoint.sentence.settings.get(key) if checkpoint.sentence else None
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(
            f"{checkpoint.source}: {key} of config_sentence_transformers.json is {value!r}, expected a count"
        )
    return value


def matryoshka(checkpoint: Checkpoint, dim: int) -> dict[str, Any]:
    """Returns the fields of a head for the widths that requests may ask for. Raises CheckpointError."""
    widths = checkpoint.config.get("matryoshka_dimensions")
    if (
        checkpoint.recipe is not None
        and widths is not None
        and widths == checkpoint.recipe.hf_overrides.get("matryoshka_dimensions")
    ):
        # The checkpoint may have the name of the recipe's model and be smaller than it.
        widths = [width for width in widths if width <= dim] or None
    default = checkpoint.pooler.dimensions
    if default is not None and default > dim:
        raise CheckpointError(f"pooler config: dimensions {default} is wider than the model's {dim}")
    if default is None and checkpoint.kind == "embed" and checkpoint.config.get("truncate_dim") is not None:
        # Jina's models cut a vector before they normalise it.
        default = checkpoint.number("truncate_dim")
        if default > dim or (widths is not None and default not in widths):
            raise CheckpointError(
                f"{checkpoint.source}: truncate_dim of config.json is {default}; expected one of "
                f"{', '.join(map(str, widths or [dim]))}"
            )
    if widths is not None:
        wrong = [width for width in widths if not isinstance(width, int) or not 1 <= width <= dim]
        if wrong:
            raise CheckpointError(f"matryoshka_dimensions: {wrong} are not between 1 and the model's {dim}")
        return {"matryoshka": tuple(sorted(widths)), "dimensions": default}
    return {"any_dimension": bool(checkpoint.config.get("is_matryoshka", False)), "dimensions": default}

"""What a checkpoint's files say of pooling, normalisation, activation, labels and widths, in
vLLM's order of precedence."""

from __future__ import annotations

from typing import Any

from ...runtime.artifact.manifest import Activation, Pool
from ...runtime.errors import CheckpointError
from ..base.guess import Guess
from ..checkpoint import Checkpoint
from ..files import sentence_files
from ..files.module_chain import Route


def pools(checkpoint: Checkpoint, route: Route | None) -> tuple[tuple[Pool, ...], str]:
    if checkpoint.pooler.pool is not None:
        return (checkpoint.pooler.pool,), "pooler config"
    if route is not None and route.pooling is not None:
        if route.pooling.kind != "Pooling":
            raise CheckpointError(
                f"{checkpoint.source}: {route.pooling} in a model that is no SparseEncoder; expected a "
                "Pooling module"
            )
        return sentence_files.pools(route.pooling), "the Pooling module of modules.json"
    if "ForCausalLM" in checkpoint.architecture:
        return ("last",), "default of converted decoders"
    return (checkpoint.family.pool,), f"no Pooling module; default of {checkpoint.family.names[0]}"


def known_pool(checkpoint: Checkpoint, name: str) -> Pool:
    if name not in ("cls", "mean", "last"):
        raise CheckpointError(
            f"{checkpoint.source}: config.json asks for classifier pooling {name!r}; known are "
            "cls, mean, last"
        )
    return name  # pyright: ignore[reportReturnType]


def normalisation(
    checkpoint: Checkpoint, route: Route | None, ends_normalised: bool
) -> tuple[Activation, Guess]:
    """`ends_normalised`: whether a Normalize module is the last on the way to the embedding."""
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
    return "identity" if checkpoint.pooler.use_activation is False else activation


def classifier_activation(checkpoint: Checkpoint, labels: int) -> tuple[Activation, str]:
    """vLLM's order: problem_type, then the keys of Sentence Transformers, then the number of labels."""
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
        # Version 6 keeps it here. With several labels it stores Identity unasked, where vLLM, which does not
        # read this file, has softmax.
        stored, origin = (
            checkpoint.sentence.settings.get("activation_fn"),
            ("config_sentence_transformers.json, activation_fn"),
        )
    if (problem := config.get("problem_type")) is not None:
        known: dict[str, Activation] = {
            "regression": "identity", "single_label_classification": by_count,
            "multi_label_classification": "sigmoid",
        }  # fmt: skip
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
    """As the library chooses: its own file, then config.json, then a sigmoid for one
    label and nothing for more."""
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
    """A classification head's `activation`, and `asked_activation` where only requests that ask for it get
    one: by the pooler config, or else for `raw` architectures."""
    activation, why = classifier_activation(checkpoint, labels)
    if checkpoint.pooler.use_activation is False:
        return {"activation": "identity", "asked_activation": activation}, "pooler config"
    if raw and checkpoint.pooler.use_activation is None:
        return {"activation": "identity", "asked_activation": activation}, (
            f"{checkpoint.architecture} answers raw values"
        )
    return {"activation": activation}, why


def labels_of(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    named = {int(index): str(name) for index, name in (checkpoint.config.get("id2label") or {}).items()}
    if beyond := sorted(index for index in named if index >= count):
        raise CheckpointError(
            f"{checkpoint.source}: id2label names row {beyond[0]}, the classifier has {count} rows, from 0 on"
        )
    asked = checkpoint.config.get("num_labels")
    expected = asked if isinstance(asked, int) else len(named) or count
    if expected != count:
        raise CheckpointError(
            f"{checkpoint.source}: config.json names {expected} labels, the classifier has {count} rows"
        )
    return tuple(named.get(index, f"LABEL_{index}") for index in range(count))


def truncation(checkpoint: Checkpoint, dim: int) -> int | None:
    """The library's truncate_dim, where it cuts anything."""
    asked = _setting(checkpoint, "truncate_dim")
    return asked if asked is not None and asked < dim else None


def active(checkpoint: Checkpoint) -> int | None:
    """The library's max_active_dims: how many values of a sparse vector stay."""
    return _setting(checkpoint, "max_active_dims")


def _setting(checkpoint: Checkpoint, key: str) -> int | None:
    asked = checkpoint.sentence.settings.get(key) if checkpoint.sentence else None
    if asked is None:
        return None
    if isinstance(asked, bool) or not isinstance(asked, int) or asked < 1:
        raise CheckpointError(
            f"{checkpoint.source}: {key} of config_sentence_transformers.json is {asked!r}, expected a count"
        )
    return asked


def matryoshka(checkpoint: Checkpoint, dim: int) -> dict[str, Any]:
    widths = checkpoint.config.get("matryoshka_dimensions")
    if (
        checkpoint.recipe is not None
        and widths is not None
        and widths == checkpoint.recipe.hf_overrides.get("matryoshka_dimensions")
    ):
        # A namesake may be smaller than the model the recipe is about.
        widths = [width for width in widths if width <= dim] or None
    default = checkpoint.pooler.dimensions
    if default is not None and default > dim:
        raise CheckpointError(f"pooler config: dimensions {default} is wider than the model's {dim}")
    if widths is not None:
        wrong = [width for width in widths if not isinstance(width, int) or not 1 <= width <= dim]
        if wrong:
            raise CheckpointError(f"matryoshka_dimensions: {wrong} are not between 1 and the model's {dim}")
        return {"matryoshka": tuple(sorted(widths)), "dimensions": default}
    return {"any_dimension": bool(checkpoint.config.get("is_matryoshka", False)), "dimensions": default}

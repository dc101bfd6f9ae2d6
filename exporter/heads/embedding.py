"""Heads that embed: one vector of a text, one of each token, or weights of words.

Layers and their order are those of modules.json.
"""

from __future__ import annotations

from dataclasses import replace

from ...runtime.artifact.manifest import Head, Pool
from ..base.guess import Guess
from ..checkpoint import Checkpoint
from ..detection import PREDICTS_WORDS
from ..families import _published_class
from ..families.registry import Layer
from ..files import sentence_files
from ..files.sentence_files import TOKENS
from . import layers, precedence, sentence_modules
from .layers import LayerStep, Operation, Steps
from .tasks import POOLER, TaskHead, TaskPlan

NORMALIZE = Operation(kind="normalize")


def embed(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans an embedder of texts and of tokens. Raises CheckpointError."""
    route = sentence_modules.route(checkpoint)
    pools, why = precedence.pools(checkpoint, route)
    _warn_of_words(checkpoint, guesses)
    guesses.append(Guess("pooling", " + ".join(pools), why, POOLER))
    source, hidden = sentence_modules.source(checkpoint, route)
    before, width = sentence_modules.steps(checkpoint, route.tokens if route else (), hidden)
    before = (*source, *before)
    projection, projected = layers.steps(checkpoint, checkpoint.family.projection, width * len(pools))
    modules, ends_normalised = sentence_modules.split(route.pooled if route else ())
    after, dim = sentence_modules.steps(checkpoint, modules, projected)
    after = (*projection, *after)
    _guess_modules(before, after, dim, guesses)
    coded = any(isinstance(step, Operation) and step.kind == "code" for step in after)
    activation, normalisation = precedence.normalisation(checkpoint, route, ends_normalised)
    guesses.append(normalisation)
    cuts = precedence.matryoshka(checkpoint, dim)
    normed = checkpoint.recipe is not None and checkpoint.recipe.norm_before_cut
    # Token embeddings go through the same layers, which fits only where the input is not several poolings.
    tokens, token_dim = ((*before, *after), dim) if len(pools) == 1 and not coded else (before, width)
    own = checkpoint.family.token_projection
    if own:
        tokens, token_dim = layers.steps(checkpoint, own, width)
        guesses.append(Guess("vectors of tokens", f"{width} → {token_dim}", f"{own[0].name} of the weights"))
    heads = {
        "token_embed": Head(
            output="out_token_embed",
            dim=token_dim,
            pool="tokens",
            activation=activation,
            **(cuts if token_dim == dim and not own else {}),
        )
    }
    shortest = (
        None if normed or checkpoint.pooler.dimensions is not None else precedence.truncation(checkpoint, dim)
    )
    if shortest is not None:
        # The library cuts the vector behind its modules and does not normalise it again.
        guesses.append(
            Guess(
                "dimensions",
                f"{shortest} of {dim}",
                "truncate_dim of config_sentence_transformers.json",
                "dimensions",
            )
        )
        cuts["dimensions"] = shortest
        if activation == "l2" and checkpoint.pooler.use_activation is None:
            after, activation = (*after, NORMALIZE), "identity"
    heads["embed"] = Head(
        output="out_embed",
        dim=dim,
        pool=pools[0],
        activation=activation,
        norm_before_cut=normed,
        sparse=coded and activation == "identity",
        **cuts,
    )
    parts = [
        TaskHead(task="embed", pools=pools, before=before, after=after, dim=dim),
        TaskHead(task="token_embed", pools=("tokens",), before=_unweighted(tokens), dim=token_dim),
    ]
    return ("embed", "token_embed"), "bi-encoder", parts, heads


def _warn_of_words(checkpoint: Checkpoint, guesses: list[Guess]) -> None:
    """Adds a warning where a language model that nobody trained to embed is used as an embedder."""
    meant = checkpoint.sentence is not None or checkpoint.recipe is not None or checkpoint.adapter is not None
    if (
        not meant
        and checkpoint.architecture.endswith(PREDICTS_WORDS)
        and "convert" not in checkpoint.overrides
    ):
        why_not = (
            f"{checkpoint.architecture} predicts words, and neither Sentence Transformers files nor a "
            "recipe make it an embedder"
        )
        guesses.append(
            Guess(
                "warning",
                "not trained to embed, so its vectors may mean little",
                why_not,
                "--convert embed says it is meant",
            )
        )


def _unweighted(steps: Steps) -> Steps:
    """Returns the steps without weights of words, which count in a mean only."""
    return tuple(step for step in steps if not (isinstance(step, Operation) and step.kind == "word_weights"))


def _guess_modules(before: Steps, after: Steps, dim: int, guesses: list[Guess]) -> None:
    """Adds a guess that names the steps of modules.json."""
    modules = [step for step in (*before, *after) if isinstance(step, Operation) or step.layer.where]
    if modules:
        names = [step.kind if isinstance(step, Operation) else step.layer.where for step in modules]
        guesses.append(Guess("modules", f"{', '.join(names)}, to {dim} values", "modules.json, in its order"))


def splade(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a sparse embedder: weights of words, [vocabulary]. Raises CheckpointError."""
    route = sentence_modules.route(checkpoint)
    pooling = (
        route.pooling
        if route is not None and route.pooling is not None and route.pooling.kind == "SpladePooling"
        else None
    )
    settings = (
        sentence_files.splade(pooling)
        if pooling
        else sentence_files.Splade(strategy="max", activation="relu")
    )
    strategy, twice = settings.strategy, settings.activation == "log1p_relu"
    hidden = layers.hidden_size(checkpoint)
    published: str | None = None
    if route is None or route.task == "fill-mask":
        if checkpoint.family.vocabulary:
            source, width = layers.steps(checkpoint, checkpoint.family.vocabulary, hidden)
        else:
            published = _published_class.class_name(checkpoint.config, checkpoint.architecture, "splade")
            if published is None:
                sentence_modules.vocabulary(checkpoint)  # raises
            guesses.append(Guess("head", str(published), "transformers' own"))
            source, width = (), _published_class.labels(checkpoint, str(published))
    else:
        source, width = sentence_modules.source(checkpoint, route)
    before, width = sentence_modules.steps(checkpoint, route.tokens if route else (), width)
    before = (*source, *before)
    if twice:
        before = (*before, Operation(kind="log1p_relu"))
    pooled = f"{strategy} over tokens of log(1 + relu)" + (", taken twice" if twice else "")
    why = "SpladePooling of modules.json" if pooling else "default of SPLADE"
    guesses.append(Guess("pooling", pooled, why))
    after, dim = sentence_modules.steps(checkpoint, route.pooled if route else (), width)
    static = checkpoint.sentence.static if checkpoint.sentence else None
    if static is not None:
        after = (*after, Operation(kind="static_words", where=static.folder, number=dim))
    if (count := precedence.active(checkpoint)) is not None:
        guesses.append(
            Guess(
                "active",
                f"the largest {count} values",
                "max_active_dims of config_sentence_transformers.json",
            )
        )
        after = (*after, Operation(kind="largest", number=count))
    pool: Pool = "splade" if strategy == "max" else "splade_sum"
    parts = [
        TaskHead(task="embed", pools=(pool,), published=published, before=before, after=after, dim=dim),
        TaskHead(task="token_embed", pools=("tokens",), dim=hidden),
    ]
    embedding = Head(output="out_embed", dim=dim, pool=pool, activation="identity", sparse=True)
    # No token embeddings of static queries, which the model never reads
    if published is not None or static is not None:
        return ("embed",), "bi-encoder", parts[:1], {"embed": embedding}
    heads = {
        "embed": embedding,
        "token_embed": Head(
            output="out_token_embed",
            dim=hidden,
            pool="tokens",
            activation=precedence.unless_off(checkpoint, "l2"),
        ),
    }
    return ("embed", "token_embed"), "bi-encoder", parts, heads


def colbert(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a late-interaction model: one vector of each token. Raises CheckpointError."""
    hidden = layers.hidden_size(checkpoint)
    normalised = True
    steps: Steps
    if checkpoint.family.late_interaction:
        steps, dim = layers.steps(checkpoint, checkpoint.family.projection, hidden)
    elif _own_projection(checkpoint):
        steps, dim = layers.steps(
            checkpoint, (Layer(name="linear", names=("colbert_linear",), bias=None),), hidden
        )
    else:
        route = sentence_modules.route(checkpoint, TOKENS)
        modules, ends_normalised = sentence_modules.split(route.tokens if route else ())
        # PyLate's encode normalises, whatever its modules do.
        normalised = (
            ends_normalised or checkpoint.sentence is None or checkpoint.sentence.kind != "MultiVectorEncoder"
        )
        source, width = sentence_modules.source(checkpoint, route)
        steps, dim = sentence_modules.steps(checkpoint, modules, width)
        steps = (*source, *steps)
    guesses.append(
        Guess(
            "projection",
            f"{hidden} → {dim}",
            ", ".join(step.weight for step in steps if isinstance(step, LayerStep)) or "none",
        )
    )
    part = TaskHead(task="token_embed", pools=("tokens",), before=steps, dim=dim)
    head = Head(
        output="out_token_embed",
        dim=dim,
        pool="tokens",
        activation=precedence.unless_off(checkpoint, "l2" if normalised else "identity"),
        **precedence.matryoshka(checkpoint, dim),
    )
    return ("token_embed",), "late-interaction", [part], {"token_embed": head}


def _own_projection(checkpoint: Checkpoint) -> bool:
    """Whether the projection is among the model's own weights, as Stanford's is, not in modules.json."""
    sentence = checkpoint.sentence
    if sentence is not None and sentence.kind == "MultiVectorEncoder":
        return False
    stored = any(checkpoint.weights.find(f"{name}.weight") for name in ("linear", "colbert_linear"))
    return stored or sentence is None or "Dense" not in sentence.modules


def bge_m3(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans BGE-M3, whose three heads embed texts, embed tokens and weigh tokens. Raises CheckpointError."""
    tasks, scoring, parts, heads = embed(checkpoint, guesses)
    hidden = layers.hidden_size(checkpoint)
    sparse, sparse_dim = layers.steps(checkpoint, (Layer(name="", where="sparse_linear.pt"),), hidden)
    colbert, colbert_dim = layers.steps(checkpoint, (Layer(name="", where="colbert_linear.pt"),), hidden)
    parts = [
        parts[0],
        TaskHead(task="token_embed", pools=("tokens",), after=colbert, dim=colbert_dim),
        TaskHead(task="token_classify", pools=("tokens",), after=sparse, dim=sparse_dim),
    ]
    # The library drops <s> of both, and vLLM also drops </s> of the sparse weights. The ids are compared,
    # because a text that came as ids, or was cut from the left, may have a word in that place.
    first, last = (
        checkpoint.config.get(f"{name}_id", checkpoint.text.ids.get(name))
        for name in ("bos_token", "eos_token")
    )
    heads["token_embed"] = replace(heads["token_embed"], dim=colbert_dim, drop_first=1, drop_first_id=first)
    heads["token_classify"] = Head(
        output="out_token_classify",
        dim=sparse_dim,
        pool="tokens",
        activation="relu",
        drop_first=1,
        drop_last=1,
        drop_first_id=first,
        drop_last_id=last,
        flat=True,
        sparse=True,
    )
    return (*tasks, "token_classify"), scoring, parts, heads

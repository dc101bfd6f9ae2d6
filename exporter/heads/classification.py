"""Heads that score: classifiers, token classifiers, reward models and listwise rerankers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...runtime.artifact.manifest import Head
from ...runtime.errors import CheckpointError
from .. import detection
from ..base.guess import Guess
from ..checkpoint import Checkpoint
from ..families import _published_class
from ..families.registry import Classifier, Layer
from ..files import module_chain
from . import layers, precedence, sentence_modules, yes_no
from .layers import Steps
from .tasks import POOLER, TaskHead, TaskPlan, scoring_of


def classify(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a classifier of texts, whose head is one of four: the published class, rows of a language model's
    output, the family's own, or one linear layer. Raises CheckpointError."""
    known = checkpoint.family.sequence
    answers = yes_no.steps(checkpoint)
    published = (
        _published_class.class_name(checkpoint.config, checkpoint.architecture, "classify")
        if known is None and answers is None
        else None
    )
    if published is not None:
        return _published_classify(checkpoint, guesses, published)
    hidden = layers.hidden_size(checkpoint)
    mean: float | None = None
    sigma: float | None = None
    if answers is not None:
        pool, why = "last", "rows of the language model's output in the place of a classifier"
        guesses.append(Guess("classifier", *yes_no.described(checkpoint), "--hf-overrides"))
        after, dim = tokens, _ = answers
    elif known is not None and _has_sequence_head(checkpoint, known):
        mean = known.mean
        sigma = float(checkpoint.config.get(known.sigma_key, 1.0)) if known.sigma_key else None
        pool = precedence.known_pool(
            checkpoint,
            str(checkpoint.config.get(known.pool_key, known.pool)) if known.pool_key else known.pool,
        )
        why = f"the head of {checkpoint.architecture}"
        after, dim = layers.steps(checkpoint, known.layers, hidden)
        tokens, _ = layers.steps(checkpoint, known.tokens, hidden)
    else:
        # vLLM's conversion: one linear layer `score` behind the last token.
        pool, why = "last", "--convert classify"
        after, dim = tokens, _ = layers.steps(
            checkpoint, (Layer(name="score", names=("classifier",), bias=None),), hidden
        )
    if checkpoint.pooler.pool is not None:
        pool, why = checkpoint.pooler.pool, "pooler config"
    guesses.append(Guess("pooling", pool, why, POOLER))
    labels = precedence.labels_of(checkpoint, dim)
    part = TaskHead(task="classify", pools=(pool,), after=after, dim=dim)
    return _labelled(
        checkpoint, guesses, part, tokens, labels, precedence.activations(checkpoint, dim), (mean, sigma)
    )


def modular(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a cross-encoder of Sentence Transformers' modules: a backbone, pooling, and layers of which the
    last computes the scores. Raises CheckpointError."""
    assert checkpoint.sentence is not None
    route = module_chain.scores(checkpoint.sentence, all_layers=sentence_modules.mixes(checkpoint))
    assert route is not None
    if route.pooling is None:
        raise CheckpointError(
            f"{checkpoint.source}: modules.json makes scores without a Pooling module; "
            "expected one score of a pair"
        )
    pools, why = precedence.pools(checkpoint, route)
    guesses.append(Guess("pooling", " + ".join(pools), why, POOLER))
    source, hidden = sentence_modules.source(checkpoint, route)
    before, width = sentence_modules.steps(checkpoint, route.tokens, hidden)
    after, dim = sentence_modules.steps(checkpoint, route.pooled, width * len(pools))
    named = checkpoint.config.get("id2label") or {}
    labels = (
        precedence.labels_of(checkpoint, dim)
        if len(named) == dim
        else tuple(f"LABEL_{index}" for index in range(dim))
    )
    part = TaskHead(task="classify", pools=pools, before=(*source, *before), after=after, dim=dim)
    tokens = (*part.before, *after) if len(pools) == 1 else None
    return _labelled(
        checkpoint,
        guesses,
        part,
        tokens,
        labels,
        precedence.modular_activations(checkpoint, dim),
        (None, None),
    )


def _labelled(
    checkpoint: Checkpoint,
    guesses: list[Guess],
    part: TaskHead,
    tokens: Steps | None,
    labels: tuple[str, ...],
    activations: tuple[dict[str, Any], str],
    scale: tuple[float | None, float | None],
) -> TaskPlan:
    """Returns the plan of a classifier of texts.

    Args:
        part: what the graph computes for `classify`.
        tokens: the steps on every token for `token_classify`; None: the model has no such task.
        activations: fields of the head, and the reason.
        scale: the family's logit_mean and logit_sigma, unless the pooler config has them.
    """
    dim, (chosen, why) = part.dim, activations
    guesses.append(Guess("labels", ", ".join(labels) if dim > 1 else f"{dim}, a score", "config.json"))
    override = '--hf-overrides \'{"problem_type": "..."}\', or use_activation of a request'
    guesses.append(Guess("activation", chosen["activation"], why, override))
    mean, sigma = scale
    mean = mean if checkpoint.pooler.mean is None else checkpoint.pooler.mean
    sigma = sigma if checkpoint.pooler.logit_sigma is None else checkpoint.pooler.logit_sigma
    pool = part.pools[0] if part.pools else checkpoint.family.pool
    head = Head(
        output="out_classify", dim=dim, pool=pool, labels=labels, logit_mean=mean, logit_sigma=sigma, **chosen
    )
    heads = {"classify": head}
    if tokens is None:
        return ("classify",), scoring_of("classify", heads), [part], heads
    heads["token_classify"] = replace(head, output="out_token_classify", pool="tokens")
    parts = [part, TaskHead(task="token_classify", pools=("tokens",), before=tokens, dim=dim)]
    return ("classify", "token_classify"), scoring_of("classify", heads), parts, heads


def _has_sequence_head(checkpoint: Checkpoint, known: Classifier) -> bool:
    """Whether the checkpoint has the family's own head: by the name of its class, else by its tensors."""
    if checkpoint.architecture.endswith("ForSequenceClassification"):
        return True
    if not detection.is_classification(checkpoint.architecture):
        return False
    try:
        layers.steps(checkpoint, known.layers, layers.hidden_size(checkpoint))
    except CheckpointError:
        return False
    return True


def _published_classify(checkpoint: Checkpoint, guesses: list[Guess], name: str) -> TaskPlan:
    """Plans a classifier whose published class pools by itself, so no other pooling is possible and tokens
    have no scores."""
    if checkpoint.pooler.pool is not None:
        raise CheckpointError(
            f"{checkpoint.source}: {name} pools by itself; leave pooling_type out of --pooler-config"
        )
    guesses.append(Guess("head", name, "transformers' own, pooling included"))
    dim = _published_class.labels(checkpoint, name)
    part = TaskHead(task="classify", pools=(), published=name, dim=dim)
    labels, activations = precedence.labels_of(checkpoint, dim), precedence.activations(checkpoint, dim)
    return _labelled(checkpoint, guesses, part, None, labels, activations, (None, None))


def token_classify(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a classifier of tokens. Raises CheckpointError."""
    chain = checkpoint.family.tokens or (Layer(name="classifier", names=("score",), bias=None),)
    published = (
        None
        if checkpoint.family.tokens
        else _published_class.class_name(checkpoint.config, checkpoint.architecture, "token_classify")
    )
    if published is not None:
        guesses.append(Guess("head", published, "transformers' own"))
        after, dim = (), _published_class.labels(checkpoint, published)
    else:
        after, dim = layers.steps(checkpoint, chain, layers.hidden_size(checkpoint))
    labels = precedence.labels_of(checkpoint, dim)
    activations, why = precedence.activations(checkpoint, dim)
    guesses.append(Guess("labels", ", ".join(labels), "config.json, id2label"))
    guesses.append(Guess("activation", activations["activation"], why, "use_activation of a request"))
    head = Head(
        output="out_token_classify",
        dim=dim,
        pool="tokens",
        labels=labels,
        logit_mean=checkpoint.pooler.mean,
        logit_sigma=checkpoint.pooler.logit_sigma,
        **activations,
    )
    part = TaskHead(task="token_classify", pools=("tokens",), published=published, after=after, dim=dim)
    return ("token_classify",), None, [part], {"token_classify": head}


def reward(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a reward model: a value of each token, or of each step's last token. Raises CheckpointError."""
    family_head = checkpoint.family.rewards[checkpoint.architecture]
    after, dim = layers.steps(checkpoint, family_head.layers, layers.hidden_size(checkpoint))
    named = checkpoint.config.get("id2label") or {}
    labels = (
        precedence.labels_of(checkpoint, dim)
        if len(named) == dim
        else tuple(f"LABEL_{index}" for index in range(dim))
    )
    activations, why = precedence.activations(checkpoint, dim, raw=family_head.raw)
    guesses.append(
        Guess(
            "activation",
            activations["activation"],
            why,
            "--pooler-config '{\"use_activation\": true|false}'",
        )
    )
    tag = family_head.step_tag_id if checkpoint.pooler.step_tag_id is None else checkpoint.pooler.step_tag_id
    stepped = family_head.step_tag_id is not None or checkpoint.pooler.steps
    if stepped:
        override = "--pooler-config '{\"step_tag_id\": ...}'"
        guesses.append(Guess("steps", f"rows of token {tag}", "the model ends each step with it", override))
    head = Head(
        output="out_token_classify",
        dim=dim,
        pool="step" if stepped else "tokens",
        labels=labels,
        logit_mean=checkpoint.pooler.mean,
        logit_sigma=checkpoint.pooler.logit_sigma,
        step_tag_id=tag if stepped else None,
        returned_token_ids=checkpoint.pooler.returned_token_ids or (),
        **activations,
    )
    return (
        ("token_classify",),
        None,
        [TaskHead(task="token_classify", pools=("tokens",), after=after, dim=dim)],
        {"token_classify": head},
    )


def listwise(checkpoint: Checkpoint, guesses: list[Guess]) -> TaskPlan:
    """Plans a reranker that reads all documents in one prompt and embeds the marker behind each document.

    Raises CheckpointError.
    """
    assert checkpoint.family.listwise is not None
    marks = (checkpoint.family.listwise.document_token, checkpoint.family.listwise.query_token)
    ids = [checkpoint.text.id(token) for token in marks]
    if None in ids:
        raise CheckpointError(f"{checkpoint.source}: {' and '.join(marks)} must be tokens of the vocabulary")
    after, dim = layers.steps(checkpoint, checkpoint.family.projection, layers.hidden_size(checkpoint))
    guesses.append(
        Guess(
            "rows",
            f"those of tokens {ids[0]} (documents) and {ids[1]} (the query)",
            "what the model was trained to compare",
        )
    )
    keep = tuple(token for token in ids if token is not None)
    head = Head(output="out_token_embed", dim=dim, pool="tokens", activation="identity", keep_ids=keep)
    return (
        ("token_embed",),
        "listwise",
        [TaskHead(task="token_embed", pools=("tokens",), after=after, dim=dim)],
        {"token_embed": head},
    )

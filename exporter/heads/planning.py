"""From a checkpoint to a plan: which tasks it serves, what the graph computes for each, and
what the runtime still does.

No torch here; the modules that carry a plan out are in head_modules.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ...runtime.artifact.manifest import Head, Role, Scoring, Task, TextPreparation
from ...runtime.errors import CheckpointError
from .. import detection
from ..base.guess import Guess
from ..base.refusals import refuses
from ..checkpoint import Checkpoint
from ..detection import Kind
from ..families import _published_class
from ..families.registry import Classifier, Layer
from ..files import module_chain
from . import (
    checks,
    colbert,
    embedding,
    layers,
    precedence,
    processing,
    sentence_modules,
    static_words,
    text_plan,
    yes_no,
)
from .layers import LayerStep, Steps
from .tasks import POOLER, Made, TaskHead, scoring_of

# config.json keys that serving shows, or that an artifact is asked for again with
# (runtime/artifact/overrides.py).
SHOWN = (
    "model_type", "architectures", "num_labels", "id2label", "problem_type", "hidden_size", "vocab_size",
    "max_position_embeddings",
    "io_processor_plugin", "classifier_from_token", "method", "is_original_qwen3_reranker", "lora_task",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    tasks: tuple[Task, ...]
    """The first is the default."""
    scoring: Scoring | None
    text: TextPreparation
    heads: dict[str, Head]
    """Task -> head, as the manifest holds it."""
    parts: tuple[TaskHead, ...]
    """In the order of `tasks`; one graph output each, named by its head."""
    inputs: tuple[str, ...]
    published: str | None = None
    """Class of transformers whose own head computes the one part; None: the backbone and our layers do."""
    chunked: bool
    max_embed_tokens: int | None
    config: dict[str, object]
    files: dict[str, bytes]
    """Files the text preparation needs (`tokenizer.json`, templates): name -> content."""
    guesses: tuple[Guess, ...]
    """Those of the checkpoint, then the heads'."""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(str(guess) for guess in self.guesses)


@refuses("its head cannot be planned")
def plan(checkpoint: Checkpoint) -> Plan:
    """Raises CheckpointError: tensors of a head are missing (all of them named), or a
    setting is not understood."""
    guesses = list(checkpoint.guesses)
    limit, found = text_plan.max_tokens(checkpoint)
    guesses += found
    processing.check(checkpoint)
    if (shorter := processing.max_length(checkpoint)) is not None and shorter < limit:
        limit = shorter
        guesses.append(Guess("max tokens", str(limit), "processing_kwargs of sentence_bert_config.json"))
    tasks, scoring, parts, heads = KINDS[checkpoint.kind](checkpoint, guesses)
    checks.check_classifier(checkpoint)
    checks.check_adapter(
        checkpoint,
        (step for part in parts for step in (*part.before, *part.after) if isinstance(step, LayerStep)),
    )
    roles: dict[str, Role] = {}
    if checkpoint.kind == "colbert":
        roles, told = colbert.roles(checkpoint, limit)
        guesses += told
    static = checkpoint.sentence.static if checkpoint.sentence is not None else None
    if static is not None:
        roles, told = static_words.roles(checkpoint, static, limit)
        guesses += told
    elif scoring == "bi-encoder":
        roles = text_plan.prompted_roles(checkpoint)
    if checkpoint.recipe is not None and checkpoint.recipe.roles:
        roles = roles | checkpoint.recipe.roles
    if checkpoint.pooler.task is not None:
        if checkpoint.pooler.task not in tasks:
            raise CheckpointError(
                f"pooler config: task {checkpoint.pooler.task!r} is not one of this model's: "
                f"{', '.join(tasks)}"
            )
        first = checkpoint.pooler.task
        tasks = tuple(sorted(tasks, key=lambda task: task != first))
        scoring = (
            scoring_of(first, heads) if checkpoint.kind != "bge-m3" or first != "token_classify" else None
        )
    guesses.append(
        Guess("tasks", ", ".join(tasks), f"{tasks[0]} by default", '--pooler-config \'{"task": "..."}\'')
    )
    if scoring:
        guesses.append(Guess("scoring", scoring, f"follows from {tasks[0]}"))
    files = text_plan.files(checkpoint)
    prepared = text_plan.text(checkpoint, limit, roles, files, heads, guesses)
    parts_by_task = {part.task: part for part in parts}
    return Plan(
        tasks=tasks,
        scoring=scoring,
        text=prepared,
        heads={task: heads[task] for task in tasks},
        parts=tuple(parts_by_task[task] for task in tasks),
        inputs=(
            *checkpoint.family.inputs,
            *(["token_kinds"] if static is not None or not prepared.pools_prompts else []),
        ),
        published=parts[0].published,
        chunked=checkpoint.pooler.enable_chunked_processing,
        max_embed_tokens=checkpoint.pooler.max_embed_len,
        config={key: checkpoint.config[key] for key in SHOWN if checkpoint.config.get(key) is not None},
        files=files,
        guesses=tuple(guesses),
    )


# --- kinds
# ------------------------------------------------------------------------------------------------------------


def _classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
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
    sigma: float | None = None
    if answers is not None:
        pool, why = "last", "rows of the language model's output in the place of a classifier"
        guesses.append(Guess("classifier", *yes_no.told(checkpoint), "--hf-overrides"))
        after, dim = tokens, _ = answers
    elif known is not None and _has_sequence_head(checkpoint, known):
        sigma = float(checkpoint.config.get(known.sigma_key, 1.0)) if known.sigma_key else None
        pool = precedence.known_pool(
            checkpoint,
            str(checkpoint.config.get(known.pool_key, known.pool)) if known.pool_key else known.pool,
        )
        why = f"the head of {checkpoint.architecture}"
        after, dim = layers.steps(checkpoint, known.layers, hidden)
        tokens, _ = layers.steps(checkpoint, known.tokens, hidden)
    else:
        # vLLM's conversion: one linear layer `score` behind the last token, unless the pooling is asked for.
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
        checkpoint, guesses, part, tokens, labels, precedence.activations(checkpoint, dim), sigma
    )


def _modular(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    """A cross-encoder of Sentence Transformers' modules: pooling and layers behind a bare encoder, the last
    of them writes the scores."""
    assert checkpoint.sentence is not None
    route = module_chain.scores(checkpoint.sentence, all_layers=sentence_modules.mixes(checkpoint))
    assert route is not None
    if route.pooling is None:
        raise CheckpointError(
            f"{checkpoint.source}: modules.json makes scores without a Pooling module; expected one "
            "score of a pair"
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
        checkpoint, guesses, part, tokens, labels, precedence.modular_activations(checkpoint, dim), None
    )


def _labelled(
    checkpoint: Checkpoint, guesses: list[Guess], part: TaskHead, tokens: Steps | None,
    labels: tuple[str, ...],
    activations: tuple[dict[str, Any], str], sigma: float | None,
) -> Made:  # fmt: skip
    """`tokens`: what is done to every token for token_classify; None: the model has no such task."""
    dim, (chosen, why) = part.dim, activations
    guesses.append(Guess("labels", ", ".join(labels) if dim > 1 else f"{dim}, a score", "config.json"))
    override = '--hf-overrides \'{"problem_type": "..."}\', or use_activation of a request'
    guesses.append(Guess("activation", chosen["activation"], why, override))
    mean, sigma = (
        checkpoint.pooler.mean,
        sigma if checkpoint.pooler.logit_sigma is None else checkpoint.pooler.logit_sigma,
    )
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
    """Whether the family's own head is meant: by its name, or for another name of a
    classifier by its tensors."""
    if checkpoint.architecture.endswith("ForSequenceClassification"):
        return True
    if not detection.is_classification(checkpoint.architecture):
        return False
    try:
        layers.steps(checkpoint, known.layers, layers.hidden_size(checkpoint))
    except CheckpointError:
        return False
    return True


def _published_classify(checkpoint: Checkpoint, guesses: list[Guess], name: str) -> Made:
    """The class pools and classifies by itself, so no other pooling can be asked for,
    and tokens have no scores."""
    if checkpoint.pooler.pool is not None:
        raise CheckpointError(
            f"{checkpoint.source}: {name} pools by itself; leave pooling_type out of --pooler-config"
        )
    guesses.append(Guess("head", name, "transformers' own, pooling included"))
    dim = _published_class.labels(checkpoint, name)
    part = TaskHead(task="classify", pools=(), published=name, dim=dim)
    labels, activations = precedence.labels_of(checkpoint, dim), precedence.activations(checkpoint, dim)
    return _labelled(checkpoint, guesses, part, None, labels, activations, None)


def _token_classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
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
        output="out_token_classify", dim=dim, pool="tokens", labels=labels, logit_mean=checkpoint.pooler.mean,
        logit_sigma=checkpoint.pooler.logit_sigma, **activations,
    )  # fmt: skip
    part = TaskHead(task="token_classify", pools=("tokens",), published=published, after=after, dim=dim)
    return ("token_classify",), None, [part], {"token_classify": head}


def _reward(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    reward = checkpoint.family.rewards[checkpoint.architecture]
    after, dim = layers.steps(checkpoint, reward.layers, layers.hidden_size(checkpoint))
    named = checkpoint.config.get("id2label") or {}
    labels = (
        precedence.labels_of(checkpoint, dim)
        if len(named) == dim
        else tuple(f"LABEL_{index}" for index in range(dim))
    )
    activations, why = precedence.activations(checkpoint, dim, raw=reward.raw)
    guesses.append(
        Guess(
            "activation",
            activations["activation"],
            why,
            ("--pooler-config '{\"use_activation\": true|false}'"),
        )
    )
    tag = reward.step_tag_id if checkpoint.pooler.step_tag_id is None else checkpoint.pooler.step_tag_id
    stepped = reward.step_tag_id is not None or checkpoint.pooler.steps
    if stepped:
        override = "--pooler-config '{\"step_tag_id\": ...}'"
        guesses.append(Guess("steps", f"rows of token {tag}", "the model ends each step with it", override))
    head = Head(
        output="out_token_classify", dim=dim, pool="step" if stepped else "tokens", labels=labels,
        logit_mean=checkpoint.pooler.mean, logit_sigma=checkpoint.pooler.logit_sigma,
        step_tag_id=tag if stepped else None,
        returned_token_ids=checkpoint.pooler.returned_token_ids or (), **activations,
    )  # fmt: skip
    return (
        ("token_classify",),
        None,
        [TaskHead(task="token_classify", pools=("tokens",), after=after, dim=dim)],
        {"token_classify": head},
    )


def _listwise(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    assert checkpoint.family.listwise is not None
    marks = (checkpoint.family.listwise.document_token, checkpoint.family.listwise.query_token)
    ids = [checkpoint.text.id(token) for token in marks]
    if None in ids:
        raise CheckpointError(f"{checkpoint.source}: {' and '.join(marks)} must be tokens of the vocabulary")
    after, dim = layers.steps(checkpoint, checkpoint.family.projection, layers.hidden_size(checkpoint))
    guesses.append(
        Guess(
            "rows",
            (f"those of tokens {ids[0]} (documents) and {ids[1]} (the query)"),
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


KINDS: dict[Kind, Callable[[Checkpoint, list[Guess]], Made]] = {
    "embed": embedding.embed, "splade": embedding.splade, "colbert": embedding.colbert,
    "bge-m3": embedding.bge_m3,
    "classify": _classify, "modular": _modular, "token_classify": _token_classify,
    "reward": _reward, "listwise": _listwise,
}  # fmt: skip

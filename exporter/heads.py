"""From a checkpoint to a plan: which tasks it serves, what the graph computes for each, and what the runtime still does.

No torch here; the modules that carry a plan out are in head_modules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Head, Pool, Role, Scoring, Task, Text
from . import choices, detection, late_interaction, layers, lora, text_plan, token_rows
from .architectures import Classifier, Layer, _published
from .checkpoint import Checkpoint
from .detection import PREDICTS_WORDS, Guess, Kind
from .layers import Step
from .refusals import refuses

POOLER = '--pooler-config \'{"pooling_type": "CLS|LAST|MEAN"}\''
# config.json keys that serving shows, or that an artifact is asked for again with (runtime/overrides.py).
SHOWN = (
    "model_type", "architectures", "num_labels", "id2label", "problem_type", "hidden_size", "vocab_size", "max_position_embeddings",
    "io_processor_plugin", "classifier_from_token", "method", "is_original_qwen3_reranker", "lora_task",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the graph computes for one task: layers on every token, pooling, layers on what was pooled."""

    task: Task
    pools: tuple[Pool, ...]
    """Concatenated; `tokens` alone: no pooling; none: pooled already, by the published class."""
    published: str | None = None
    """Class of transformers that computes this part with its own head."""
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    tasks: tuple[Task, ...]
    """The first is the default."""
    scoring: Scoring | None
    text: Text
    heads: dict[str, Head]
    """Task -> head, as the manifest holds it."""
    parts: tuple[Part, ...]
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
    """Raises CheckpointError: tensors of a head are missing (all of them named), or a setting is not understood."""
    guesses = list(checkpoint.guesses)
    limit, found = text_plan.max_tokens(checkpoint)
    guesses += found
    tasks, scoring, parts, heads = KINDS[checkpoint.kind](checkpoint, guesses)
    lora.check_heads(checkpoint, (step for part in parts for step in (*part.before, *part.after)))
    roles: dict[str, Role] = {}
    if checkpoint.kind == "colbert":
        roles, told = late_interaction.roles(checkpoint, limit)
        guesses += told
    if checkpoint.recipe is not None and checkpoint.recipe.roles:
        roles = roles | checkpoint.recipe.roles
    if checkpoint.pooler.task is not None:
        if checkpoint.pooler.task not in tasks:
            raise CheckpointError(f"pooler config: task {checkpoint.pooler.task!r} is not one of this model's: {', '.join(tasks)}")
        first = checkpoint.pooler.task
        tasks = tuple(sorted(tasks, key=lambda task: task != first))
        scoring = _scoring(first, heads) if checkpoint.kind != "bge-m3" or first != "token_classify" else None
    guesses.append(Guess("tasks", ", ".join(tasks), f"{tasks[0]} by default", '--pooler-config \'{"task": "..."}\''))
    if scoring:
        guesses.append(Guess("scoring", scoring, f"follows from {tasks[0]}"))
    files = text_plan.files(checkpoint)
    parts_by_task = {part.task: part for part in parts}
    return Plan(
        tasks=tasks,
        scoring=scoring,
        text=text_plan.text(checkpoint, limit, roles, files, heads, guesses),
        heads={task: heads[task] for task in tasks},
        parts=tuple(parts_by_task[task] for task in tasks),
        inputs=checkpoint.family.inputs,
        published=parts[0].published,
        chunked=checkpoint.pooler.enable_chunked_processing,
        max_embed_tokens=checkpoint.pooler.max_embed_len,
        config={key: checkpoint.config[key] for key in SHOWN if checkpoint.config.get(key) is not None},
        files=files,
        guesses=tuple(guesses),
    )


def _scoring(task: Task, heads: Mapping[str, Head]) -> Scoring | None:
    if task == "classify":
        return "cross-encoder" if heads[task].dim == 1 else None
    return {"embed": "bi-encoder", "token_embed": "late-interaction"}.get(task)  # pyright: ignore[reportReturnType]


# --- kinds ------------------------------------------------------------------------------------------------------------------------

Made = tuple[tuple[Task, ...], Scoring | None, list[Part], dict[str, Head]]


def _embed(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    pools, why = choices.pools(checkpoint)
    meant = checkpoint.sentence is not None or checkpoint.recipe is not None or checkpoint.adapter is not None
    if not meant and checkpoint.architecture.endswith(PREDICTS_WORDS) and "convert" not in checkpoint.overrides:
        why_not = f"{checkpoint.architecture} predicts words, and neither Sentence Transformers files nor a recipe make it an embedder"
        guesses.append(
            Guess("warning", "not trained to embed, so its vectors may mean little", why_not, "--convert embed says it is meant")
        )
    guesses.append(Guess("pooling", " + ".join(pools), why, POOLER))
    dense = (*checkpoint.family.projection, *layers.dense(checkpoint))
    hidden = layers.hidden_size(checkpoint)
    # Token embeddings go through the same Dense layers, which only fits when one pooling feeds them.
    after, dim = layers.steps(checkpoint, dense, hidden * len(pools))
    tokens, token_dim = (after, dim) if len(pools) == 1 else ((), hidden)
    if dense:
        widths = " → ".join(str(width) for width in (hidden * len(pools), *layers.widths(checkpoint, after)))
        guesses.append(Guess("dense", widths, ", ".join(layer.where or layer.name for layer in dense)))
    activation, told = choices.normalisation(checkpoint)
    guesses.append(told)
    ladder = choices.matryoshka(checkpoint, dim)
    normed = checkpoint.recipe is not None and checkpoint.recipe.norm_before_cut
    parts = [
        Part(task="embed", pools=pools, after=after, dim=dim),
        Part(task="token_embed", pools=("tokens",), after=tokens, dim=token_dim),
    ]
    heads = {
        "embed": Head(output="out_embed", dim=dim, pool=pools[0], activation=activation, norm_before_cut=normed, **ladder),
        "token_embed": Head(output="out_token_embed", dim=token_dim, pool="tokens", activation=activation, **ladder),
    }
    return ("embed", "token_embed"), "bi-encoder", parts, heads


def _splade(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    found = checkpoint.sentence.splade if checkpoint.sentence else None
    strategy, twice = (found.strategy, found.activation == "log1p_relu") if found else ("max", False)
    pool: Pool = "splade" if strategy == "max" else "splade_sum"
    told = f"{strategy} over tokens of log(1 + relu)" + (", taken twice" if twice else "")
    guesses.append(Guess("pooling", told, "SpladePooling of modules.json" if found else "default of SPLADE"))
    vocabulary = checkpoint.family.vocabulary
    if not vocabulary:
        return _published_splade(checkpoint, guesses, pool, twice=twice)
    if twice:
        vocabulary = (*vocabulary[:-1], replace(vocabulary[-1], activation="log1p_relu"))
    hidden = layers.hidden_size(checkpoint)
    before, dim = layers.steps(checkpoint, vocabulary, hidden)
    parts = [
        Part(task="embed", pools=(pool,), before=before, dim=dim),
        Part(task="token_embed", pools=("tokens",), dim=hidden),
    ]
    heads = {
        "embed": Head(output="out_embed", dim=dim, pool=pool, activation="identity", sparse=True),
        "token_embed": Head(output="out_token_embed", dim=hidden, pool="tokens", activation=choices.unless_off(checkpoint, "l2")),
    }
    return ("embed", "token_embed"), "bi-encoder", parts, heads


def _published_splade(checkpoint: Checkpoint, guesses: list[Guess], pool: Pool, *, twice: bool) -> Made:
    name = _published.class_name(checkpoint, "splade")
    if name is None:
        raise CheckpointError(f"{checkpoint.source}: {checkpoint.family.names[0]} has no masked-language-model head, which SPLADE needs")
    if twice:
        raise CheckpointError(f"{checkpoint.source}: SpladePooling with activation 'log1p_relu' over {name}; expected 'relu'")
    guesses.append(Guess("head", name, "transformers' own"))
    dim = _published.labels(checkpoint, name)
    part = Part(task="embed", pools=(pool,), published=name, dim=dim)
    head = Head(output="out_embed", dim=dim, pool=pool, activation="identity", sparse=True)
    return ("embed",), "bi-encoder", [part], {"embed": head}


def _colbert(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    hidden = layers.hidden_size(checkpoint)
    projection = (Layer(name="linear", names=("colbert_linear",), bias=None),) if _own_projection(checkpoint) else layers.dense(checkpoint)
    after, dim = layers.steps(checkpoint, projection, hidden)
    guesses.append(Guess("projection", f"{hidden} → {dim}", ", ".join(step.weight for step in after) or "none"))
    part = Part(task="token_embed", pools=("tokens",), after=after, dim=dim)
    head = Head(
        output="out_token_embed",
        dim=dim,
        pool="tokens",
        activation=choices.unless_off(checkpoint, "l2"),
        **choices.matryoshka(checkpoint, dim),
    )
    return ("token_embed",), "late-interaction", [part], {"token_embed": head}


def _own_projection(checkpoint: Checkpoint) -> bool:
    found = any(checkpoint.weights.find(f"{name}.weight") for name in ("linear", "colbert_linear"))
    return found or not (checkpoint.sentence and checkpoint.sentence.dense)


def _bge_m3(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    tasks, scoring, parts, heads = _embed(checkpoint, guesses)
    hidden = layers.hidden_size(checkpoint)
    sparse, sparse_dim = layers.steps(checkpoint, (Layer(name="", where="sparse_linear.pt"),), hidden)
    colbert, colbert_dim = layers.steps(checkpoint, (Layer(name="", where="colbert_linear.pt"),), hidden)
    parts = [
        parts[0],
        Part(task="token_embed", pools=("tokens",), after=colbert, dim=colbert_dim),
        Part(task="token_classify", pools=("tokens",), after=sparse, dim=sparse_dim),
    ]
    # The library drops the first token of both; vLLM also drops the last of the sparse weights. Both mean <s> and </s>: a text that
    # is given as ids, or cut from the left, may have a word in their place.
    first, last = (checkpoint.config.get(f"{name}_id", checkpoint.text.ids.get(name)) for name in ("bos_token", "eos_token"))
    heads["token_embed"] = replace(heads["token_embed"], dim=colbert_dim, drop_first=1, drop_first_id=first)
    heads["token_classify"] = Head(
        output="out_token_classify", dim=sparse_dim, pool="tokens", activation="relu", drop_first=1, drop_last=1,
        drop_first_id=first, drop_last_id=last, flat=True, sparse=True,
    )  # fmt: skip
    return (*tasks, "token_classify"), scoring, parts, heads


def _classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    known = checkpoint.family.sequence
    answers = token_rows.layer(checkpoint)
    published = _published.class_name(checkpoint, "classify") if known is None and answers is None else None
    if published is not None:
        return _published_classify(checkpoint, guesses, published)
    sigma: float | None = None
    if answers is not None:
        chain = token_chain = (answers,)
        pool, why = "last", f"rows of {answers.name} in the place of a classifier"
        guesses.append(Guess("classifier", *token_rows.told(checkpoint), "--hf-overrides"))
    elif known is not None and _has_sequence_head(checkpoint, known):
        chain, token_chain = known.layers, known.tokens
        sigma = float(checkpoint.config.get(known.sigma_key, 1.0)) if known.sigma_key else None
        pool = choices.known_pool(checkpoint, str(checkpoint.config.get(known.pool_key, known.pool)) if known.pool_key else known.pool)
        why = f"the head of {checkpoint.architecture}"
    else:
        # vLLM's conversion: one linear layer `score` behind the last token, unless the pooling is asked for.
        chain = token_chain = (Layer(name="score", names=("classifier",), bias=None),)
        pool, why = "last", "--convert classify"
    if checkpoint.pooler.pool is not None:
        pool, why = checkpoint.pooler.pool, "pooler config"
    guesses.append(Guess("pooling", pool, why, POOLER))
    after, dim = layers.steps(checkpoint, chain, layers.hidden_size(checkpoint))
    tokens, _ = layers.steps(checkpoint, token_chain, layers.hidden_size(checkpoint))
    head = _sequence_head(checkpoint, guesses, pool, dim, sigma)
    heads = {"classify": head, "token_classify": replace(head, output="out_token_classify", pool="tokens")}
    parts = [
        Part(task="classify", pools=(pool,), after=after, dim=dim),
        Part(task="token_classify", pools=("tokens",), after=tokens, dim=dim),
    ]
    return ("classify", "token_classify"), _scoring("classify", heads), parts, heads


def _has_sequence_head(checkpoint: Checkpoint, known: Classifier) -> bool:
    """Whether the family's own head is meant: by its name, or for another name of a classifier by its tensors."""
    if checkpoint.architecture.endswith("ForSequenceClassification"):
        return True
    if not detection.is_classification(checkpoint.architecture):
        return False
    try:
        layers.steps(checkpoint, known.layers, layers.hidden_size(checkpoint))
    except CheckpointError:
        return False
    return True


def _sequence_head(checkpoint: Checkpoint, guesses: list[Guess], pool: Pool, dim: int, sigma: float | None) -> Head:
    labels = choices.labels_of(checkpoint, dim)
    activations, why = choices.activations(checkpoint, dim)
    guesses.append(Guess("labels", ", ".join(labels) if dim > 1 else f"{dim}, a score", "config.json"))
    override = '--hf-overrides \'{"problem_type": "..."}\', or use_activation of a request'
    guesses.append(Guess("activation", activations["activation"], why, override))
    mean, sigma = checkpoint.pooler.mean, sigma if checkpoint.pooler.logit_sigma is None else checkpoint.pooler.logit_sigma
    return Head(output="out_classify", dim=dim, pool=pool, labels=labels, logit_mean=mean, logit_sigma=sigma, **activations)


def _published_classify(checkpoint: Checkpoint, guesses: list[Guess], name: str) -> Made:
    """The class pools and classifies by itself, so no other pooling can be asked for, and tokens have no scores."""
    if checkpoint.pooler.pool is not None:
        raise CheckpointError(f"{checkpoint.source}: {name} pools by itself; leave pooling_type out of --pooler-config")
    guesses.append(Guess("head", name, "transformers' own, pooling included"))
    dim = _published.labels(checkpoint, name)
    heads = {"classify": _sequence_head(checkpoint, guesses, checkpoint.family.pool, dim, None)}
    return ("classify",), _scoring("classify", heads), [Part(task="classify", pools=(), published=name, dim=dim)], heads


def _token_classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    chain = checkpoint.family.tokens or (Layer(name="classifier", names=("score",), bias=None),)
    published = None if checkpoint.family.tokens else _published.class_name(checkpoint, "token_classify")
    if published is not None:
        guesses.append(Guess("head", published, "transformers' own"))
        after, dim = (), _published.labels(checkpoint, published)
    else:
        after, dim = layers.steps(checkpoint, chain, layers.hidden_size(checkpoint))
    labels = choices.labels_of(checkpoint, dim)
    activations, why = choices.activations(checkpoint, dim)
    guesses.append(Guess("labels", ", ".join(labels), "config.json, id2label"))
    guesses.append(Guess("activation", activations["activation"], why, "use_activation of a request"))
    head = Head(
        output="out_token_classify", dim=dim, pool="tokens", labels=labels, logit_mean=checkpoint.pooler.mean,
        logit_sigma=checkpoint.pooler.logit_sigma, **activations,
    )  # fmt: skip
    part = Part(task="token_classify", pools=("tokens",), published=published, after=after, dim=dim)
    return ("token_classify",), None, [part], {"token_classify": head}


def _reward(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    reward = checkpoint.family.rewards[checkpoint.architecture]
    after, dim = layers.steps(checkpoint, reward.layers, layers.hidden_size(checkpoint))
    named = checkpoint.config.get("id2label") or {}
    labels = choices.labels_of(checkpoint, dim) if len(named) == dim else tuple(f"LABEL_{index}" for index in range(dim))
    activations, why = choices.activations(checkpoint, dim, raw=reward.raw)
    guesses.append(Guess("activation", activations["activation"], why, "--pooler-config '{\"use_activation\": true|false}'"))
    tag = reward.step_tag_id if checkpoint.pooler.step_tag_id is None else checkpoint.pooler.step_tag_id
    stepped = reward.step_tag_id is not None or checkpoint.pooler.steps
    if stepped:
        override = "--pooler-config '{\"step_tag_id\": ...}'"
        guesses.append(Guess("steps", f"rows of token {tag}", "the model ends each step with it", override))
    head = Head(
        output="out_token_classify", dim=dim, pool="step" if stepped else "tokens", labels=labels,
        logit_mean=checkpoint.pooler.mean, logit_sigma=checkpoint.pooler.logit_sigma, step_tag_id=tag if stepped else None,
        returned_token_ids=checkpoint.pooler.returned_token_ids or (), **activations,
    )  # fmt: skip
    return ("token_classify",), None, [Part(task="token_classify", pools=("tokens",), after=after, dim=dim)], {"token_classify": head}


def _listwise(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    assert checkpoint.family.listwise is not None
    marks = (checkpoint.family.listwise.document_token, checkpoint.family.listwise.query_token)
    ids = [checkpoint.text.id(token) for token in marks]
    if None in ids:
        raise CheckpointError(f"{checkpoint.source}: {' and '.join(marks)} must be tokens of the vocabulary")
    after, dim = layers.steps(checkpoint, checkpoint.family.projection, layers.hidden_size(checkpoint))
    guesses.append(Guess("rows", f"those of tokens {ids[0]} (documents) and {ids[1]} (the query)", "what the model was trained to compare"))
    keep = tuple(token for token in ids if token is not None)
    head = Head(output="out_token_embed", dim=dim, pool="tokens", activation="identity", keep_ids=keep)
    return ("token_embed",), "listwise", [Part(task="token_embed", pools=("tokens",), after=after, dim=dim)], {"token_embed": head}


KINDS: dict[Kind, Callable[[Checkpoint, list[Guess]], Made]] = {
    "embed": _embed, "splade": _splade, "colbert": _colbert, "bge-m3": _bge_m3, "classify": _classify, "token_classify": _token_classify,
    "reward": _reward, "listwise": _listwise,
}  # fmt: skip

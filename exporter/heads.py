"""From a checkpoint to a plan: which tasks it serves, what the graph computes for each, and what the runtime still does.

No torch here; the modules that carry a plan out are in head_modules.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..runtime.errors import CheckpointError
from ..runtime.manifest import Activation, Head, Pool, Role, Scoring, Task, Text
from . import late_interaction, lengths, weights
from .architectures import Layer
from .checkpoint import Checkpoint
from .detection import Guess, Kind

POOLER = '--pooler-config \'{"pooling_type": "CLS|LAST|MEAN"}\''
# Activations inside a head, by the last part of a torch class name in lower case.
ACTIVATIONS = ("identity", "tanh", "relu", "gelu", "silu", "sigmoid")
# config.json keys that serving shows.
SHOWN = ("model_type", "architectures", "num_labels", "id2label", "problem_type", "hidden_size", "vocab_size", "max_position_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What the graph computes for one task: layers on every token, pooling, layers on what was pooled."""

    task: Task
    pools: tuple[Pool, ...]
    """Concatenated; `tokens` alone: no pooling."""
    before: tuple[Step, ...] = ()
    after: tuple[Step, ...] = ()
    dim: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A layer with its tensors found."""

    layer: Layer
    weight: str
    bias: str | None
    residual: str | None
    activation: str
    """One of ACTIVATIONS."""
    eps: float


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


def plan(checkpoint: Checkpoint) -> Plan:
    """Raises CheckpointError: tensors of a head are missing (all of them named), or a setting is not understood."""
    guesses = list(checkpoint.guesses)
    limit, found = lengths.max_tokens(checkpoint)
    guesses += found
    tasks, scoring, parts, heads = KINDS[checkpoint.kind](checkpoint, guesses)
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
    files = _files(checkpoint)
    parts_by_task = {part.task: part for part in parts}
    return Plan(
        tasks=tasks,
        scoring=scoring,
        text=_text(checkpoint, limit, roles, files, heads, guesses),
        heads={task: heads[task] for task in tasks},
        parts=tuple(parts_by_task[task] for task in tasks),
        inputs=checkpoint.family.inputs,
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
    pools, why = _pools(checkpoint)
    guesses.append(Guess("pooling", " + ".join(pools), why, POOLER))
    dense = _dense(checkpoint)
    hidden = _hidden(checkpoint)
    # Token embeddings go through the same Dense layers, which only fits when one pooling feeds them.
    after, dim = steps(checkpoint, dense, hidden * len(pools))
    tokens, token_dim = (after, dim) if len(pools) == 1 else ((), hidden)
    if dense:
        widths = " → ".join(str(checkpoint_width) for checkpoint_width in (hidden * len(pools), *_widths(checkpoint, after)))
        guesses.append(Guess("dense", widths, ", ".join(layer.where for layer in dense)))
    activation, told = _normalisation(checkpoint)
    guesses.append(told)
    ladder = _matryoshka(checkpoint, dim)
    parts = [
        Part(task="embed", pools=pools, after=after, dim=dim),
        Part(task="token_embed", pools=("tokens",), after=tokens, dim=token_dim),
    ]
    heads = {
        "embed": Head(output="out_embed", dim=dim, pool=pools[0], activation=activation, **ladder),
        "token_embed": Head(output="out_token_embed", dim=token_dim, pool="tokens", activation=activation, **ladder),
    }
    return ("embed", "token_embed"), "bi-encoder", parts, heads


def _colbert(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    projection = (Layer(name="linear", names=("colbert_linear",), bias=None),) if _own_projection(checkpoint) else _dense(checkpoint)
    after, dim = steps(checkpoint, projection, _hidden(checkpoint))
    guesses.append(Guess("projection", f"{_hidden(checkpoint)} → {dim}", ", ".join(step.weight for step in after) or "none found"))
    part = Part(task="token_embed", pools=("tokens",), after=after, dim=dim)
    head = Head(output="out_token_embed", dim=dim, pool="tokens", activation=_unless_off(checkpoint, "l2"), **_matryoshka(checkpoint, dim))
    return ("token_embed",), "late-interaction", [part], {"token_embed": head}


def _own_projection(checkpoint: Checkpoint) -> bool:
    found = any(checkpoint.weights.find(f"{name}.weight") for name in ("linear", "colbert_linear"))
    return found or not (checkpoint.sentence and checkpoint.sentence.dense)


def _bge_m3(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    tasks, scoring, parts, heads = _embed(checkpoint, guesses)
    hidden = _hidden(checkpoint)
    sparse, sparse_dim = steps(checkpoint, (Layer(name="", where="sparse_linear.pt"),), hidden)
    colbert, colbert_dim = steps(checkpoint, (Layer(name="", where="colbert_linear.pt"),), hidden)
    parts = [
        parts[0],
        Part(task="token_embed", pools=("tokens",), after=colbert, dim=colbert_dim),
        Part(task="token_classify", pools=("tokens",), after=sparse, dim=sparse_dim),
    ]
    # The library drops the first token of both; vLLM also drops the last of the sparse weights.
    heads["token_embed"] = replace(heads["token_embed"], dim=colbert_dim, drop_first=1)
    heads["token_classify"] = Head(
        output="out_token_classify", dim=sparse_dim, pool="tokens", activation="relu", drop_first=1, drop_last=1, flat=True, sparse=True
    )
    return (*tasks, "token_classify"), scoring, parts, heads


def _classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    known = checkpoint.family.sequence
    if known is not None and checkpoint.architecture.endswith("ForSequenceClassification"):
        layers, token_layers = known.layers, known.tokens
        pool = _known_pool(checkpoint, str(checkpoint.config.get(known.pool_key, known.pool)) if known.pool_key else known.pool)
        why = f"the head of {checkpoint.architecture}"
    else:
        # vLLM's conversion: one linear layer `score` behind the last token, unless the pooling is asked for.
        layers = token_layers = (Layer(name="score", names=("classifier",), bias=None),)
        pool, why = "last", "--convert classify"
    if checkpoint.pooler.pool is not None:
        pool, why = checkpoint.pooler.pool, "pooler config"
    guesses.append(Guess("pooling", pool, why, POOLER))
    after, dim = steps(checkpoint, layers, _hidden(checkpoint))
    tokens, _ = steps(checkpoint, token_layers, _hidden(checkpoint))
    labels = _labels(checkpoint, dim)
    activation, why = _classifier_activation(checkpoint, dim)
    guesses.append(Guess("labels", ", ".join(labels) if dim > 1 else f"{dim}, a score", "config.json"))
    guesses.append(Guess("activation", activation, why, '--hf-overrides \'{"problem_type": "..."}\', or use_activation of a request'))
    mean, sigma = checkpoint.pooler.mean, checkpoint.pooler.logit_sigma
    head = Head(output="out_classify", dim=dim, pool=pool, activation=activation, labels=labels, logit_mean=mean, logit_sigma=sigma)
    heads = {"classify": head, "token_classify": replace(head, output="out_token_classify", pool="tokens")}
    parts = [
        Part(task="classify", pools=(pool,), after=after, dim=dim),
        Part(task="token_classify", pools=("tokens",), after=tokens, dim=dim),
    ]
    return ("classify", "token_classify"), _scoring("classify", heads), parts, heads


def _token_classify(checkpoint: Checkpoint, guesses: list[Guess]) -> Made:
    layers = checkpoint.family.tokens or (Layer(name="classifier", names=("score",), bias=None),)
    after, dim = steps(checkpoint, layers, _hidden(checkpoint))
    labels = _labels(checkpoint, dim)
    activation, why = _classifier_activation(checkpoint, dim)
    guesses.append(Guess("labels", ", ".join(labels), "config.json, id2label"))
    guesses.append(Guess("activation", activation, why, "use_activation of a request"))
    head = Head(
        output="out_token_classify", dim=dim, pool="tokens", activation=activation, labels=labels,
        logit_mean=checkpoint.pooler.mean, logit_sigma=checkpoint.pooler.logit_sigma,
    )  # fmt: skip
    return ("token_classify",), None, [Part(task="token_classify", pools=("tokens",), after=after, dim=dim)], {"token_classify": head}


KINDS: dict[Kind, Callable[[Checkpoint, list[Guess]], Made]] = {
    "embed": _embed, "colbert": _colbert, "bge-m3": _bge_m3, "classify": _classify, "token_classify": _token_classify,
}  # fmt: skip


# --- pooling, normalisation, activation ----------------------------------------------------------------------------------------------


def _pools(checkpoint: Checkpoint) -> tuple[tuple[Pool, ...], str]:
    if checkpoint.pooler.pool is not None:
        return (checkpoint.pooler.pool,), "pooler config"
    if checkpoint.sentence is not None and checkpoint.sentence.pools:
        return checkpoint.sentence.pools, "the Pooling module of modules.json"
    if "ForCausalLM" in checkpoint.architecture:
        return ("last",), "default of converted decoders"
    return (checkpoint.family.pool,), f"no Pooling module; default of {checkpoint.family.names[0]}"


def _known_pool(checkpoint: Checkpoint, name: str) -> Pool:
    if name not in ("cls", "mean", "last"):
        raise CheckpointError(f"{checkpoint.source}: config.json asks for classifier pooling {name!r}; known are cls, mean, last")
    return name  # pyright: ignore[reportReturnType]


def _normalisation(checkpoint: Checkpoint) -> tuple[Activation, Guess]:
    override = "--pooler-config '{\"use_activation\": true|false}'"
    if checkpoint.pooler.use_activation is not None:
        value, why = checkpoint.pooler.use_activation, "pooler config"
    elif checkpoint.sentence is not None and checkpoint.sentence.pools:
        value = checkpoint.sentence.normalize
        why = f"modules.json has {'a' if value else 'no'} Normalize module"
    else:
        value, why = True, "no Sentence Transformers files: the default"
    return "l2" if value else "identity", Guess("normalised", "yes" if value else "no", why, override)


def _unless_off(checkpoint: Checkpoint, activation: Activation) -> Activation:
    return "identity" if checkpoint.pooler.use_activation is False else activation


def _classifier_activation(checkpoint: Checkpoint, labels: int) -> tuple[Activation, str]:
    """vLLM's order: problem_type, then the two keys of Sentence Transformers, then the number of labels."""
    config = checkpoint.config
    by_count: Activation = "sigmoid" if labels < 2 else "softmax"
    stored = (config.get("sentence_transformers") or {}).get("activation_fn")
    origin = "config.json, sentence_transformers.activation_fn"
    if stored is None:
        stored, origin = config.get("sbert_ce_default_activation_function"), "config.json, sbert_ce_default_activation_function"
    if checkpoint.pooler.use_activation is False:
        return "identity", "pooler config"
    if (problem := config.get("problem_type")) is not None:
        known: dict[str, Activation] = {
            "regression": "identity", "single_label_classification": by_count, "multi_label_classification": "sigmoid",
        }  # fmt: skip
        if problem not in known:
            raise CheckpointError(f"{checkpoint.source}: problem_type {problem!r}; known are {', '.join(known)}")
        return known[problem], f"config.json, problem_type {problem}"
    if stored is None:
        return by_count, f"{labels} label{'s' if labels > 1 else ''}"
    name = str(stored).rsplit(".", 1)[-1].lower()
    if not str(stored).startswith("torch.nn.modules.") or name not in ("identity", "sigmoid", "softmax", "tanh", "relu"):
        raise CheckpointError(
            f"{checkpoint.source}: activation {stored!r}; expected a class of torch.nn.modules: Identity, Sigmoid, Softmax, Tanh, ReLU"
        )
    return by_count if name in ("sigmoid", "softmax") else name, origin  # pyright: ignore[reportReturnType]


def _labels(checkpoint: Checkpoint, count: int) -> tuple[str, ...]:
    named = {int(index): str(name) for index, name in (checkpoint.config.get("id2label") or {}).items()}
    asked = checkpoint.config.get("num_labels")
    expected = asked if isinstance(asked, int) else len(named) or count
    if expected != count:
        raise CheckpointError(f"{checkpoint.source}: config.json names {expected} labels, the classifier has {count} rows")
    return tuple(named.get(index, f"LABEL_{index}") for index in range(count))


def _matryoshka(checkpoint: Checkpoint, dim: int) -> dict[str, Any]:
    widths = checkpoint.config.get("matryoshka_dimensions")
    default = checkpoint.pooler.dimensions
    if default is not None and default > dim:
        raise CheckpointError(f"pooler config: dimensions {default} is wider than the model's {dim}")
    if widths is not None:
        wrong = [width for width in widths if not isinstance(width, int) or not 1 <= width <= dim]
        if wrong:
            raise CheckpointError(f"matryoshka_dimensions: {wrong} are not between 1 and the model's {dim}")
        return {"matryoshka": tuple(sorted(widths)), "dimensions": default}
    return {"any_dimension": bool(checkpoint.config.get("is_matryoshka", False)), "dimensions": default}


# --- layers ---------------------------------------------------------------------------------------------------------------------------


def _hidden(checkpoint: Checkpoint) -> int:
    return int(checkpoint.config["hidden_size"])


def _dense(checkpoint: Checkpoint) -> tuple[Layer, ...]:
    found = checkpoint.sentence.dense if checkpoint.sentence else ()
    return tuple(
        Layer(name="linear", names=("dense", ""), where=dense.folder, bias=dense.bias, activation=dense.activation, residual=dense.residual)
        for dense in found
    )


def tensors(checkpoint: Checkpoint, where: str) -> weights.Weights:
    """The weights a layer names: the model's own, those of a folder inside the checkpoint, or a file."""
    if not where:
        return checkpoint.weights
    path = checkpoint.folder / where
    return weights.open_folder(path) if path.is_dir() else weights.open_files([path])


def steps(checkpoint: Checkpoint, layers: Sequence[Layer], width: int) -> tuple[tuple[Step, ...], int]:
    """Finds each layer's tensors and follows the widths; raises CheckpointError with all that is missing or does not fit."""
    made: list[Step] = []
    problems: list[str] = []
    for layer in layers:
        opened = tensors(checkpoint, layer.where)
        prefixes = () if layer.where else checkpoint.family.prefixes
        at = f" in {layer.where}" if layer.where else ""

        def key(name: str, last: str) -> str:
            return f"{name}.{last}" if name else last

        def look(last: str, layer: Layer = layer, opened: weights.Weights = opened, prefixes: tuple[str, ...] = prefixes) -> str | None:
            names = (layer.name, *layer.names)
            return next((found for name in names if (found := opened.find(key(name, last), prefixes)) is not None), None)

        weight, bias = look("weight"), look("bias") if layer.bias is not False else None
        if weight is None:
            problems.append(f"missing {key(layer.name, 'weight')}{at}")
        if bias is None and layer.bias is True:
            problems.append(f"missing {key(layer.name, 'bias')}{at}")
        if weight is None:
            continue
        shape = opened.shapes[weight]
        if shape[-1] != width and not problems:
            problems.append(f"{weight}{at} has shape {list(shape)}, expected {width} columns")
        width = shape[0] if layer.kind == "linear" else width
        residual = opened.find("residual.weight") if layer.residual else None
        made.append(Step(
            layer=layer, weight=weight, bias=bias, residual=residual, activation=_inner_activation(checkpoint, layer),
            eps=float(checkpoint.config[layer.eps]) if isinstance(layer.eps, str) else layer.eps,
        ))  # fmt: skip
    if problems:
        raise CheckpointError(f"{checkpoint.source}: the head of {checkpoint.architecture} is not complete: {'; '.join(problems)}")
    return tuple(made), width


def _widths(checkpoint: Checkpoint, made: Sequence[Step]) -> list[int]:
    return [tensors(checkpoint, step.layer.where).shapes[step.weight][0] for step in made]


def _inner_activation(checkpoint: Checkpoint, layer: Layer) -> str:
    asked = layer.activation
    if asked.startswith("@"):
        asked = str(checkpoint.config.get(asked[1:], "gelu"))
    name = asked.rsplit(".", 1)[-1].lower()
    if name not in ACTIVATIONS:
        raise CheckpointError(f"{checkpoint.source}: activation {asked!r} inside a head; known are {', '.join(ACTIVATIONS)}")
    return name


# --- text -----------------------------------------------------------------------------------------------------------------------------


def _files(checkpoint: Checkpoint) -> dict[str, bytes]:
    import json

    from .recipe import template

    files = {"tokenizer.json": checkpoint.text.json}
    if checkpoint.text.config:
        files["tokenizer_config.json"] = json.dumps(checkpoint.text.config, indent=2, ensure_ascii=False).encode()
    if checkpoint.text.chat_template is not None:
        files["chat_template.jinja"] = checkpoint.text.chat_template.encode()
    if checkpoint.recipe is not None and checkpoint.recipe.score_template is not None:
        files["score_template.jinja"] = template(checkpoint.recipe.score_template).encode()
    return files


def _text(
    checkpoint: Checkpoint, limit: int, roles: dict[str, Role], files: Mapping[str, bytes], heads: Mapping[str, Head], guesses: list[Guess]
) -> Text:
    sentence = checkpoint.sentence
    prompts = dict(sentence.prompts) if sentence else {}
    if checkpoint.recipe is not None:
        prompts |= checkpoint.recipe.prompts
    default = sentence.default_prompt if sentence else None
    if default is not None and default not in prompts:
        raise CheckpointError(f"{checkpoint.source}: default prompt {default!r} is not among the prompts: {', '.join(prompts) or 'none'}")
    if any(prompts.values()):
        guesses.append(
            Guess("prompts", ", ".join(name for name, prompt in prompts.items() if prompt), "applied only when a request names one")
        )
        if sentence is not None and not sentence.include_prompt:
            guesses.append(Guess("prompt tokens", "pooled with the text", "include_prompt false is not followed"))
    ends_with, told = lengths.ending(checkpoint) if any(head.pool == "last" for head in heads.values()) else (None, [])
    guesses += told
    separated = checkpoint.config.get("use_sep_token", checkpoint.config.get("use_pad_token", True))
    return Text(
        max_tokens=limit,
        vocab_size=int(checkpoint.config["vocab_size"]),
        pad_id=lengths.pad_id(checkpoint),
        lowercase=sentence.lowercase if sentence else False,
        pair="separator" if separated else "concatenate",
        roles=roles,
        prompts=prompts,
        default_prompt=default,
        special_tokens=dict(checkpoint.text.special),
        chat_template="chat_template.jinja" if "chat_template.jinja" in files else None,
        score_template="score_template.jinja" if "score_template.jinja" in files else None,
        ends_with=ends_with,
        tokenizer_config="tokenizer_config.json" if "tokenizer_config.json" in files else None,
    )

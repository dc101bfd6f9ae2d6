"""What a plain transformers model leaves to its user, in numpy and for one unpadded text: pooling,
normalisation, published heads.

It starts from the library's hidden states. It is written from the papers and model cards, and shares no code
with exporter/heads and reference.py, because they are compared with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.artifact.manifest import Pool, Task
from ...runtime.outputs import Floats
from ..heads.layers import LayerStep

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from ..heads.planning import Plan

POOLS: dict[Pool, Callable[[Floats], Floats]] = {
    "cls": lambda hidden: hidden[0],
    "last": lambda hidden: hidden[-1],
    "max": lambda hidden: hidden.max(axis=0),
    "mean": lambda hidden: hidden.mean(axis=0),
    "mean_sqrt_len": lambda hidden: hidden.sum(axis=0) / np.float32(len(hidden) ** 0.5),
    "weightedmean": lambda hidden: np.average(hidden, axis=0, weights=np.arange(1, len(hidden) + 1)).astype(
        np.float32
    ),
}

PROJECTION = re.compile(
    r"(?:^|\.)(?:custom_text_proj|embedding_proj_layer)\.weight$|^(?:base_model\.model\.|model\.)*linear\.weight$"
)


TWO_LAYERS = ("score.0.weight", "score.2.weight")
"""Of jina-reranker-m0, with a ReLU between them."""
ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda logits: logits,
    "sigmoid": lambda logits: 1 / (1 + np.exp(-logits)),
    "softmax": lambda logits: np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum(),
}
"""Of the logits of one prompt."""


def unit(rows: Floats) -> Floats:
    return rows / np.maximum(np.sqrt((rows * rows).sum(axis=-1, keepdims=True)), np.float32(1e-12))


def answers(
    checkpoint: Checkpoint, plan: Plan, hidden: Floats, *, pooled_by_library: bool
) -> dict[Task, Floats]:
    """Task -> what our finished vector (embed, token_embed) or raw logits (classify, token_classify) must be.

    Args:
        hidden: the last hidden states of one text, [tokens, hidden].
        pooled_by_library: the library returns the text's vector itself, so embed is left out.

    Tasks whose heads have a module that this file does not know are left out.
    """
    results: dict[Task, Floats] = {}
    parts = {part.task: part for part in plan.parts}
    own_pooling = checkpoint.family.pooled is None and not checkpoint.family.projection
    for task in ("embed", "token_embed"):
        part, head = parts.get(task), plan.heads.get(task)
        if (
            part is None
            or head is None
            or part.before
            or part.after
            or head.sparse
            or head.keep_ids
            or not own_pooling
        ):
            continue
        if task == "embed" and (pooled_by_library or not set(part.pools) <= POOLS.keys()):
            continue
        rows = (
            hidden if task == "token_embed" else np.concatenate([POOLS[pool](hidden) for pool in part.pools])
        )
        results[task] = unit(rows) if head.activation == "l2" else rows
    if checkpoint.kind == "bge-m3":
        results["token_embed"] = unit(_file(checkpoint, "colbert_linear.pt", hidden)[1:])
        results["token_classify"] = _file(checkpoint, "sparse_linear.pt", hidden)
    elif checkpoint.kind == "reward" and checkpoint.architecture in (
        "Qwen2ForRewardModel",
        "Qwen2ForProcessRewardModel",
    ):
        inner = _linear(checkpoint, "score.0", hidden)
        results["token_classify"] = _linear(checkpoint, "score.2", np.maximum(inner, 0))
    elif (
        "classify" in parts
        and parts["classify"].pools
        and (pool := parts["classify"].pools[0]) in POOLS
        and own_pooling
    ):
        logits = _classifier(checkpoint, plan, POOLS[pool](hidden))
        if logits is not None:
            results["classify"] = logits
    return results


def of_prompt(
    checkpoint: Checkpoint, plan: Plan, hidden: Floats, logits: Callable[[Floats], Floats]
) -> dict[Task, Floats]:
    """Task -> what our finished answer to a prompt with pictures must be. Unknown heads are left out.

    Args:
        hidden: the last hidden states, [tokens, hidden].
        logits: hidden states -> those of the language model, [tokens, vocabulary].
    """
    if checkpoint.family.late_interaction:
        return {"token_embed": unit(_projected(checkpoint, hidden))}
    results = answers(checkpoint, plan, hidden, pooled_by_library=False)
    raw = results.pop("classify", None)
    for layer in checkpoint.family.token_projection:
        results["token_embed"] = unit(_linear(checkpoint, layer.name, hidden))
    tokens = _no_and_yes(checkpoint)
    head = plan.heads.get("classify")
    if raw is not None and tokens is None and head is not None and head.activation in ACTIVATIONS:
        scores = (raw.astype(np.float64) - (head.logit_mean or 0.0)) / (head.logit_sigma or 1.0)
        results["classify"] = ACTIVATIONS[head.activation](scores).astype(np.float32)
    if tokens is not None and head is not None and head.activation in ("sigmoid", "identity"):
        no, yes = logits(hidden[-1:])[0, list(tokens)].astype(np.float64)
        score = yes - no if head.activation == "identity" else 1 / (1 + np.exp(no - yes))
        results["classify"] = np.array([score], np.float32)
    return results


def _no_and_yes(checkpoint: Checkpoint) -> tuple[int, int] | None:
    """The ids of the tokens whose logits' difference is the score; None: it has another head."""
    words = checkpoint.config.get("classifier_from_token")
    two = checkpoint.config.get("method") == "from_2_way_softmax" or checkpoint.config.get(
        "is_original_qwen3_reranker"
    )
    if words:
        known = (checkpoint.text.tokenizer.token_to_id(str(word)) for word in words)
        ids = [token for token in known if token is not None]
        return (ids[0], ids[1]) if two and len(ids) == len(words) == 2 else None
    tokens = checkpoint.sentence.answers if checkpoint.sentence is not None else None
    return None if tokens is None or tokens.false is None else (tokens.false, tokens.true)


def _projected(checkpoint: Checkpoint, hidden: Floats) -> Floats:
    """The vectors of tokens of a late interaction model: its projection, if it stores one, up to `dims`."""
    names = [name for name in checkpoint.weights.shapes if PROJECTION.search(name)]
    if not names:
        return hidden
    rows = _linear(checkpoint, names[0].removesuffix(".weight"), hidden)
    dims = checkpoint.config.get("dims")
    return rows[:, :dims] if isinstance(dims, int) else rows


def splade(logits: Floats) -> Floats:
    """log(1 + relu) of vocabulary logits [tokens, vocabulary], the largest over the text."""
    return np.log1p(np.maximum(logits, 0)).max(axis=0)


def _classifier(checkpoint: Checkpoint, plan: Plan, pooled: Floats) -> Floats | None:
    """Rows of the language model's output matrix (vLLM's classifier_from_token), or the one layer
    of a converted classifier."""
    tokens = checkpoint.config.get("classifier_from_token")
    if tokens:
        ids = [checkpoint.text.tokenizer.token_to_id(str(token)) for token in tokens]
        tied = (
            bool(checkpoint.config.get("tie_word_embeddings"))
            or checkpoint.weights.find("lm_head.weight") is None
        )
        name = "embed_tokens.weight" if tied else "lm_head.weight"
        stored = checkpoint.weights.find(name, ("model.",))
        if stored is None or None in ids:
            return None
        rows = checkpoint.weights.rows(stored, [token for token in ids if token is not None]).float().numpy()
        logits = rows.astype(np.float64) @ pooled.astype(np.float64)
        two = checkpoint.config.get("method") == "from_2_way_softmax" or checkpoint.config.get(
            "is_original_qwen3_reranker"
        )
        return (logits[1:2] - logits[0:1] if two else logits).astype(np.float32)
    part = next(part for part in plan.parts if part.task == "classify")
    if [step.weight for step in part.after if isinstance(step, LayerStep)] == list(TWO_LAYERS):
        return _linear(checkpoint, "score.2", np.maximum(_linear(checkpoint, "score.0", pooled), 0))
    [*others, last] = part.after or [None]
    if not others and isinstance(last, LayerStep) and checkpoint.weights.find("score.weight") == last.weight:
        return _linear(checkpoint, "score", pooled)
    return None


def _linear(checkpoint: Checkpoint, name: str, rows: Floats) -> Floats:
    result = rows @ checkpoint.weights.read(f"{name}.weight").float().numpy().T
    return (
        result + checkpoint.weights.read(f"{name}.bias").float().numpy()
        if f"{name}.bias" in checkpoint.weights
        else result
    )


def _file(checkpoint: Checkpoint, name: str, rows: Floats) -> Floats:
    import torch

    tensors = torch.load(checkpoint.folder / name, map_location="cpu", weights_only=True)
    return rows @ tensors["weight"].float().numpy().T + tensors["bias"].float().numpy()

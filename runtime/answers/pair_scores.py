"""Scores of (query, document) pairs: read as one text, read apart, or listed in one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..artifact.manifest import Manifest, RoleName, Task
from ..batching.queue import Answer
from ..errors import InputError
from ..inputs.items import Item, Steps, filled
from ..inputs.preparation import Preparation
from ..outputs import Floats, Outputs, Ranked, Ranking, ScoringOutput, ScoringRequestOutput
from . import postprocess, scoring
from .params import PoolingParams
from .score_request import ScoreRequest, Side, task_of

ROLES: tuple[RoleName, RoleName] = ("query", "document")


@dataclass(frozen=True, slots=True)
class PreparedScore:
    """Items to compute for `task`, and the function that makes scores of their rows."""

    task: Task
    count: int
    """Of the items."""
    steps: Steps
    """Preparing them; it must have ended before `finish` is called."""
    finish: Callable[[Answer], Outputs[ScoringOutput]]


def prepare(
    manifest: Manifest,
    preparation: Preparation,
    first: Sequence[Side],
    second: Sequence[Side],
    request: ScoreRequest,
) -> PreparedScore:
    """Tokenises the pairs. Raises InputError for what the model cannot read, UnsupportedTask
    where it does not score.

    Args:
        first: one query, or as many as there are documents.
        second: the documents.
    """
    task = task_of(manifest)
    if task == "classify":
        return _joint(manifest, preparation, first, second, request)
    if manifest.scoring == "listwise":
        return _listed(manifest, preparation, first, second, request)
    return _apart(manifest, preparation, first, second, request, task)


def _joint(
    manifest: Manifest,
    preparation: Preparation,
    first: Sequence[Side],
    second: Sequence[Side],
    request: ScoreRequest,
) -> PreparedScore:
    items = [Item(ids=[])] * len(second)
    steps = preparation.pair_steps(
        first,
        second,
        limits=request.limits,
        template=request.template,
        template_variables=request.variables,
        max_tokens_per_query=request.max_tokens_per_query,
        max_tokens_per_doc=request.max_tokens_per_doc or preparation.document_tokens,
    )
    head = manifest.heads["classify"]
    raw = replace(request.params, use_activation=False)

    def finish(answer: Answer) -> Outputs[ScoringOutput]:
        scores, logits = (
            np.array(
                [
                    row[0]
                    for row in postprocess.answers(
                        "classify", head, answer.rows, items, [params] * len(items)
                    )
                ],
                dtype=np.float32,
            )
            for params in (request.params, raw)
        )
        ids, counts = [item.ids for item in items], [item.prompt_tokens for item in items]
        truncated, cached = [item.truncated for item in items], [item.cached for item in items]
        return _outputs(scores, ids, counts, truncated, answer, logits=logits, cached=cached)

    return PreparedScore("classify", len(items), filled(items, steps), finish)


def _apart(
    manifest: Manifest,
    preparation: Preparation,
    first: Sequence[Side],
    second: Sequence[Side],
    request: ScoreRequest,
    task: Task,
) -> PreparedScore:
    items, steps = items_apart(manifest, preparation, first, second, request)
    head = manifest.heads[task]
    # vLLM forwards neither a width nor the wish for raw vectors to a score.
    params = [PoolingParams()] * len(items)
    pad = [manifest.text.pad_id] if "pad_token" in manifest.text.special_tokens else []

    def finish(answer: Answer) -> Outputs[ScoringOutput]:
        vectors = postprocess.answers(task, head, answer.rows, items, params)
        queries, documents = items[: len(first)], items[len(first) :]
        count = len(documents)
        paired = queries * count if len(queries) == 1 else queries
        left = vectors[: len(queries)] * (count if len(queries) == 1 else 1)
        right = vectors[len(queries) :]
        if task == "embed":
            # The length of a sparse vector carries meaning, so authors of sparse models compare by dot
            # product. vLLM takes the cosine of every bi-encoder.
            similarity = scoring.dot if head.sparse and preparation.style == "model" else scoring.cosine
            scores = similarity(np.stack(left), np.stack(right))
        else:
            scores = scoring.maxsim_pairs(left, right)
        pairs = list(zip(paired, documents, strict=True))
        return _outputs(
            scores,
            [[*query.ids, *pad, *document.ids] for query, document in pairs],
            [query.prompt_tokens + len(pad) + document.prompt_tokens for query, document in pairs],
            [query.truncated or document.truncated for query, document in pairs],
            answer,
            cached=[query.cached + document.cached for query, document in pairs],
        )

    return PreparedScore(task, len(items), steps, finish)


def items_apart(
    manifest: Manifest,
    preparation: Preparation,
    first: Sequence[Side],
    second: Sequence[Side],
    request: ScoreRequest,
) -> tuple[list[Item], Steps]:
    """The items of both sides, where each text is read alone: queries, then documents. The list is complete
    when the steps have ended. Raises InputError."""
    if request.template is not None:
        raise InputError(
            f"chat_template is for cross-encoders; this model is a {manifest.scoring} "
            "and reads each text alone",
            field="chat_template",
        )
    shortened = [
        preparation.cut_side(texts, most) if most else texts
        for texts, most in ((first, request.max_tokens_per_query), (second, request.max_tokens_per_doc))
    ]
    instruction = (request.variables or {}).get("instruction") if preparation.takes_instruction else None
    cut = [
        len(_text(short)) < len(_text(whole))
        for short, whole in zip([*shortened[0], *shortened[1]], [*first, *second], strict=True)
    ]

    def steps() -> Steps:
        for side, role, place in zip(shortened, ROLES, (0, len(first)), strict=True):
            for step in preparation.single_steps(
                side, limits=request.limits, role=role, instruction=instruction
            ):
                for index, item in step.items():
                    item.truncated = item.truncated or cut[place + index]
                yield {place + index: item for index, item in step.items()}

    items = [Item(ids=[])] * len(cut)
    return items, filled(items, steps())


def _listed(
    manifest: Manifest,
    preparation: Preparation,
    first: Sequence[Side],
    second: Sequence[Side],
    request: ScoreRequest,
) -> PreparedScore:
    """One query and all its documents are one item; of several queries each has one document."""
    if request.template is not None:
        raise InputError(
            "chat_template is for cross-encoders; this model's own prompt lists every document",
            field="chat_template",
        )
    queries, documents = (
        [_text(side) for side in (preparation.cut_side(sides, most) if most else sides)]
        for sides, most in ((first, request.max_tokens_per_query), (second, request.max_tokens_per_doc))
    )
    lists = [documents] if len(queries) == 1 else [[document] for document in documents]
    prompts = [
        preparation.listed(query, several, request.variables or {})
        for query, several in zip(queries, lists, strict=True)
    ]
    items = preparation.singles(prompts, limits=request.limits)
    head = manifest.heads["token_embed"]
    for item, several in zip(items, lists, strict=True):
        marks = [sum(1 for token in item.ids if token == wanted) for wanted in head.keep_ids]
        if marks != [len(several), 1]:
            raise InputError(
                f"{len(several)} documents need more than the {manifest.text.max_tokens} tokens this model "
                "reads at once; send fewer or shorter ones, or set max_tokens_per_doc"
            )

    def finish(answer: Answer) -> Outputs[ScoringOutput]:
        arrays = postprocess.answers("token_embed", head, answer.rows, items, [PoolingParams()] * len(items))
        scores = np.concatenate(
            [scoring.cosine(rows[:-1], np.repeat(rows[-1:], len(rows) - 1, axis=0)) for rows in arrays]
        )
        owners = [item for item, several in zip(items, lists, strict=True) for _ in several]
        cut = [len(short) < len(_text(whole)) for short, whole in zip(documents, second, strict=True)]
        truncated = [item.truncated or shorter for item, shorter in zip(owners, cut, strict=True)]
        return _outputs(
            scores, [item.ids for item in owners], [item.prompt_tokens for item in owners], truncated, answer
        )

    return PreparedScore("token_embed", len(items), [dict(enumerate(items))], finish)


def _text(side: Side) -> str:
    return side if isinstance(side, str) else side.text


def ranked(scored: Outputs[ScoringOutput], documents: Sequence[object], top_n: int = 0) -> Ranking:
    """Returns the scored documents by falling score, equal ones in the caller's order. Scores that the
    activation rounded to the same number are ordered by their logits.

    Args:
        documents: as the caller passed them, one per score.
        top_n: how many documents are returned; 0: all.
    """
    values = np.array([scores.outputs.rank_value for scores in scored], dtype=np.float32)
    results = tuple(
        Ranked(index, scored[index].outputs.score, documents[index], scored[index].truncated)
        for index in scoring.rank(values, top_n).tolist()
    )
    return Ranking(results, scored.prompt_tokens, scored.truncated)


def _outputs(
    scores: Floats,
    ids: Sequence[Sequence[int]],
    prompt_tokens: Sequence[int],
    truncated: Sequence[bool],
    answer: Answer,
    *,
    logits: Floats | None = None,
    cached: Sequence[int] | None = None,
) -> Outputs[ScoringOutput]:
    known = cached or [0] * len(scores)
    before = [None] * len(scores) if logits is None else logits.tolist()
    requests = tuple(
        ScoringRequestOutput(ScoringOutput(score, logit), item_ids, count, cut, str(index), tokens)
        for index, (score, logit, item_ids, count, cut, tokens) in enumerate(
            zip(scores.tolist(), before, ids, prompt_tokens, truncated, known, strict=True)
        )
    )
    return Outputs(requests, answer.slots / max(answer.tokens, 1) - 1)

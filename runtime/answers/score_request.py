"""Scores of (query, document) pairs: which pairs, prepared how, compared how. Sections 7 and 8 of
the API that vLLM defines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..artifact.manifest import Manifest, Task
from ..batching.queue import Answer
from ..errors import InputError, UnsupportedTask
from ..inputs.items import Item, Style, TokenLimits
from ..inputs.pairs import check_counts
from ..inputs.preparation import Preparation
from ..outputs import Floats, Outputs, Ranked, Ranking, ScoringOutput, ScoringRequestOutput
from . import postprocess, scoring
from .params import PoolingParams

TASK: dict[str, Task] = {
    "bi-encoder": "embed",
    "late-interaction": "token_embed",
    "cross-encoder": "classify",
    "listwise": "token_embed",
}


def style(manifest: Manifest, wanted: Style, *, templated: bool = False) -> Style:
    """How both sides of a score are prepared and compared where vLLM's answers are `wanted`
    (docs/decisions/score-preparation.md).

    A model that reads the pair as one text keeps its own template, or the caller's (`templated`): without it
    its scores mean nothing.
    """
    if wanted not in ("model", "vllm"):
        raise InputError(f"preparation {wanted!r} is not 'model' or 'vllm'", field="preparation")
    apart = manifest.scoring in ("bi-encoder", "late-interaction")
    differs = bool(manifest.text.roles) or any(head.sparse for head in manifest.heads.values())
    joined = manifest.scoring == "cross-encoder" and manifest.text.score_template is None and not templated
    return wanted if (apart and differs) or joined else "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A score request after its forms were read."""

    limits: TokenLimits
    params: PoolingParams
    template: str | None = None
    variables: Mapping[str, Any] | None = None
    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0


@dataclass(frozen=True, slots=True)
class Prepared:
    """Items to compute for `task`, and what makes scores of their rows."""

    task: Task
    items: list[Item]
    finish: Callable[[Answer], Outputs[ScoringOutput]]


def sides(manifest: Manifest, data_1: Any, data_2: Any) -> tuple[list[str], list[str]]:
    """Both sides as lists of text, checked in vLLM's order with its texts: content, then counts."""
    first, second = (
        [text_of(item, manifest) if isinstance(item, Mapping) else item for item in side(data, name)]
        for data, name in ((data_1, "data_1"), (data_2, "data_2"))
    )
    check_counts(first, second)
    for name, given in (("data_1", first), ("data_2", second)):
        for index, text in enumerate(given):
            if not isinstance(text, str):
                raise InputError(f"{name}[{index}]: expected text, found {type(text).__name__}", field=name)
    return first, second


def side(data: Any, name: str) -> list[Any]:
    """One side of a comparison as a list."""
    if isinstance(data, str | Mapping):
        return [data]
    if (isinstance(data, Sequence) and not isinstance(data, bytes | bytearray)) or (
        isinstance(data, np.ndarray) and data.ndim == 1
    ):
        return list(data)
    raise InputError(f"{name}: expected text or a list of texts, found {type(data).__name__}", field=name)


def text_of(item: Mapping[str, Any], manifest: Manifest) -> str:
    """The text of `{"content": [{"type": "text", "text": ...}, ...]}`, parts joined by newlines as in vLLM's
    conversations. Raises InputError for a part that is no text, and for no part."""
    content = item.get("content")
    if not isinstance(content, list | tuple):
        raise InputError(
            "expected text, or an object with a list `content`, found an object with "
            f"{sorted(map(str, item))}"
        )
    for part in content or [None]:
        if (
            not isinstance(part, Mapping)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
        ):
            kind = part.get("type") if isinstance(part, Mapping) else None
            what = f"a part {str(kind)[:100]!r}" if content else "no part"
            raise InputError(
                f"MultiModalParam is not supported for {manifest.architecture}: found {what}, "
                "it reads text parts only"
            )
    return "\n".join(part["text"] for part in content)


def task_of(manifest: Manifest) -> Task:
    """The task whose rows are compared. Raises UnsupportedTask for a model that scores
    nothing, with vLLM's texts."""
    if manifest.scoring is None:
        if "classify" in manifest.heads:
            found = manifest.heads["classify"].dim
            raise UnsupportedTask(
                f"Scoring API is only enabled for num_labels == 1. This model has {found}; use classify.",
                field=None,
            )
        raise UnsupportedTask(
            f"This model does not support the Scoring API. Its tasks are {', '.join(manifest.tasks)}.",
            field=None,
        )
    return TASK[manifest.scoring]


def prepare(
    manifest: Manifest, preparation: Preparation, first: list[str], second: list[str], asked: Asked
) -> Prepared:
    task = task_of(manifest)
    if task == "classify":
        return _joint(manifest, preparation, first, second, asked)
    if manifest.scoring == "listwise":
        return _listed(manifest, preparation, first, second, asked)
    return _apart(manifest, preparation, first, second, asked, task)


def _joint(
    manifest: Manifest, preparation: Preparation, first: list[str], second: list[str], asked: Asked
) -> Prepared:
    items = preparation.pairs(
        first,
        second,
        limits=asked.limits,
        template=asked.template,
        template_variables=asked.variables,
        max_tokens_per_query=asked.max_tokens_per_query,
        max_tokens_per_doc=asked.max_tokens_per_doc,
    )
    head = manifest.heads["classify"]

    raw = replace(asked.params, use_activation=False)

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
            for params in (asked.params, raw)
        )
        ids, counts = [item.ids for item in items], [item.prompt_tokens for item in items]
        return _outputs(scores, ids, counts, [item.truncated for item in items], answer, logits=logits)

    return Prepared("classify", items, finish)


def _apart(
    manifest: Manifest,
    preparation: Preparation,
    first: list[str],
    second: list[str],
    asked: Asked,
    task: Task,
) -> Prepared:
    if asked.template is not None:
        raise InputError(
            f"chat_template is for cross-encoders; this model is a {manifest.scoring} "
            "and reads each text alone",
            field="chat_template",
        )
    shortened = [
        preparation.cut_side(texts, most) if most else texts
        for texts, most in ((first, asked.max_tokens_per_query), (second, asked.max_tokens_per_doc))
    ]
    queries = preparation.singles(shortened[0], limits=asked.limits, role="query")
    documents = preparation.singles(shortened[1], limits=asked.limits, role="document")
    for items, before, after in ((queries, first, shortened[0]), (documents, second, shortened[1])):
        for item, whole, cut in zip(items, before, after, strict=True):
            item.truncated = item.truncated or len(cut) < len(whole)
    head = manifest.heads[task]
    items = [*queries, *documents]
    # Scores never use another width or raw vectors: vLLM forwards neither.
    params = [PoolingParams()] * len(items)
    pad = [manifest.text.pad_id] if "pad_token" in manifest.text.special_tokens else []

    def finish(answer: Answer) -> Outputs[ScoringOutput]:
        vectors = postprocess.answers(task, head, answer.rows, items, params)
        many = len(documents)
        paired = queries * many if len(queries) == 1 else queries
        left = vectors[: len(queries)] * (many if len(queries) == 1 else 1)
        right = vectors[len(queries) :]
        if task == "embed":
            # The authors of sparse models compare by dot product, whose length carries meaning; vLLM takes
            # the cosine of every bi-encoder.
            alike = scoring.dot if head.sparse and preparation.style == "model" else scoring.cosine
            scores = alike(np.stack(left), np.stack(right))
        else:
            scores = scoring.maxsim_pairs(left, right)
        both = list(zip(paired, documents, strict=True))
        return _outputs(
            scores,
            [[*query.ids, *pad, *document.ids] for query, document in both],
            [query.prompt_tokens + len(pad) + document.prompt_tokens for query, document in both],
            [query.truncated or document.truncated for query, document in both],
            answer,
        )

    return Prepared(task, items, finish)


def _listed(
    manifest: Manifest, preparation: Preparation, first: list[str], second: list[str], asked: Asked
) -> Prepared:
    """One query and all its documents are one item; several queries have one document each."""
    if asked.template is not None:
        raise InputError(
            "chat_template is for cross-encoders; this model's own prompt lists every document",
            field="chat_template",
        )
    queries = preparation.cut_side(first, asked.max_tokens_per_query) if asked.max_tokens_per_query else first
    documents = preparation.cut_side(second, asked.max_tokens_per_doc) if asked.max_tokens_per_doc else second
    lists = [documents] if len(queries) == 1 else [[document] for document in documents]
    prompts = [
        preparation.listed(query, several, asked.variables or {})
        for query, several in zip(queries, lists, strict=True)
    ]
    items = preparation.singles(prompts, limits=asked.limits)
    head = manifest.heads["token_embed"]
    for item, several in zip(items, lists, strict=True):
        marks = [sum(1 for token in item.ids if token == wanted) for wanted in head.keep_ids]
        if marks != [len(several), 1]:
            raise InputError(
                f"{len(several)} documents need more than the {manifest.text.max_tokens} tokens this model "
                "reads at once; send fewer or shorter ones, or set max_tokens_per_doc"
            )

    def finish(answer: Answer) -> Outputs[ScoringOutput]:
        found = postprocess.answers("token_embed", head, answer.rows, items, [PoolingParams()] * len(items))
        scores = np.concatenate(
            [scoring.cosine(rows[:-1], np.repeat(rows[-1:], len(rows) - 1, axis=0)) for rows in found]
        )
        owners = [item for item, several in zip(items, lists, strict=True) for _ in several]
        cut = [len(short) < len(whole) for short, whole in zip(documents, second, strict=True)]
        truncated = [item.truncated or shorter for item, shorter in zip(owners, cut, strict=True)]
        return _outputs(
            scores, [item.ids for item in owners], [item.prompt_tokens for item in owners], truncated, answer
        )

    return Prepared("token_embed", items, finish)


def ranked(scored: Outputs[ScoringOutput], documents: Sequence[object], top_n: int = 0) -> Ranking:
    """The scored documents by falling score, equal ones in their given order; `top_n` 0: all. Scores that an
    activation rounded to the same number are ordered by what they were before it."""
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
) -> Outputs[ScoringOutput]:
    before = [None] * len(scores) if logits is None else logits.tolist()
    requests = tuple(
        ScoringRequestOutput(ScoringOutput(score, logit), one, count, cut, str(index))
        for index, (score, logit, one, count, cut) in enumerate(
            zip(scores.tolist(), before, ids, prompt_tokens, truncated, strict=True)
        )
    )
    return Outputs(requests, answer.slots / max(answer.tokens, 1) - 1)

"""POST /score, /v1/score, /rerank, /v1/rerank, /v2/rerank (docs/http.md 7 and 8)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...runtime.answers import score_request
from ...runtime.answers.params import PoolingParams
from ...runtime.inputs.pairs import check_counts
from ..context import Context
from ..execution import Shape
from ..media.attaching import Attached, Content
from ..models.registry import Served
from ..responses import as_sent, ranking, scores
from ..schema import vllm
from ..settings import Settings

PAIRS = {
    vllm.ScoreQueriesDocuments: ("queries", "documents"),
    vllm.ScoreQueriesItems: ("queries", "items"),
    vllm.ScoreData: ("data_1", "data_2"),
    vllm.ScoreTexts: ("text_1", "text_2"),
}


async def score(request: Request, context: Context, served: Served, record: Any) -> Response:
    left, right = PAIRS[type(record)]
    return await respond(
        request,
        context,
        served,
        record,
        (Side(record, left), Side(record, right)),
        partial(served.model.start_score, **options(record, served, context.settings)),
        partial(scores, request=request, record=record, served=served),
    )


async def rerank(request: Request, context: Context, served: Served, record: vllm.Rerank) -> Response:
    start = partial(
        served.model.start_rerank,
        top_n=record.top_n or record.top_k,
        **rank_options(record, served, context.settings),
    )
    sides = Side(record, "query"), Side(record, "documents")
    shape = partial(ranking, request=request, record=record, served=served)
    return await respond(request, context, served, record, sides, start, shape)


async def respond(
    request: Request,
    context: Context,
    served: Served,
    record: Any,
    sides: tuple[Side, Side],
    start: Callable[..., Any],
    shape: Shape[Any],
) -> Response:
    """The response for two sides, whatever is made of their scores.

    Texts are checked in the event loop, before a thread is woken for them; pictures are prepared in one.
    """
    pictures = await attach(request, context, served, record, sides)

    def start_pictures(deadline_s: float | None) -> Any:
        return start(*(side.inputs(served, pictures) for side in sides), deadline_s=deadline_s)

    if pictures is not None:
        return await context.workshop.answer(request, served, start_pictures, shape, pictures=pictures)
    texts = [side.inputs(served) for side in sides]
    if context.settings.log_requests:
        prefix = "rerank" if isinstance(record, vllm.Rerank) else "score"
        context.log_inputs(prefix, request, record, served, texts)
    return await context.workshop.answer(request, served, partial(start, *texts), shape)


class Side:
    """One side of the pairs: the items of a field, which may be one item or a list."""

    def __init__(self, record: Any, name: str) -> None:
        value = getattr(record, name)
        self.is_list = isinstance(value, list)
        self.items: list[Any] = value if self.is_list else [value]
        self._name = name

    def contents(self) -> list[Content]:
        """Each item's content, with its place in the body."""
        return [
            (
                f"{self._name}[{index}].content" if self.is_list else f"{self._name}.content",
                as_sent(item) if isinstance(item, vllm.Content) else None,
            )
            for index, item in enumerate(self.items)
        ]

    def inputs(self, served: Served, pictures: Attached | None = None) -> Any:
        """The items as the runtime takes them: as texts, or with their pictures prepared (in a thread). One
        that was sent without a list is returned without one.

        Raises InputError for a part that is no text where there are no pictures.
        """
        if pictures is None:
            items = [text_of(item, served, self._name) for item in self.items]
        else:
            items = [
                text_of(item, served, self._name)
                if content is None
                else {"content": pictures.parts(place, content)}
                for item, (place, content) in zip(self.items, self.contents(), strict=True)
            ]
        return items if self.is_list else items[0]


async def attach(
    request: Request, context: Context, served: Served, record: Any, sides: tuple[Side, Side]
) -> Attached | None:
    """The pictures of both sides. Those of a cross-encoder's pair are one prompt's.

    Raises ApiError, and InputError for numbers of items that make no pairs.
    """
    if not any(isinstance(item, vllm.Content) for side in sides for item in side.items):
        return None

    def prompts() -> list[list[Content]]:
        left, right = (side.contents() for side in sides)
        if served.manifest.scoring != "cross-encoder":
            return [[content] for content in (*left, *right)]
        check_counts(left, right)
        queries = left if len(left) > 1 else left * len(right)
        return [list(pair) for pair in zip(queries, right, strict=True)]

    return await context.workshop.attach(request, served, record, prompts)


def text_of(item: Any, served: Served, name: str) -> Any:
    """The text of an item, whose parts are joined. Raises InputError, which calls it `name`, for a part that
    is no text."""
    match item:
        case vllm.Content():
            return served.model.preparation.side({"content": as_sent(item)}, name)
        case vllm.TextItem():
            return item.text
        case _:
            return item


def rank_options(record: vllm.Rerank, served: Served, settings: Settings) -> dict[str, Any]:
    """`options` for a ranking, where limits of one side above the model's own are lowered to it.

    Haystack's client always sends 4096 tokens for a document, whatever the model reads.
    """
    values, most = options(record, served, settings), served.model.max_tokens
    if record.max_tokens_per_query >= most:
        values["max_tokens_per_query"] = 0
    if record.max_tokens_per_doc >= most:
        if served.manifest.scoring == "cross-encoder":
            values |= {"max_tokens_per_doc": 0, "cut_document": True}
            if record.truncate_prompt_tokens is None:
                values["truncate_prompt_tokens"] = -1
        else:
            encoder = served.model.preparation.encoder
            values["max_tokens_per_doc"] = max(most - len(encoder.before) - len(encoder.after), 1)
    return values


def options(record: Any, served: Served, settings: Settings) -> dict[str, Any]:
    """The keyword arguments of `start_score` and `start_rerank` that both routes have."""
    values: dict[str, Any] = {
        "pooling_params": PoolingParams(use_activation=record.use_activation),
        "template_kwargs": record.chat_template_kwargs,
        "instruction": record.instruction,
        "max_tokens_per_query": record.max_tokens_per_query,
        "max_tokens_per_doc": record.max_tokens_per_doc,
        "truncate_prompt_tokens": record.truncate_prompt_tokens,
        "truncation_side": record.truncation_side,
        "priority": record.priority,
        "cache_salt": getattr(record, "cache_salt", None),
    }
    if record.truncate_documents:
        values["cut_document"] = True
        if record.truncate_prompt_tokens is None:
            values["truncate_prompt_tokens"] = -1
    return values | style(served, settings)


def style(served: Served, settings: Settings) -> dict[str, Any]:
    """How the texts of a score are prepared. The template of --chat-template is for cross-encoders only."""
    templated = settings.chat_template is not None
    values: dict[str, Any] = {
        "preparation": score_request.style(served.manifest, settings.score_preparation, templated=templated)
    }
    if served.manifest.scoring == "cross-encoder" and templated:
        values["chat_template"] = settings.chat_template
    return values

"""Dense and sparse embeddings of bge-m3 in one response, from one pass. The response is that of vLLM's
reference plugin of the same name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..answers.params import PoolingParams
from ..answers.postprocess import COMBINED
from ..errors import InputError
from .model_facts import Config, Renderer
from .plugin import Output
from .request_fields import Usage, choice, fields, flag

EMBED_TASKS = {"dense&sparse": COMBINED, "dense": "embed", "sparse": "token_classify"}
EXAMPLE = '{"input": "a text", "embed_task": "dense&sparse"}'
MARK = "▁"
"""A space, as the vocabulary spells it."""


@dataclass(frozen=True, slots=True)
class BgeM3Request:
    input: Any
    embed_task: str
    return_tokens: bool
    use_activation: bool | None
    dimensions: int | None


@dataclass(frozen=True, slots=True)
class TokenWeight:
    token_id: int
    weight: float
    token: str | None
    """Its text, where the request wants it (`return_tokens`)."""


@dataclass(frozen=True, slots=True)
class Embeddings:
    index: int
    object: str
    sparse_embedding: list[TokenWeight] | None
    dense_embedding: list[float] | None


@dataclass(frozen=True, slots=True)
class Response:
    data: list[Embeddings]
    usage: Usage


class BgeM3Processor:
    thread_safe = True

    def __init__(self, config: Config, renderer: Renderer) -> None:
        tasks = config.model_config.supported_tasks
        if not {"embed", "token_classify"} <= set(tasks):
            raise InputError(
                f"io_processor_plugin {config.model_config.io_processor_plugin!r} needs a model with "
                "the tasks embed and token_classify, "
                f"this one has {', '.join(tasks)}; serve a bge-m3 artifact, or leave the plugin out",
                field="io_processor_plugin",
            )
        self.width = config.model_config.embedding_size
        self.tokenizer = renderer.get_tokenizer()

    def parse_data(self, data: Any) -> BgeM3Request:
        record = fields(data, EXAMPLE)
        return BgeM3Request(
            record["input"],
            choice(record, "embed_task", tuple(EMBED_TASKS), "dense&sparse"),
            bool(flag(record, "return_tokens")),
            flag(record, "use_activation"),
            record.get("dimensions"),
        )

    def pre_process(self, prompt: BgeM3Request, request_id: str | None = None) -> Any:
        return prompt.input

    def merge_pooling_params(self, params: Any, prompt: BgeM3Request) -> PoolingParams:
        return PoolingParams(
            task=EMBED_TASKS[prompt.embed_task],
            use_activation=prompt.use_activation,
            dimensions=prompt.dimensions,
        )

    def post_process(
        self, outputs: Sequence[Output], request_id: str | None, prompt: BgeM3Request
    ) -> Response:
        width = {"dense": None, "sparse": 0}.get(prompt.embed_task, prompt.dimensions or self.width)
        data = []
        for index, output in enumerate(outputs):
            dense, weights = (
                output.outputs.data[:width].tolist(),
                output.outputs.data[width:].tolist() if width is not None else [],
            )
            sparse = self.sparse(output.prompt_token_ids, weights, tokens=prompt.return_tokens)
            data.append(
                Embeddings(
                    index,
                    prompt.embed_task,
                    None if prompt.embed_task == "dense" else sparse,
                    None if prompt.embed_task == "sparse" else dense,
                )
            )
        tokens = sum(len(output.prompt_token_ids) for output in outputs)
        return Response(data, Usage(tokens, tokens))

    def sparse(self, ids: Sequence[int], weights: Sequence[float], *, tokens: bool) -> list[TokenWeight]:
        """The largest weight of each token, in the order of the text.

        Args:
            ids: of the whole prompt, special tokens included.
            weights: one per token, without the special tokens at both ends.
            tokens: whether the text of each token is wanted too.
        """
        first = int(len(weights) < len(ids) and ids[0] == self.tokenizer.cls_token_id)
        best: dict[int, float] = {}
        for token, weight in zip(ids[first:], weights, strict=False):
            best[token] = max(weight, best.get(token, 0.0))
        return [
            TokenWeight(token, weight, self.text(token) if tokens else None) for token, weight in best.items()
        ]

    def text(self, token: int) -> str:
        """The text of one token with the spaces before it, which decoding drops at the start of a text."""
        piece: str = self.tokenizer.convert_ids_to_tokens(token)
        decoded = self.tokenizer.decode(token)
        spaces = len(piece) - len(piece.lstrip(MARK))
        return " " * (spaces - (len(decoded) - len(decoded.lstrip(" ")))) + decoded

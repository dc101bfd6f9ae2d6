"""Token vectors of queries and documents as jina-colbert-v2 was trained on them.

A marker follows the first token. Queries are filled up with mask tokens, which the model attends to. The
response is that of vLLM's reference plugin of the same name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..answers.params import PoolingParams
from ..errors import InputError
from ..inputs.prompts import prompts_from
from .model_facts import Config, Renderer
from .plugin import Output
from .request_fields import Usage, choice, fields

QUERY_TOKENS = 32
MARKERS = {"query": "[QueryMarker]", "document": "[DocumentMarker]"}
EXAMPLE = '{"input": "a text", "input_type": "query"}'


@dataclass(frozen=True, slots=True)
class ColbertRequest:
    input: Any
    input_type: str


@dataclass(frozen=True, slots=True)
class TokenEmbeddings:
    index: int
    object: str
    input_type: str
    embedding: list[list[float]]
    """[tokens, dim]"""


@dataclass(frozen=True, slots=True)
class Response:
    data: list[TokenEmbeddings]
    usage: Usage


class ColbertProcessor:
    thread_safe = True

    def __init__(self, config: Config, renderer: Renderer) -> None:
        model_config, self.tokenizer = config.model_config, renderer.get_tokenizer()
        self.max_tokens = model_config.max_model_len
        vocabulary = self.tokenizer.get_vocab()
        ids = {
            **{name: vocabulary.get(marker) for name, marker in MARKERS.items()},
            "cls": self.tokenizer.cls_token_id,
            "sep": self.tokenizer.sep_token_id,
            "mask": self.tokenizer.mask_token_id,
        }
        missing = [MARKERS.get(name, f"{name} token") for name, token in ids.items() if token is None]
        if "token_embed" not in model_config.supported_tasks:
            missing.append("the task token_embed")
        if missing:
            raise InputError(
                f"io_processor_plugin {model_config.io_processor_plugin!r} is for models like "
                "jina-colbert-v2, this one lacks "
                f"{', '.join(missing)}; leave the plugin out and send input_type with the text instead",
                field="io_processor_plugin",
            )
        self.ids = {name: token for name, token in ids.items() if token is not None}

    def parse_data(self, data: Any) -> ColbertRequest:
        record = fields(data, EXAMPLE)
        return ColbertRequest(record["input"], choice(record, "input_type", tuple(MARKERS)))

    def pre_process(self, prompt: ColbertRequest, request_id: str | None = None) -> list[Any]:
        is_query = prompt.input_type == "query"
        most = min(QUERY_TOKENS, self.max_tokens) if is_query else self.max_tokens
        prompts = []
        for text_or_ids in prompts_from(prompt.input):
            content = (
                self.tokenizer.encode(text_or_ids, add_special_tokens=False)
                if isinstance(text_or_ids, str)
                else text_or_ids
            )
            if not isinstance(content, list):
                raise InputError(
                    f"data.input: expected texts or lists of token ids, found {type(content).__name__}",
                    field="data",
                )
            ids = [self.ids["cls"], self.ids[prompt.input_type], *content[: most - 3], self.ids["sep"]]
            prompts.append(
                {"prompt_token_ids": ids + [self.ids["mask"]] * (most - len(ids) if is_query else 0)}
            )
        return prompts

    def merge_pooling_params(self, params: Any) -> PoolingParams:
        return PoolingParams(task="token_embed")

    def post_process(
        self, outputs: Sequence[Output], request_id: str | None, prompt: ColbertRequest
    ) -> Response:
        data = [
            TokenEmbeddings(index, "embedding", prompt.input_type, output.outputs.data.tolist())
            for index, output in enumerate(outputs)
        ]
        tokens = sum(len(output.prompt_token_ids) for output in outputs)
        return Response(data, Usage(tokens, tokens))

"""Every request body of vLLM's routes, with its fields, defaults and bounds (docs/http.md 2 to 9).

Fields are in vLLM's order, those of the last base class first, because an error's `param` names the first
wrong one. The file is long because it is one table of records.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from .body import body
from .validation import Free, FreeObject, Many, Record

EncodingFormat = Literal["float", "base64", "bytes", "bytes_only"]
PoolingFormat = Literal["float", "base64", "bytes", "bytes_only", "sparse"]
EmbedDtype = Literal[
    "float32", "float16", "bfloat16", "fp8_e4m3", "fp8_e5m2", "int8", "uint8", "binary", "ubinary"
]
Endianness = Literal["native", "big", "little"]
Side = Literal["query", "document", "passage", "search_query", "search_document"]
PoolingTask = Literal[
    "embed", "classify", "token_embed", "token_classify", "plugin", "embed&token_classify", "score"
]
TextInput = Many[int] | Many[Many[int]] | str | Many[str]
Dimensions = Annotated[
    int | None, Field(description="width to cut embeddings to; only for Matryoshka models")
]

INT64 = 2**63
Priority = Annotated[
    int,
    Field(
        ge=-INT64,
        le=INT64 - 1,
        description="lower is sooner; other than 0 only with --scheduling-policy priority",
    ),
]

MediaSettings = Annotated[
    dict[str, FreeObject],
    Field(description="by modality, how media are read; only with --trust-request-mm-kwargs"),
]


@dataclass(frozen=True, kw_only=True)
class Basic(Record):
    model: Annotated[str | None, Field(description="a served name; null or empty: the first one")] = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[
        int | None,
        Field(ge=-1, description="tokens to keep; -1: as many as the model takes"),
    ] = None
    padding: Annotated[
        Literal["max_length", "do_not_pad"] | None,
        Field(description="`max_length` is refused: no model here needs it"),
    ] = None
    truncation_side: Annotated[
        Literal["left", "right"] | None,
        Field(description="the side that is cut away"),
    ] = None
    request_id: Annotated[
        str,
        Field(description="becomes part of the answer's id; the header X-Request-Id wins"),
    ] = ""
    priority: Priority = 0
    mm_processor_kwargs: Annotated[
        FreeObject | None,
        Field(description="settings of the image processor; only with --trust-request-mm-kwargs"),
    ] = None
    cache_salt: str | None = None


@dataclass(frozen=True, kw_only=True)
class Encoding(Record):
    encoding_format: EncodingFormat = "float"
    embed_dtype: Annotated[
        EmbedDtype,
        Field(description="number format; the last four are also answered as lists of integers"),
    ] = "float32"
    endianness: Endianness = "native"
    dimensions: Dimensions = None


@dataclass(frozen=True, kw_only=True)
class Roles(Record):
    input_type: Annotated[
        Side | None,
        Field(description="prepare as a query or as a document, the way the model's own library does"),
    ] = None
    prompt_name: Annotated[str | None, Field(description="name of a stored prompt to put in front")] = None


@dataclass(frozen=True, kw_only=True)
class Activated(Record):
    use_activation: Annotated[
        bool | None,
        Field(description="false: embeddings are not normalised, logits not activated"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Special(Record):
    add_special_tokens: bool = True


@dataclass(frozen=True, kw_only=True)
class Completion(Special):
    input: TextInput


@dataclass(frozen=True, kw_only=True)
class ChatFields(Special):
    add_special_tokens: bool = False
    add_generation_prompt: bool = False
    continue_final_message: bool = False
    chat_template: str | None = None
    chat_template_kwargs: FreeObject | None = None
    media_io_kwargs: MediaSettings | None = None


@dataclass(frozen=True, kw_only=True)
class Message(Record):
    role: str
    content: Annotated[
        str | Many[str | FreeObject] | None,
        Field(
            description="text, or parts: text, {type: text}, {type: image_url, image_url: {url}}, "
            "{type: video_url, video_url: {url}}, each picture and video with an optional uuid"
        ),
    ] = None
    name: str | None = None

    @staticmethod
    def check(fields: dict[str, Any]) -> str | None:
        silent = "content" in fields and fields["content"] is None and fields["role"] != "assistant"
        if silent:
            return "content may be null in a message of the assistant only; leave it out, or send text"
        return None


Conversation = Many[Message]
Conversations = Annotated[Many[Annotated[Many[Message], Field(min_length=1)]], Field(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Chat(ChatFields):
    messages: Conversation


# --- /v1/embeddings ---


@dataclass(frozen=True, kw_only=True)
class EmbeddingText(Basic, Completion, Activated, Encoding, Roles, Special):
    pass


@dataclass(frozen=True, kw_only=True)
class EmbeddingChat(Basic, Chat, Activated, Encoding, Roles, Special):
    pass


@dataclass(frozen=True, kw_only=True)
class EmbeddingChats(Basic, ChatFields, Activated, Encoding, Roles, Special):
    messages: Conversations


@dataclass(frozen=True, kw_only=True)
class EmbeddingInputChat(Basic, ChatFields, Activated, Encoding, Roles, Special):
    input: Conversation


@dataclass(frozen=True, kw_only=True)
class EmbeddingInputChats(Basic, ChatFields, Activated, Encoding, Roles, Special):
    input: Conversations


# --- /v2/embed ---


@dataclass(frozen=True, kw_only=True)
class Url(Record):
    url: str


@dataclass(frozen=True, kw_only=True)
class CoherePart(Record):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: Url | None = None

    @staticmethod
    def check(fields: dict[str, Any]) -> str | None:
        if fields["type"] == "text":
            return None if fields.get("text") is not None else "a part with type='text' requires text"
        url = fields.get("image_url")
        if url is not None and url["url"]:
            return None
        return "a part with type='image_url' requires image_url.url"


@dataclass(frozen=True, kw_only=True)
class CohereInput(Record):
    content: Many[CoherePart]


@dataclass(frozen=True, kw_only=True)
class CohereEmbed(Record):
    model: str | None = None
    input_type: Annotated[str | None, Field(description="name of a stored prompt")] = None
    texts: Many[str] | None = None
    images: Many[str] | None = None
    inputs: Many[CohereInput] | None = None
    output_dimension: int | None = None
    embedding_types: Many[Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]] | None = None
    truncate: Literal["NONE", "START", "END"] = "END"
    max_tokens: int | None = None
    priority: Priority = 0

    @staticmethod
    def check(fields: dict[str, Any]) -> str | None:
        present = [name for name in ("texts", "images", "inputs") if fields.get(name) is not None]
        if len(present) == 1 and fields[present[0]]:
            return None
        return "Exactly one of texts, images, or inputs must be provided, and it must be non-empty"


@dataclass(frozen=True, kw_only=True)
class CohereEmbedV1(CohereEmbed):
    pass


# --- /pooling, /classify ---


@dataclass(frozen=True, kw_only=True)
class PoolingEncoding(Record):
    encoding_format: Annotated[
        PoolingFormat,
        Field(description="`sparse`: a map from token to weight, for sparse heads"),
    ] = "float"
    embed_dtype: EmbedDtype = "float32"
    endianness: Endianness = "native"
    dimensions: Annotated[int | None, Field(description="refused; /v1/embeddings takes it")] = None
    return_tokens: Annotated[
        bool,
        Field(description="with `sparse`: keys are vocabulary pieces instead of ids"),
    ] = False


@dataclass(frozen=True, kw_only=True)
class PoolingText(Basic, Completion, PoolingEncoding, Activated, Roles, Special):
    task: PoolingTask | None = None


@dataclass(frozen=True, kw_only=True)
class PoolingChat(Basic, Chat, PoolingEncoding, Activated, Roles, Special):
    task: PoolingTask | None = None


@dataclass(frozen=True, kw_only=True)
class PoolingPlugin(Basic, PoolingEncoding):
    data: Free
    task: PoolingTask = "plugin"


@dataclass(frozen=True, kw_only=True)
class ClassifyText(Basic, Completion, Activated, Special):
    pass


@dataclass(frozen=True, kw_only=True)
class ClassifyChat(Basic, Chat, Activated, Special):
    pass


# --- /score, /rerank ---


@dataclass(frozen=True, kw_only=True)
class TextPart(Record):
    type: Literal["text"]
    text: str


@dataclass(frozen=True, kw_only=True)
class Picture(Record):
    url: Annotated[str, Field(description="data:image/png;base64,..., or an http, https or file URL")]
    detail: Annotated[
        Literal["auto", "low", "high", "original"] | None, Field(description="read, without effect")
    ] = None


@dataclass(frozen=True, kw_only=True)
class PicturePart(Record):
    type: Literal["image_url"]
    image_url: Picture
    uuid: Annotated[str | None, Field(description="name under which a later request may repeat it")] = None


@dataclass(frozen=True, kw_only=True)
class PictureVectorsPart(Record):
    type: Literal["image_embeds"]
    image_embeds: str | FreeObject | None = None


@dataclass(frozen=True, kw_only=True)
class FilmPart(Record):
    type: Literal["video_url"]
    video_url: Url
    uuid: str | None = None


@dataclass(frozen=True, kw_only=True)
class Content(Record):
    """An item of several parts. Models of text refuse all parts but text."""

    content: Many[PicturePart | PictureVectorsPart | TextPart | FilmPart]


@dataclass(frozen=True, kw_only=True)
class TextItem(Record):
    """A text as an object, which Cohere's first API and Jina's send."""

    text: str


Item = str | Content
Items = str | Content | Many[str | Content]
RankedItem = str | Content | TextItem
RankedItems = str | Content | TextItem | Many[str | Content | TextItem]


@dataclass(frozen=True, kw_only=True)
class ScoreFields(Basic, Activated):
    max_tokens_per_query: Annotated[int, Field(description="tokens of the query to keep; 0: all")] = 0
    max_tokens_per_doc: Annotated[int, Field(description="tokens of each document to keep; 0: all")] = 0
    instruction: str | None = None
    chat_template_kwargs: FreeObject | None = None
    media_io_kwargs: MediaSettings | None = None
    truncate_documents: Annotated[
        bool,
        Field(
            description="cut too long pairs in the document only, query and template stay whole; "
            "each result then tells `truncated`"
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ScoreQueriesDocuments(ScoreFields):
    queries: Items
    documents: Items


@dataclass(frozen=True, kw_only=True)
class ScoreQueriesItems(ScoreFields):
    queries: Items
    items: Items


@dataclass(frozen=True, kw_only=True)
class ScoreData(ScoreFields):
    data_1: Items
    data_2: Items


@dataclass(frozen=True, kw_only=True)
class ScoreTexts(ScoreFields):
    text_1: Items
    text_2: Items


@dataclass(frozen=True, kw_only=True)
class Rerank(ScoreFields):
    query: RankedItem
    documents: RankedItems
    top_n: Annotated[int, Field(ge=0, description="best documents to answer; 0: all")] = 0
    top_k: Annotated[int, Field(ge=0, description="another name of top_n, which wins")] = 0
    return_documents: Annotated[bool, Field(description="false: results without their documents")] = True


# --- tokens ---


@dataclass(frozen=True, kw_only=True)
class TokenizeText(Record):
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True
    return_token_strs: bool = False


@dataclass(frozen=True, kw_only=True)
class TokenizeChat(Record):
    model: str | None = None
    messages: Conversation
    add_generation_prompt: bool = True
    return_token_strs: bool = False
    continue_final_message: bool = False
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: FreeObject | None = None
    media_io_kwargs: MediaSettings | None = None
    mm_processor_kwargs: FreeObject | None = None
    tools: Many[FreeObject] | None = None


@dataclass(frozen=True, kw_only=True)
class Detokenize(Record):
    model: str | None = None
    tokens: Many[Annotated[int, Field(ge=0, le=INT64 - 1)]]


@dataclass(frozen=True, kw_only=True)
class CohereTokenize(Record):
    model: str | None = None
    text: str


# --- LoRA ---


@dataclass(frozen=True, kw_only=True)
class LoadAdapter(Record):
    lora_name: Annotated[str, Field(description="the name that requests give in `model`")]
    lora_path: Annotated[
        str,
        Field(
            description="folder on the server: an adapter in PEFT's format, or an artifact exported with one"
        ),
    ]
    load_inplace: Annotated[bool, Field(description="replace the adapter of that name")] = False
    is_3d_lora_weight: Annotated[bool, Field(description="accepted without effect")] = False
    base_model_name: Annotated[
        str | None,
        Field(description="the served model it adapts; null: the first"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class UnloadAdapter(Record):
    lora_name: str
    lora_int_id: Annotated[int | None, Field(description="accepted without effect")] = None


# --- bodies ---

# A body with both `messages` and another input is read as a chat (docs/http.md 2.1).
EMBEDDINGS = body(
    (["input"], EmbeddingText),
    (["messages"], EmbeddingChat),
    (["messages"], EmbeddingChats),
    (["input"], EmbeddingInputChat),
    (["input"], EmbeddingInputChats),
    preferred=(1, 2, 0, 3, 4),
    removed=True,
)
COHERE = body(([], CohereEmbed))
COHERE_V1 = body(([], CohereEmbedV1))
POOLING = body(
    (["input"], PoolingText),
    (["messages"], PoolingChat),
    (["data"], PoolingPlugin),
    preferred=(1, 0, 2),
    removed=True,
    task=True,
)
CLASSIFY = body((["input"], ClassifyText), (["messages"], ClassifyChat), preferred=(1, 0), removed=True)
SCORE = body(
    (["queries", "documents"], ScoreQueriesDocuments),
    (["queries", "items"], ScoreQueriesItems),
    (["data_1", "data_2"], ScoreData),
    (["text_1", "text_2"], ScoreTexts),
)
RERANK = body(([], Rerank))
TOKENIZE = body((["prompt"], TokenizeText), (["messages"], TokenizeChat), preferred=(1, 0))
DETOKENIZE = body(([], Detokenize))
COHERE_TOKENIZE = body(([], CohereTokenize))
LOAD_ADAPTER = body(([], LoadAdapter))
UNLOAD_ADAPTER = body(([], UnloadAdapter))


CHATS_OF_ONE = (EmbeddingChat, PoolingChat, ClassifyChat, TokenizeChat, EmbeddingInputChat)
"""Bodies of one conversation."""


def conversations_of(record: Any) -> list[list[Message]] | None:
    """Returns the conversations of a request in any of the chat forms; None for one of texts or token ids."""
    match record:
        case EmbeddingChat() | PoolingChat() | ClassifyChat() | TokenizeChat():
            return [record.messages]
        case EmbeddingChats():
            return cast(list[list[Message]], record.messages)
        case EmbeddingInputChat():
            return [record.input]
        case EmbeddingInputChats():
            return cast(list[list[Message]], record.input)
        case _:
            return None


def replaced(record: Any, **values: Any) -> Any:
    return dataclasses.replace(record, **values)

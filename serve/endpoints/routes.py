"""Every route of the API, in one table. Pages for people (/, /docs) are not part of it."""

from __future__ import annotations

from ..http.request_body import Wire
from ..models.registry import Registry
from ..schema import tei as schemas_tei
from ..schema import vllm
from ..settings import Settings
from . import (
    classify,
    cohere,
    embeddings,
    invocations,
    lora,
    operations,
    pooling,
    score,
    tei,
    tei_tokens,
    tokens,
)
from .route import BYTES, JSON, TEXT, Route


def _lora_is_on(settings: Settings) -> bool:
    """Only where the operator lets requests change what is served."""
    return settings.runtime_lora


TEI_RERANK = (Wire("texts", ("documents",)), tei.rerank)
_FAILED = {503: "Not ready, or the engine has failed"}

MODELS: tuple[Route, ...] = (
    Route(path="/v1/embeddings", answer=embeddings.answer, api="Embeddings",
    about="Embeddings, as OpenAI's clients ask", ability="embed",
          bodies=(vllm.EMBEDDINGS,), response="EmbeddingAnswer", media=(JSON, BYTES)),
    Route(path="/v2/embed", endpoint=cohere.embed, about="Embeddings, as Cohere's clients ask",
    ability="embed",
          bodies=(vllm.COHERE,), response="CohereAnswer"),
    Route(path="/v1/embed", endpoint=cohere.embed_v1,
    about="Embeddings, as clients of Cohere's first API ask", ability="embed",
          bodies=(vllm.COHERE_V1,), response="CohereV1Answer"),
    Route(path="/pooling", answer=pooling.answer, api="Pooling", check=pooling.refuse_dimensions,
          about="Any task of any model: embed, token_embed, classify, token_classify",
          ability="pooling", bodies=(vllm.POOLING,), response="PoolingAnswer", media=(JSON, BYTES)),
    Route(path="/classify", answer=classify.answer, api="Classification", about="Classes of texts",
    ability="classify",
          bodies=(vllm.CLASSIFY,), response="ClassifyAnswer"),
    Route(path="/score", answer=score.score, api="Score", about="Scores of pairs: 1:1, 1:N or N:N",
    ability="score",
          bodies=(vllm.SCORE,), response="ScoreAnswer"),
    Route(path="/v1/score", answer=score.score, api="Score", about="The same as /score", ability="score",
          bodies=(vllm.SCORE,), response="ScoreAnswer"),
    Route(path="/rerank", answer=score.rerank, api="Rerank",
    about="Documents by falling relevance (Jina, Cohere; with `texts`: TEI)",
          ability="score", bodies=(vllm.RERANK, schemas_tei.RERANK), response="AnyRerankAnswer",
          other=TEI_RERANK),
    Route(path="/v1/rerank", answer=score.rerank, api="Rerank", about="The same as /rerank", ability="score",
          bodies=(vllm.RERANK,), response="RerankAnswer", other=TEI_RERANK),
    Route(path="/v2/rerank", answer=score.rerank, api="Rerank", about="The same as /rerank", ability="score",
          bodies=(vllm.RERANK,), response="RerankAnswer", other=TEI_RERANK),
    Route(path="/embeddings", answer=embeddings.answer, api="Embeddings",
          about="The same as /v1/embeddings, for clients whose base URL has no /v1",
          ability="embed", bodies=(vllm.EMBEDDINGS,), response="EmbeddingAnswer", media=(JSON, BYTES)),
    Route(path="/embed", endpoint=tei.embed, about="TEI: embeddings", ability="embed",
    bodies=(schemas_tei.EMBED,)),
    Route(path="/embed_all", endpoint=tei.embed_all, about="TEI: embeddings of every token",
    ability="token_embed",
          bodies=(schemas_tei.EMBED,)),
    Route(path="/embed_sparse", endpoint=tei.embed_sparse, about="TEI: sparse embeddings", ability="sparse",
    bodies=(schemas_tei.EMBED,)),
    Route(path="/predict", endpoint=tei.predict, about="TEI: classes", ability="classify",
    bodies=(schemas_tei.PREDICT,)),
    Route(path="/similarity", endpoint=tei.similarity, about="TEI: cosine similarities", ability="embed",
          bodies=(schemas_tei.SIMILARITY,)),
)  # fmt: skip
"""Those of models, which are there where one of them has the ability."""

_MODELS = {route.path: route for route in MODELS}
# In vLLM's order.
INVOKED = tuple(_MODELS[path] for path in ("/v1/embeddings", "/classify", "/rerank", "/score", "/pooling"))

ROUTES: tuple[Route, ...] = (
    *MODELS,
    Route(path="/tokenize", endpoint=tokens.tokenize, about="Token ids of a text or a conversation",
          bodies=(vllm.TOKENIZE, schemas_tei.TOKENIZE), response="TokenizeAnswer"),
    Route(path="/detokenize", endpoint=tokens.detokenize, about="Text of token ids",
    bodies=(vllm.DETOKENIZE,),
          response="DetokenizeAnswer"),
    Route(path="/decode", endpoint=tei_tokens.decode, about="TEI: text of token ids",
    bodies=(schemas_tei.DECODE,)),
    Route(path="/invocations", endpoint=invocations.among(INVOKED),
    about="SageMaker: any of the bodies above"),
    Route(path="/v1/load_lora_adapter", endpoint=lora.load,
    about="Serve a LoRA adapter of the server's disk as another model",
          bodies=(vllm.LOAD_ADAPTER,), media=(TEXT,), is_on=_lora_is_on),
    Route(path="/v1/unload_lora_adapter", endpoint=lora.unload,
    about="Stop serving an adapter, after its last request",
          bodies=(vllm.UNLOAD_ADAPTER,), media=(TEXT,), is_on=_lora_is_on),
    Route(path="/v1/models", endpoint=operations.models, about="The models served here", methods=("GET",)),
    Route(path="/models", endpoint=operations.models, about="The same as /v1/models", methods=("GET",)),
    Route(path="/info", endpoint=tei_tokens.info, about="TEI: what the first model is", methods=("GET",)),
    Route(path="/tokenizer_info", endpoint=tokens.tokenizer_info, methods=("GET",),
    failures={404: "Not switched on"},
          about="The tokenizer's settings (needs --enable-tokenizer-info-endpoint)"),
    Route(path="/health", endpoint=operations.health,
    about="200 when ready and alive, else 503; no key needed", methods=("GET",),
          media=(), failures=_FAILED),
    Route(path="/live", endpoint=operations.live,
    about="200 while the process works, also before models are loaded; no key needed",
          methods=("GET",), media=(), failures={503: "The process hangs"}),
    Route(path="/ready", endpoint=operations.ready, methods=("GET",), media=(),
    failures={503: "Loading or stopping"},
          about="200 when models are loaded and the server is not stopping; no key needed"),
    Route(path="/ping", endpoint=operations.health, about="SageMaker: as /health; no key needed",
    methods=("GET", "POST"), media=(),
          failures=_FAILED),
    Route(path="/version", endpoint=operations.show_version, about="The version of poolrt", methods=("GET",)),
    Route(path="/load", endpoint=operations.load,
    about="Requests being answered (needs --enable-server-load-tracking)",
          methods=("GET",)),
    Route(path="/metrics", endpoint=operations.metrics, about="Prometheus metrics", methods=("GET",),
    media=(TEXT,)),
)  # fmt: skip


def absent(path: str, registry: Registry) -> str:
    """Why a path of `MODELS` has no route, and what to ask instead."""
    if not registry.ready.is_set():
        return f"{path} is not there"
    models = ", ".join(
        f"`{served.name}` can {' and '.join(served.model.tasks)}" for served in registry.models[:5]
    )
    responders = [route.answer or route.endpoint for route in MODELS]
    # A path and its other spellings stand together.
    live = sorted(
        (route for route in MODELS if route.ability in registry.abilities),
        key=lambda route: responders.index(route.answer or route.endpoint),
    )
    there = ", ".join(route.path for route in live)
    return f"no model served here can answer {path}: {models}. This server has {there}"

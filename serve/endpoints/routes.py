"""Every route of the API, in one table. Pages for people (/, /docs) are not part of it."""

from __future__ import annotations

from ..http.request_body import Wire
from ..models.registry import Registry
from ..schema import artifacts, vllm
from ..schema import batch as schemas_batch
from ..schema import ollama as schemas_ollama
from ..schema import tei as schemas_tei
from ..settings import Settings
from . import (
    classify,
    cohere,
    embeddings,
    invocations,
    lora,
    ollama,
    operations,
    pooling,
    score,
    tei,
    tei_tokens,
    tokens,
)
from .batches import batches, files
from .route import BYTES, FORM, JSON, TEXT, Route


def _lora_is_on(settings: Settings) -> bool:
    """Whether requests may load and unload adapters."""
    return settings.runtime_lora


def _has_batches(settings: Settings) -> bool:
    """Whether the operator gave batch files a folder."""
    return settings.batch_folder is not None


def _artifacts_are_on(settings: Settings) -> bool:
    """Whether requests may load and unload artifacts."""
    return settings.artifact_loading


TEI_RERANK = (Wire("texts", ("documents",)), tei.rerank)
_FAILED = {503: "Not ready, or the engine has failed"}

MODELS: tuple[Route, ...] = (
    Route(path="/v1/embeddings", answer=embeddings.answer, api="Embeddings", ability="embed",
          bodies=(vllm.EMBEDDINGS,), response="EmbeddingAnswer", media=(JSON, BYTES),
          about="Embeddings, as OpenAI's clients ask"),
    Route(path="/v2/embed", endpoint=cohere.embed, ability="embed", bodies=(vllm.COHERE,),
          response="CohereAnswer", about="Embeddings, as Cohere's clients ask"),
    Route(path="/v1/embed", endpoint=cohere.embed_v1, ability="embed", bodies=(vllm.COHERE_V1,),
          response="CohereV1Answer", about="Embeddings, as clients of Cohere's first API ask"),
    Route(path="/pooling", answer=pooling.answer, api="Pooling", check=pooling.refuse_dimensions,
          ability="pooling", bodies=(vllm.POOLING,), response="PoolingAnswer", media=(JSON, BYTES),
          about="Any task of any model: embed, token_embed, classify, token_classify"),
    Route(path="/classify", answer=classify.answer, api="Classification", ability="classify",
          bodies=(vllm.CLASSIFY,), response="ClassifyAnswer", about="Classes of texts"),
    Route(path="/score", answer=score.score, api="Score", ability="score", bodies=(vllm.SCORE,),
          response="ScoreAnswer", about="Scores of pairs: 1:1, 1:N or N:N"),
    Route(path="/v1/score", answer=score.score, api="Score", ability="score", bodies=(vllm.SCORE,),
          response="ScoreAnswer", about="The same as /score"),
    Route(path="/rerank", answer=score.rerank, api="Rerank", ability="score",
          bodies=(vllm.RERANK, schemas_tei.RERANK), response="AnyRerankAnswer", other=TEI_RERANK,
          about="Documents by falling relevance (Jina, Cohere; with `texts`: TEI)"),
    Route(path="/v1/rerank", answer=score.rerank, api="Rerank", ability="score", bodies=(vllm.RERANK,),
          response="RerankAnswer", other=TEI_RERANK, about="The same as /rerank"),
    Route(path="/v2/rerank", answer=score.rerank, api="Rerank", ability="score", bodies=(vllm.RERANK,),
          response="RerankAnswer", other=TEI_RERANK, about="The same as /rerank"),
    Route(path="/embeddings", answer=embeddings.answer, api="Embeddings", ability="embed",
          bodies=(vllm.EMBEDDINGS,), response="EmbeddingAnswer", media=(JSON, BYTES),
          about="The same as /v1/embeddings, for clients whose base URL has no /v1"),
    Route(path="/embed", endpoint=tei.embed, ability="embed", bodies=(schemas_tei.EMBED,),
          about="TEI: embeddings"),
    Route(path="/embed_all", endpoint=tei.embed_all, ability="token_embed", bodies=(schemas_tei.EMBED,),
          about="TEI: embeddings of every token"),
    Route(path="/embed_sparse", endpoint=tei.embed_sparse, ability="sparse", bodies=(schemas_tei.EMBED,),
          about="TEI: sparse embeddings"),
    Route(path="/predict", endpoint=tei.predict, ability="classify", bodies=(schemas_tei.PREDICT,),
          about="TEI: classes"),
    Route(path="/similarity", endpoint=tei.similarity, ability="embed", bodies=(schemas_tei.SIMILARITY,),
          about="TEI: cosine similarities"),
)  # fmt: skip
"""The routes of models; each is there where a served model has its ability."""

_MODELS = {route.path: route for route in MODELS}
# In vLLM's order.
INVOKED = tuple(_MODELS[path] for path in ("/v1/embeddings", "/classify", "/rerank", "/score", "/pooling"))

ROUTES: tuple[Route, ...] = (
    *MODELS,
    Route(path="/tokenize", endpoint=tokens.tokenize, bodies=(vllm.TOKENIZE, schemas_tei.TOKENIZE),
          response="TokenizeAnswer", is_queued=False, about="Token ids of a text or a conversation"),
    Route(path="/detokenize", endpoint=tokens.detokenize, bodies=(vllm.DETOKENIZE,),
          response="DetokenizeAnswer", is_queued=False, about="Text of token ids"),
    Route(path="/v1/tokenize", endpoint=tokens.cohere_tokenize, bodies=(vllm.COHERE_TOKENIZE,),
          response="CohereTokenizeAnswer", is_queued=False, about="Cohere: token ids of a text"),
    Route(path="/v1/detokenize", endpoint=tokens.cohere_detokenize, bodies=(vllm.DETOKENIZE,),
          response="CohereDetokenizeAnswer", is_queued=False, about="Cohere: text of token ids"),
    Route(path="/decode", endpoint=tei_tokens.decode, bodies=(schemas_tei.DECODE,), is_queued=False,
          about="TEI: text of token ids"),
    Route(path="/invocations", endpoint=invocations.among(INVOKED),
          about="SageMaker: any of the bodies above"),
    Route(path="/v1/load_lora_adapter", endpoint=lora.load, bodies=(vllm.LOAD_ADAPTER,), media=(TEXT,),
          is_on=_lora_is_on, is_queued=False, is_for_one=True,
          about="Serve a LoRA adapter of the server's disk as another model"),
    Route(path="/v1/unload_lora_adapter", endpoint=lora.unload, bodies=(vllm.UNLOAD_ADAPTER,),
          media=(TEXT,), is_on=_lora_is_on, is_queued=False, is_for_one=True,
          about="Stop serving an adapter, after its last request"),
    Route(path="/v1/artifacts/load", endpoint=operations.load_artifact, bodies=(artifacts.LOAD,),
          is_on=_artifacts_are_on, is_queued=False,
          about="Serve an artifact of the server's disk, or replace a served one without losing a request"),
    Route(path="/v1/artifacts/unload", endpoint=operations.unload_artifact, bodies=(artifacts.UNLOAD,),
          is_on=_artifacts_are_on, is_queued=False, about="Stop serving an artifact"),
    Route(path="/v1/models", endpoint=operations.models, methods=("GET",), about="The models served here"),
    Route(path="/models", endpoint=operations.models, methods=("GET",), about="The same as /v1/models"),
    Route(path="/v1/models/{model:path}", endpoint=operations.model, methods=("GET",),
          failures={404: "Unknown model"}, about="One of the models served here"),
    Route(path="/models/{model:path}", endpoint=operations.model, methods=("GET",),
          failures={404: "Unknown model"}, about="The same as /v1/models/{model}"),
    Route(path="/api/embed", endpoint=ollama.embed, bodies=(schemas_ollama.EMBED,),
          about="Ollama: embeddings of texts"),
    Route(path="/api/embeddings", endpoint=ollama.embeddings, bodies=(schemas_ollama.EMBEDDING,),
          about="Ollama: the embedding of one text"),
    Route(path="/api/tags", endpoint=ollama.tags, methods=("GET",), about="Ollama: the models served here"),
    Route(path="/api/ps", endpoint=ollama.running, methods=("GET",), about="Ollama: the same models"),
    Route(path="/api/show", endpoint=ollama.show, bodies=(schemas_ollama.MODEL,), is_queued=False,
          about="Ollama: what a model is"),
    Route(path="/api/pull", endpoint=ollama.pull, bodies=(schemas_ollama.MODEL,), is_queued=False,
          about="Ollama: whether a model is served; nothing is fetched"),
    Route(path="/api/version", endpoint=ollama.show_version, methods=("GET",), is_counted=False,
          about="Ollama: the version of poolrt"),
    Route(path="/info", endpoint=tei_tokens.info, methods=("GET",), about="TEI: what the first model is"),
    Route(path="/v1/files", endpoint=files.upload, takes=FORM, is_on=_has_batches, is_queued=False,
          about="Upload a file of requests (needs --batch-folder)"),
    Route(path="/v1/files", endpoint=files.show_all, methods=("GET",), is_on=_has_batches,
          about="The files that are kept"),
    Route(path="/v1/files/{file_id}", endpoint=files.show, methods=("GET",), is_on=_has_batches,
          failures={404: "No such file"}, about="One file's name, size and age"),
    Route(path="/v1/files/{file_id}", endpoint=files.delete, methods=("DELETE",), is_on=_has_batches,
          failures={400: "A batch reads it", 404: "No such file"}, about="Delete a file"),
    Route(path="/v1/files/{file_id}/content", endpoint=files.content, methods=("GET",), media=(BYTES,),
          is_on=_has_batches, failures={404: "No such file"}, about="What a file holds"),
    Route(path="/v1/batches", endpoint=batches.create, bodies=(schemas_batch.BATCH,), is_on=_has_batches,
          is_queued=False, about="Have the requests of a file answered"),
    Route(path="/v1/batches", endpoint=batches.show_all, methods=("GET",), is_on=_has_batches,
          about="The batches, the newest first"),
    Route(path="/v1/batches/{batch_id}", endpoint=batches.show, methods=("GET",), is_on=_has_batches,
          failures={404: "No such batch"}, about="How far a batch is"),
    Route(path="/v1/batches/{batch_id}/cancel", endpoint=batches.cancel, is_on=_has_batches,
          is_queued=False, about="End a batch early; what is done is kept"),
    Route(path="/tokenizer_info", endpoint=tokens.tokenizer_info, methods=("GET",),
          failures={404: "Not switched on"},
          about="The tokenizer's settings (needs --enable-tokenizer-info-endpoint)"),
    Route(path="/health", endpoint=operations.health, methods=("GET",), media=(), failures=_FAILED,
          is_probe=True, is_counted=False,
          about="200 when ready and alive, else 503; no key needed"),
    Route(path="/live", endpoint=operations.live, methods=("GET",), media=(),
          failures={503: "The process hangs"}, is_probe=True, is_counted=False,
          about="200 while the process works, also before models are loaded; no key needed"),
    Route(path="/ready", endpoint=operations.ready, methods=("GET",), media=(),
          failures={503: "Loading or stopping"}, is_probe=True, is_counted=False,
          about="200 when models are loaded and the server is not stopping; no key needed"),
    Route(path="/ping", endpoint=operations.health, methods=("GET", "POST"), media=(), failures=_FAILED,
          is_probe=True, is_counted=False, about="SageMaker: as /health; no key needed"),
    Route(path="/version", endpoint=operations.show_version, methods=("GET",), is_counted=False,
          about="The version of poolrt"),
    Route(path="/load", endpoint=operations.load, methods=("GET",), is_counted=False,
          about="Requests being answered (needs --enable-server-load-tracking)"),
    Route(path="/metrics", endpoint=operations.metrics, methods=("GET",), media=(TEXT,), is_counted=False,
          about="Prometheus metrics"),
)  # fmt: skip

# The application hands these to the layers below, which cannot import the table.
PROBES = frozenset(route.path for route in ROUTES if route.is_probe)
UNQUEUED = frozenset(route.path for route in ROUTES if not route.is_queued)
UNCOUNTED = frozenset(route.path for route in ROUTES if not route.is_counted)


def absent(path: str, registry: Registry) -> str:
    """The message for a path of `MODELS` that has no route now: why, and which paths there are."""
    if not registry.ready.is_set():
        return f"{path} is not there"
    models = ", ".join(
        f"`{served.name}` can {' and '.join(served.model.tasks)}" for served in registry.models[:5]
    )
    responders = [route.answer or route.endpoint for route in MODELS]
    # A path and its aliases are listed together.
    live = sorted(
        (route for route in MODELS if route.ability in registry.abilities),
        key=lambda route: responders.index(route.answer or route.endpoint),
    )
    there = ", ".join(route.path for route in live)
    return f"no model served here can answer {path}: {models}. This server has {there}"

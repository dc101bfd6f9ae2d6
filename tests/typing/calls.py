"""What a type checker makes of calls that people write; never run. `make lint` checks it: a right call that
is refused fails, and so does a wrong one that passes, as its comment is then unnecessary."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedCallResult=false

from __future__ import annotations

from typing import Any, Unpack, assert_type

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from poolrt.runtime import (
    LLM,
    ClassificationOutput,
    EmbeddingOutput,
    Model,
    Outputs,
    PoolingOutput,
    PoolingParams,
    Ranked,
    Ranking,
    ScoringOutput,
    load,
)
from poolrt.runtime import loda as loda  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]
from poolrt.runtime.options import EmbedOptions


def right(model: Model, llm: LLM, ids: NDArray[np.int64], texts: list[str]) -> None:
    assert_type(load("artifacts/a", engine="onnxruntime", threads=2), Model)
    assert_type(model.embed("a text"), Outputs[EmbeddingOutput])
    model.embed(texts, role="query", truncate_prompt_tokens=-1, deadline_s=0.5, use_tqdm=True)
    model.embed([[1, 2], [3]], pooling_params=PoolingParams(dimensions=64))
    model.embed(ids, pooling_params=[None, PoolingParams(use_activation=False)])
    model.embed([{"prompt": "a text"}, {"prompt_token_ids": [1, 2]}])
    assert_type(model.embed(texts)[0].outputs.embedding, NDArray[np.float32])
    assert_type(model.classify("a")[0].outputs, ClassificationOutput)
    assert_type(model.token_embed("a", role="document"), Outputs[PoolingOutput])
    assert_type(model.token_classify("a", add_special_tokens=False), Outputs[PoolingOutput])
    assert_type(model.reward("a"), Outputs[PoolingOutput])
    assert_type(model.encode("a", PoolingParams(), pooling_task="embed"), Outputs[PoolingOutput])
    model.encode({"data": {"input": "a"}}, pooling_task="plugin")
    assert_type(model.score("a", texts, cut_document=True), Outputs[ScoringOutput])
    model.score({"content": [{"type": "text", "text": "a"}]}, texts, preparation="vllm")
    assert_type(model.rerank("a", texts, top_n=3, instruction="rank"), Ranking)
    assert_type(model.rerank("a", texts)[0], Ranked)
    assert_type(model.start("a", pooling_task="embed").result(), Outputs[PoolingOutput])
    assert_type(model.start_score("a", "b", priority=1).result(), Outputs[ScoringOutput])
    assert_type(model.start_rerank("a", texts, top_n=1).result(), Ranking)
    assert_type(model.start_match("a", "b", preparation="model").result().similarities, NDArray[np.float32])
    assert_type(model.tokenize("a", add_special_tokens=False), list[int])
    assert_type(model.detokenize([1, 2]), str)
    assert_type(
        model.chat([{"role": "user", "content": "a"}], add_generation_prompt=True), str | dict[str, Any]
    )
    picture, frames = Image.open("a.png"), np.zeros((4, 32, 32, 3), np.uint8)
    model.embed([picture, {"text": "a", "image": picture}, "a"], role="document", instruction="find")
    model.embed({"prompt": "a", "multi_modal_data": {"image": [picture, "b.png"]}})
    model.embed({"video": frames, "fps": 2.0})
    model.score(picture, [picture, "a", {"content": [{"type": "image", "image": picture}]}])
    model.rerank(picture, [frames[0], "a"])
    model.tokenize({"image": picture})
    model.embed(model.chat([{"role": "user", "content": [{"image": picture}]}], interleave_mm_strings=True))
    load("artifacts/a", limit_mm_per_prompt={"image": 1}, mm_processor_kwargs={}, mm_processor_cache_gb=1)
    assert_type(llm.embed(texts, use_tqdm=False, lora_request=None), Outputs[EmbeddingOutput])
    assert_type(llm.score("a", texts, chat_template="qwen3_reranker.jinja"), Outputs[ScoringOutput])


def wrapper(model: Model, texts: list[str], **options: Unpack[EmbedOptions]) -> Outputs[EmbeddingOutput]:
    """People's own functions can pass options on."""
    return model.embed(texts, **options)


def wrong(model: Model, llm: LLM, texts: list[str]) -> None:
    load(3)  # pyright: ignore[reportArgumentType]
    load("artifacts/a", engin="onnxruntime")  # pyright: ignore[reportCallIssue]
    model.embed()  # pyright: ignore[reportCallIssue]
    model.embed(3)  # pyright: ignore[reportArgumentType]
    model.embed([1.5])  # pyright: ignore[reportArgumentType]
    model.embed(None)  # pyright: ignore[reportArgumentType]
    model.embed("a", normalise=True)  # pyright: ignore[reportCallIssue]
    model.embed("a", role="queri")  # pyright: ignore[reportArgumentType]
    model.embed("a", truncate_prompt_tokens="3")  # pyright: ignore[reportArgumentType]
    model.embed("a", pooling_task="embed")  # pyright: ignore[reportCallIssue]
    model.embed("a", PoolingParams())  # pyright: ignore[reportCallIssue]
    print(model.embed("a")[0].outputs.probs)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownArgumentType]
    model.classify("a", top_n=1)  # pyright: ignore[reportCallIssue]
    model.encode("a", PoolingParams(), pooling_task=1)  # pyright: ignore[reportArgumentType]
    model.score("a")  # pyright: ignore[reportCallIssue]
    model.score("a", texts, role="query")  # pyright: ignore[reportCallIssue]
    model.score("a", texts, preparation="vLLM")  # pyright: ignore[reportArgumentType]
    model.rerank(texts, texts)  # pyright: ignore[reportArgumentType]
    model.rerank("a", texts, top_n="3")  # pyright: ignore[reportArgumentType]
    model.rerank("a", texts, top_k=3)  # pyright: ignore[reportCallIssue]
    model.start_rerank("a", texts, use_tqdm=True)  # pyright: ignore[reportCallIssue]
    model.tokenize(texts)  # pyright: ignore[reportArgumentType]
    model.tokenize("a", add_special_token=False)  # pyright: ignore[reportCallIssue]
    model.chat("a")  # pyright: ignore[reportArgumentType]
    model.chat([], interleave=True)  # pyright: ignore[reportCallIssue]
    model.embed("a", instruction=3)  # pyright: ignore[reportArgumentType]
    load("artifacts/a", mm_processor_cache_gb="4")  # pyright: ignore[reportArgumentType]
    llm.embed("a", lora_request="adapter")  # pyright: ignore[reportArgumentType]
    llm.score("a", texts, chat_templates="a.jinja")  # pyright: ignore[reportCallIssue]

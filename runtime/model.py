"""A loaded artifact: takes text, returns numpy arrays. Methods, arguments and outputs have the names
of vLLM's offline class.

Longer than 300 lines, because the public methods carry their examples.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, Unpack

from . import plugins
from .answers import pair_scores, params, score_request
from .answers.params import Params
from .artifact.manifest import Manifest, Task
from .batching.line import Policy
from .batching.pending import Pending
from .batching.plan import BatchLimits
from .batching.prefix_stage import PrefixStage
from .batching.stages import Stages, VisionPart
from .batching.worker import Worker
from .engines import table
from .engines.feed import Feed
from .errors import InputError, UnsupportedTask
from .inputs.items import Item
from .inputs.multimodal.contents import is_picture
from .inputs.multimodal.preparation import MultimodalPreparation
from .inputs.preparation import Preparation
from .inputs.prompts import Prompt, Prompts, ScoreText, ScoreTexts
from .intake import Intake
from .options import (
    ChatOptions,
    ClassifyOptions,
    EmbedOptions,
    EncodeOptions,
    RerankOptions,
    ScoreOptions,
    StartOptions,
    StartRerankOptions,
    StartScoreOptions,
    TokenizeOptions,
    check,
)
from .outputs import (
    ClassificationOutput,
    ClassificationRequestOutput,
    EmbeddingOutput,
    EmbeddingRequestOutput,
    Match,
    Outputs,
    PoolingOutput,
    PoolingRequestOutput,
    Ranking,
    ScoringOutput,
    mapped,
)
from .progress import bar
from .statistics import Statistics

Waited = TypeVar("Waited")
WARM_TOKENS = (1, 64)
"""Lengths of the texts that warm a model up."""
WARM_S = 0.02
"""The longer one follows if the shorter one took no longer than this."""


class Model:
    """What `load` returns. Safe to call from many threads, whose items share batches. Close it, or use
    it as a context manager.

    `options.py` describes the keywords of each method; any other raises UnknownOption. Every method that
    computes raises InputError for a text, token ids or an option that is unusable, UnsupportedTask for a task
    that the model lacks, Overload beyond the queue's limit, DeadlineExceeded after `deadline_s`, and
    EngineError when the engine fails.

    >>> model = load("artifacts/all-MiniLM-L6-v2")
    >>> model
    Model('all-MiniLM-L6-v2', dims={'embed': 384, 'token_embed': 384}, engine='onnxruntime:model.onnx', ...)
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        choice: table.Choice,
        session: table.Session,
        feed: Feed,
        preparation: Preparation,
        limits: BatchLimits,
        max_queued_tokens: int | None = None,
        policy: Policy = "fcfs",
        plugin: str | None = None,
        vision: VisionPart | None = None,
        kept_bytes: int = 0,
        prefix_bytes: int = 0,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.name = manifest.name
        self.tasks: tuple[Task, ...] = manifest.tasks
        self.max_tokens = manifest.text.max_tokens
        self.preparation = preparation
        self.policy: Policy = policy
        self.engine = choice
        self._lock = threading.Lock()
        named = manifest.config.get("io_processor_plugin")
        self.plugin_name = plugin or (None if named is None else str(named))
        self._plugin: plugins.Plugin | None = None
        self.worker = Worker(
            session,
            feed=feed,
            limits=limits,
            max_queued_tokens=max_queued_tokens,
            policy=policy,
            name=manifest.name,
            kept_bytes=kept_bytes,
        )
        self.vision_engine = None if vision is None else vision.choice
        apart = manifest.images is not None and manifest.images.apart
        stage = None if vision is None else vision.stage(manifest.name, policy)
        if stage is not None and isinstance(preparation, MultimodalPreparation):
            preparation.reading.features_of = stage.cache.get
        prefixes = None
        if prefix_bytes:
            last = {head.output for head in manifest.heads.values() if head.pool == "last"}
            prefixes = (
                PrefixStage(self.worker, last, prefix_bytes)
                if choice.engine is None
                else PrefixStage(
                    self.worker,
                    last,
                    prefix_bytes,
                    most_tokens=choice.engine.past,
                    worth=limits.launch_tokens,  # the call waits for one launch
                )
            )
        self._stages = Stages(self.worker, stage, apart=apart, prefixes=prefixes)
        self._intake = Intake(manifest, preparation, self._stages, policy)
        # Also runs at interpreter exit, when a model was never closed.
        self._finalizer = weakref.finalize(self, self._stages.close, 5.0)

    # Tasks that return when the result is there

    def embed(self, prompts: Prompts, **options: Unpack[EmbedOptions]) -> Outputs[EmbeddingOutput]:
        """Returns one vector per prompt: [dim] float32, L2-normalised where the model says so.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> outputs = model.embed(["a first text", "a second one"])
        >>> outputs[0].outputs
        EmbeddingOutput([..., ..., ...], dim=384)
        >>> np.asarray(outputs).shape
        (2, 384)
        """
        check("embed", options, EmbedOptions)
        self._offered("embed", "Embedding API is not supported by this model.")
        pooled = self._wait(
            self._intake.pool(prompts, options.get("pooling_params"), "embed", options), options
        )
        return mapped(pooled, EmbeddingRequestOutput, lambda output: EmbeddingOutput(output.data))

    def classify(self, prompts: Prompts, **options: Unpack[ClassifyOptions]) -> Outputs[ClassificationOutput]:
        """Returns the value of each label per prompt: [labels] float32, after the head's activation.

        >>> model = load("artifacts/sentiment")
        >>> model.classify("what a good film")[0].outputs
        ClassificationOutput([..., ..., ...], classes=3, label='...')
        """
        check("classify", options, ClassifyOptions)
        self._offered("classify", "Classification API is not supported by this model.")
        pooled = self._wait(
            self._intake.pool(prompts, options.get("pooling_params"), "classify", options), options
        )
        labels = self.manifest.heads["classify"].labels

        def labelled(output: PoolingOutput) -> ClassificationOutput:
            best = int(output.data.argmax())
            return ClassificationOutput(output.data, labels[best] if best < len(labels) else None)

        return mapped(pooled, ClassificationRequestOutput, labelled)

    def token_embed(self, prompts: Prompts, **options: Unpack[EmbedOptions]) -> Outputs[PoolingOutput]:
        """Returns one vector per token: [tokens, dim] float32 per prompt. `role` prepares a ColBERT query or
        document as the model's own library does.

        >>> model = load("artifacts/colbert")
        >>> model.token_embed("why does dough rise?", role="query")[0].outputs
        PoolingOutput([[..., ..., ...], ...], shape=(16, 16))
        """
        check("token_embed", options, EmbedOptions)
        return self._wait(
            self._intake.pool(prompts, options.get("pooling_params"), "token_embed", options), options
        )

    def token_classify(self, prompts: Prompts, **options: Unpack[ClassifyOptions]) -> Outputs[PoolingOutput]:
        """Returns the value of each label per token: [tokens, labels] float32 per prompt.

        >>> model = load("artifacts/entities")
        >>> model.token_classify("Ada in London")[0].outputs.data.shape[1]
        5
        """
        check("token_classify", options, ClassifyOptions)
        return self._wait(
            self._intake.pool(prompts, options.get("pooling_params"), "token_classify", options), options
        )

    def reward(self, prompts: Prompts, /, **options: Unpack[ClassifyOptions]) -> Outputs[PoolingOutput]:
        """Returns a reward model's values of each token: [tokens, labels] float32 per prompt.

        >>> model = load("artifacts/entities")
        >>> model.reward("a step of a solution")[0].outputs.data.shape[1]
        5
        """
        check("reward", options, ClassifyOptions)
        self._offered("token_classify", "Reward API is not supported by this model: it needs token_classify.")
        return self._wait(
            self._intake.pool(prompts, options.get("pooling_params"), "token_classify", options), options
        )

    def encode(
        self, prompts: Prompts, pooling_params: Params = None, **options: Unpack[EncodeOptions]
    ) -> Outputs[PoolingOutput]:
        """Runs any task by name and returns one array per prompt. The task `plugin` takes {"data": ...} and
        returns one output, the IO processor's.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> model.encode("a first text", pooling_task="token_embed")
        Outputs([PoolingOutput([[..., ..., ...], ...], shape=(5, 384))], prompt_tokens=5)
        """
        check("encode", options, EncodeOptions, "pooling_params")
        if options.get("pooling_task") == "plugin":
            return self._processed(prompts, pooling_params, options)
        return self._wait(
            self._intake.pool(prompts, pooling_params, options.get("pooling_task"), options), options
        )

    def score(
        self, data_1: ScoreTexts, data_2: ScoreTexts, /, **options: Unpack[ScoreOptions]
    ) -> Outputs[ScoringOutput]:
        """Returns the scores of 1:1, 1:N or N:N pairs, in the order of `data_2`.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> scores = np.asarray(model.score("why does dough rise?", ["yeast makes gas", "the train is late"]))
        >>> bool(scores[0] > scores[1])
        True
        """
        check("score", options, ScoreOptions)
        return self._wait(self._intake.score(data_1, data_2, options), options)

    def rerank(self, query: ScoreText, documents: ScoreTexts, **options: Unpack[RerankOptions]) -> Ranking:
        """Returns the documents by falling score, equal ones in the caller's order.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> model.rerank("why does dough rise?", ["the train is late", "yeast makes gas"], top_n=1)
        Ranking([Ranked(index=1, score=0..., document='yeast makes gas')], prompt_tokens=...)
        """
        check("rerank", options, RerankOptions)
        return self._wait(self._ranking(query, documents, options), options)

    # Tasks that return a Pending at once, which the caller waits for, awaits or cancels

    def start(
        self, prompts: Prompts, pooling_params: Params = None, **options: Unpack[StartOptions]
    ) -> Pending[Outputs[PoolingOutput]]:
        """Starts a task and returns at once: texts are checked and tokenised in this thread, the worker
        computes. Raises InputError, UnsupportedTask or Overload.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> pending = model.start(["a first text", "a second one"], pooling_task="embed", deadline_s=60)
        >>> len(pending.result())
        2
        """
        check("start", options, StartOptions, "pooling_params")
        return self._intake.pool(prompts, pooling_params, options.get("pooling_task"), options)

    def start_score(
        self, data_1: ScoreTexts, data_2: ScoreTexts, /, **options: Unpack[StartScoreOptions]
    ) -> Pending[Outputs[ScoringOutput]]:
        """Starts scoring 1:1, 1:N or N:N pairs. Raises InputError, UnsupportedTask or Overload.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> model.start_score("a first text", "a first text").result()[0].outputs
        ScoringOutput(1)
        """
        check("start_score", options, StartScoreOptions)
        return self._intake.score(data_1, data_2, options)

    def start_rerank(
        self, query: ScoreText, documents: ScoreTexts, **options: Unpack[StartRerankOptions]
    ) -> Pending[Ranking]:
        """Starts a reranking. Raises InputError, UnsupportedTask or Overload.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> [ranked.index for ranked in model.start_rerank("dough", ["a train", "a loaf of bread"]).result()]
        [1, 0]
        """
        check("start_rerank", options, StartRerankOptions)
        return self._ranking(query, documents, options)

    def start_match(
        self, query: ScoreText, document: ScoreText, **options: Unpack[StartScoreOptions]
    ) -> Pending[Match]:
        """Starts comparing one query with one document token by token, prepared as for a score. Of models
        with late interaction. Raises InputError, UnsupportedTask or Overload.

        >>> model = load("artifacts/colbert")
        >>> match = model.start_match("why does dough rise?", "yeast makes gas").result()
        >>> score = model.score("why does dough rise?", "yeast makes gas")[0].outputs.score
        >>> bool(np.isclose(match.similarities.max(axis=1).sum(), score))
        True
        """
        check("start_match", options, StartScoreOptions)
        return self._intake.match(query, document, options)

    # Text

    def tokenize(self, text: Prompt, **options: Unpack[TokenizeOptions]) -> list[int]:
        """Returns the token ids of a text, whatever its length; of a prompt with pictures their tokens too.
        Raises InputError.

        >>> load("artifacts/all-MiniLM-L6-v2").tokenize("a first text")
        [101, 1037, 2034, 3793, 102]
        """
        check("tokenize", options, TokenizeOptions)
        return self.preparation.prompt_tokens(text, **options)

    def detokenize(self, ids: Sequence[int]) -> str:
        """Returns the text of token ids, special tokens included. Raises InputError for an id that the
        tokenizer does not have.

        >>> load("artifacts/all-MiniLM-L6-v2").detokenize([1037, 2034, 3793])
        'a first text'
        """
        return self.preparation.encoder.detokenize(ids)

    def chat(
        self, messages: Sequence[Mapping[str, Any]], **options: Unpack[ChatOptions]
    ) -> str | dict[str, Any]:
        """Returns a conversation as the model's chat template writes it: a text, or with pictures a prompt
        {"prompt": text, "multi_modal_data": ...}. Embed it with add_special_tokens=False. Raises InputError.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> template = "{{ messages[0].role }}: {{ messages[0].content }}"
        >>> model.chat([{"role": "user", "content": "hello"}], chat_template=template)
        'user: hello'
        """
        check("chat", options, ChatOptions)
        return self.preparation.chat(messages, **options)

    @property
    def plugin(self) -> plugins.Plugin | None:
        """The IO processor that `load` named, else the one that the checkpoint names, opened on first use;
        None where neither names one. Raises InputError for one that cannot be opened."""
        if self._plugin is None and self.plugin_name is not None:
            with self._lock:
                self._plugin = self._plugin or plugins.opened(
                    self.plugin_name, self.manifest, self.preparation
                )
        return self._plugin

    # Statistics, warm-up and closing

    def statistics(self) -> Statistics:
        """Returns what was computed since the model was loaded, and what is queued now.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> _ = model.embed(["a first text", "a second one"])
        >>> model.statistics().items
        2
        """
        counters, vision = self.worker.counters(), self._stages.vision_counters()
        requests, tokenize_s = self._intake.counters()
        stage, prefixes = self._stages.vision, self._stages.prefixes
        return Statistics(
            requests=requests,
            tokenize_s=tokenize_s,
            padding=counters.padding,
            stalled_s=self.stalled_s(),
            cache_bytes=self.worker.rows.bytes,
            prefix_caching=prefixes is not None,
            prefix_queries=0 if prefixes is None else prefixes.queries,
            prefix_hits=0 if prefixes is None else prefixes.hits,
            prefix_bytes=0 if prefixes is None else prefixes.cache.bytes,
            vision_items=vision.items,
            vision_slots=vision.slots,
            vision_batches=vision.batches,
            vision_s=vision.engine_s,
            vision_queued_items=vision.queued_items,
            vision_hits=0 if stage is None else stage.cache.hits,
            vision_shared=0 if stage is None else stage.shared,
            vision_cache_bytes=0 if stage is None else stage.cache.bytes,
            **asdict(counters),
        )

    def stalled_s(self) -> float:
        """Returns the seconds that the oldest running batch has taken so far; 0 when idle. A large number
        means that an engine hangs.

        >>> load("artifacts/all-MiniLM-L6-v2").stalled_s()
        0.0
        """
        return self._stages.stalled_s()

    def warm_up(self) -> float:
        """Runs a short input through every output of the graph, of a quick model also a longer one; returns
        the seconds it took.

        >>> load("artifacts/all-MiniLM-L6-v2").warm_up() > 0
        True
        """
        begun = time.monotonic()
        for output in sorted(
            {head.output for task, head in self.manifest.heads.items() if task in self.tasks}
        ):
            for length in WARM_TOKENS:
                if length > self.max_tokens:
                    break
                started = time.monotonic()
                # Any ids run the same kernels; the pad id is in every vocabulary.
                self.worker.submit([Item(ids=[self.manifest.text.pad_id] * length)], output).result()
                if time.monotonic() - started > WARM_S:
                    break
        self._stages.warm_up(self.manifest.images)
        return time.monotonic() - begun

    def close(self, timeout_s: float | None = None) -> None:
        """Finishes what is queued within `timeout_s` seconds, refuses the rest and frees the engine. A
        second call does nothing.

        Args:
            timeout_s: seconds; None: no end.

        >>> model = load("artifacts/all-MiniLM-L6-v2")
        >>> model.close(timeout_s=5)
        """
        if self._finalizer.detach():
            self._stages.close(timeout_s)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        dims = {task: self.manifest.heads[task].dim for task in self.tasks}
        precision = self.engine.engine.precision if self.engine.engine else self.engine.graph.precision
        return f"Model({self.name!r}, dims={dims}, engine={self.engine.name!r}, precision={precision!r})"

    def _offered(self, task: Task, refusal: str) -> None:
        if task not in self.tasks:
            raise UnsupportedTask(
                f"{refusal} Its tasks are {', '.join(self.tasks)}; pass one as encode(pooling_task=...)"
            )

    def _processed(
        self, prompts: Any, pooling_params: Params, options: EncodeOptions
    ) -> Outputs[PoolingOutput]:
        plugin = self.plugin
        if plugin is None:
            raise UnsupportedTask(f"{params.NO_PLUGIN} Give load() or LLM() an io_processor_plugin.")
        if not isinstance(prompts, Mapping) or prompts.get("data") is None:
            raise InputError(
                "pooling_task='plugin' takes one object {'data': ...}, where data is "
                "what the plugin asks for",
                field="data",
            )
        prepared = plugin.prepare(prompts["data"], params=pooling_params)
        task = prepared.task or self.tasks[0]
        pooled = self._wait(self._intake.pool(prepared.prompts, prepared.params, task, options), options)
        return Outputs(
            (PoolingRequestOutput(plugin.finish(prepared, pooled), [], pooled.prompt_tokens),), pooled.padding
        )

    def _ranking(
        self, query: ScoreText, documents: ScoreTexts, options: StartRerankOptions
    ) -> Pending[Ranking]:
        if not isinstance(query, str | Mapping) and not is_picture(query):
            raise InputError(f"query: expected one text, found {type(query).__name__}", field="query")
        top_n = options.get("top_n", 0)
        if isinstance(top_n, bool) or not isinstance(top_n, int) or top_n < 0:
            raise InputError(f"top_n is {top_n!r}, expected 0 (all) or more", field="top_n")
        listed = score_request.side(documents, "documents")
        return self._intake.score(query, listed, options).then(
            lambda scored: pair_scores.ranked(scored, listed, top_n)
        )

    def _wait(self, pending: Pending[Waited], options: Mapping[str, Any]) -> Waited:
        with bar(options.get("use_tqdm", False), pending.count) as progress:
            return pending.result(progress=progress)

"""Three ways through the code, as the stops that a reader wants to see: data for docs/map.md.

`tests/test_map.py` runs the work, and fails where a stop is not visited in this order, or where a file is
visited that a journey does not name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stop:
    file: str
    function: str
    """Its qualified name in that file."""
    what: str
    """What happens there."""


@dataclass(frozen=True, slots=True)
class Journey:
    title: str
    about: str
    stops: tuple[Stop, ...]
    passed: tuple[tuple[str, str], ...] = ()
    """(folder, names of its files that are visited and are no stop)."""

    def files(self) -> set[str]:
        """Every file that the journey names, from the repository's root."""
        passed = {f"{room}/{name}.py" for room, names in self.passed for name in names.split()}
        return passed | {stop.file for stop in self.stops}


RERANK = Journey(
    "A text through /rerank",
    "A client sends a query and two documents to `poolrt serve`, which serves a cross-encoder. Stops "
    "without a mark are in the thread of the event loop.",
    (
        Stop(
            "serve/http/protocol.py",
            "Protocol.data_received",
            "bytes of the socket become a request, with bounds on all of them",
        ),
        Stop(
            "serve/http/access.py",
            "Gate.__call__",
            "the key, the request's id, what is measured; the outermost layer",
        ),
        Stop(
            "serve/endpoints/route.py",
            "Route.respond",
            "one row of the route table: the body that `/rerank` reads, and its function",
        ),
        Stop("serve/http/request_body.py", "read", "media type, size, JSON"),
        Stop(
            "serve/schema/body.py",
            "Body.read",
            "JSON becomes the record `vllm.Rerank`, or a refusal in vLLM's words",
        ),
        Stop("serve/models/registry.py", "Registry.able", "the model that `model` names, if it can score"),
        Stop("serve/endpoints/score.py", "rerank", "the record becomes one call to the model"),
        Stop(
            "serve/execution.py",
            "Workshop.answer",
            "runs the call: preparing here or in a thread, waiting without one",
        ),
        Stop("runtime/model.py", "Model.start_rerank", "the public method, in its form that does not wait"),
        Stop("runtime/intake.py", "Intake.score", "arguments are checked before anything is queued"),
        Stop(
            "runtime/answers/pair_scores.py",
            "prepare",
            "which way this model scores: pairs read together, or two vectors",
        ),
        Stop("runtime/inputs/preparation.py", "Preparation.pairs", "the query beside each document"),
        Stop(
            "runtime/inputs/pairs.py",
            "items",
            "two texts become one list of token ids, cut to the model's limit",
        ),
        Stop(
            "runtime/inputs/encoder.py", "Encoder.item", "the item: token ids, kinds of tokens, what was cut"
        ),
        Stop("runtime/batching/worker.py", "Worker.submit", "the items join the line of all callers"),
        Stop("runtime/batching/line.py", "Line.take", "(worker's thread) who is next"),
        Stop(
            "runtime/batching/plan.py",
            "pick",
            "(worker's thread) the items that run together, of near-equal length",
        ),
        Stop("runtime/batching/worker.py", "Worker._run", "(worker's thread) one batch, begun and ended"),
        Stop(
            "runtime/engines/feed.py",
            "Feed.arrays",
            "(worker's thread) items become the graph's input arrays, by their axes",
        ),
        Stop(
            "runtime/engines/ort.py",
            "OrtSession.run",
            "(worker's thread) the ONNX graph, head included, in ONNX Runtime",
        ),
        Stop("serve/http/futures.py", "Waiting._wake", "the rows are back in the event loop"),
        Stop("runtime/answers/postprocess.py", "answers", "a row becomes what the task returns"),
        Stop("runtime/answers/scoring.py", "activate", "the logit becomes a score"),
        Stop(
            "runtime/answers/pair_scores.py",
            "ranked",
            "documents in the order of their scores, `top_n` of them",
        ),
        Stop("serve/responses.py", "ranking", "the JSON of the response"),
        Stop("serve/http/write_gathering.py", "Gathering.write", "its head and body leave in one piece"),
    ),
    (
        ("serve", "app context headers"),
        ("serve/http", "connections"),
        ("serve/metrics", "histogram prometheus"),
        ("serve/schema", "validation"),
        ("runtime", "cancellation options outputs"),
        ("runtime/answers", "params score_request"),
        ("runtime/batching", "held pending queue returning stages"),
        ("runtime/engines", "lanes"),
        ("runtime/inputs/multimodal", "contents"),
        ("runtime/inputs", "items special_tokens templates tokenization truncation"),
    ),
)

EXPORT = Journey(
    "A checkpoint through export",
    "`poolrt export CHECKPOINT --precision fp16` of a BERT embedder with Sentence Transformers' files. "
    "`exporter/pipeline.py` is the table of contents.",
    (
        Stop("exporter/cli.py", "export", "arguments"),
        Stop("exporter/pipeline.py", "export", "the steps, one after the other"),
        Stop(
            "exporter/checkpoint.py",
            "read",
            "what the model is, from headers and JSON alone; every guess with its reason",
        ),
        Stop("exporter/files/source.py", "find", "the folder, or the repository of the hub"),
        Stop(
            "exporter/files/recipe.py", "find", "what we know of a published model and its files do not say"
        ),
        Stop("exporter/files/weights.py", "open_folder", "names and shapes of the tensors"),
        Stop("exporter/families/registry.py", "find", "the family that reads this architecture"),
        Stop("exporter/files/sentence_files.py", "read", "modules.json and its folders"),
        Stop("exporter/detection.py", "detect", "embedder, reranker, classifier or another kind"),
        Stop("exporter/files/tokenizer.py", "read", "one tokenizer.json and the facts that are not in it"),
        Stop(
            "exporter/heads/planning.py",
            "plan",
            "from the checkpoint to tasks and the layers behind the backbone",
        ),
        Stop("exporter/heads/embedding.py", "embed", "pooling, layers, normalisation, widths of an embedder"),
        Stop("exporter/heads/text_plan.py", "text", "how the runtime will prepare texts"),
        Stop("exporter/base/artifact.py", "draft", "a folder that loads only after its last step"),
        Stop("exporter/graph/tracing.py", "module", "one torch module: backbone and heads"),
        Stop(
            "exporter/families/_transformers.py",
            "backbone",
            "transformers' class, filled with the checkpoint's tensors",
        ),
        Stop(
            "exporter/graph/tracing.py",
            "onnx_from_module",
            "traced to ONNX, rewritten by passes/, its interface asserted",
        ),
        Stop("exporter/graph/onnx_files.py", "save", "the graph and its weights on disk"),
        Stop(
            "exporter/proof/library_reference.py",
            "against_library",
            "the same texts through the checkpoint's own library",
        ),
        Stop("exporter/precision/choice.py", "chosen", "the graph in the precision that was asked for"),
        Stop("exporter/proof/verify.py", "against_reference", "the artifact in the runtime, beside PyTorch"),
        Stop("exporter/proof/reference.py", "Reference.answers", "PyTorch's side"),
        Stop(
            "exporter/proof/evidence.py", "compared", "cosines, differences and ranks, with their tolerances"
        ),
        Stop("exporter/proof/verify.py", "golden", "a few answers, kept for `poolrt verify`"),
        Stop("exporter/base/artifact.py", "Draft.commit", "hashes, the manifest, one rename"),
    ),
    (
        ("exporter", "engine unread"),
        ("exporter/base", "guess json_file large quiet refusals report terminal"),
        (
            "exporter/files",
            "auto_tokenizer checkpoint_files config_json module_chain plausible routers tokenizer_changes",
        ),
        ("exporter/families", "bert"),
        ("exporter/families/modules", "experts padding rotary traceable"),
        (
            "exporter/heads",
            "checks head_modules layers pictures precedence sentence_modules yes_no",
        ),
        ("exporter/heads/texts", "processing"),
        ("exporter/graph", "interface rewriting streaming"),
        (
            "exporter/graph/passes",
            "biases blocks empty_rows mixed nan_guard order packing simplify slices strip surgery unpacking",
        ),
        ("exporter/precision", "mixed trials"),
        (
            "exporter/proof",
            "library_answers library_comparison library_distances library_heads library_models "
            "library_sentence_transformers library_texts texts",
        ),
        ("runtime", "extras json_objects loader machine"),
        ("runtime/answers", "params postprocess scoring"),
        ("runtime/artifact", "digests manifest onnx_references reading records spellings"),
        ("runtime/batching", "held line plan queue returning row_cache stages worker"),
        ("runtime/command_line", "command flags parameters spelling values"),
        ("runtime/commands", "inspection"),
        ("runtime/engines", "feed lanes ort"),
        ("runtime/inputs", "encoder growth items preparation special_tokens tokenizer_file truncation"),
        ("runtime/inputs/multimodal", "media_reading"),
        ("runtime/store", "locking placing"),
        ("runtime/vllm", "pooler_config"),
    ),
)

WEIGHT = Journey(
    "A weight through the passes",
    "One matrix of the same export, from the safetensors file to the engine. The weights of a model too "
    "large for memory stay in their files until each is written: `exporter/graph/streaming.py` puts them "
    "into the graph.",
    (
        Stop("exporter/families/_transformers.py", "backbone", "transformers' class asks for its tensors"),
        Stop(
            "exporter/files/weights.py",
            "Weights.state",
            "a torch tensor, mapped from the file, under its own name",
        ),
        Stop(
            "exporter/families/_transformers.py",
            "_check",
            "a parameter in float32, under transformers' name; none is missing",
        ),
        Stop("exporter/files/plausible.py", "check_finite", "its numbers are numbers"),
        Stop("exporter/graph/tracing.py", "_traced", "an initialiser of the ONNX graph"),
        Stop(
            "exporter/graph/passes/order.py",
            "rewrite",
            "the passes of a graph for ONNX Runtime, in the order of the table",
        ),
        Stop(
            "exporter/graph/passes/nan_guard.py",
            "run",
            "torch's guard around the softmax goes; a weight passes untouched",
        ),
        Stop(
            "exporter/graph/passes/simplify.py",
            "run",
            "the keys of attention are transposed in one step instead of three",
        ),
        Stop(
            "exporter/graph/passes/biases.py",
            "run",
            "biases of keys and values are moved to where they cost nothing",
        ),
        Stop(
            "exporter/graph/passes/slices.py",
            "run",
            "vocabulary logits of a SPLADE head would be cut into slices here",
        ),
        Stop(
            "exporter/graph/passes/packing.py", "run", "rows of padding are dropped in front of the product"
        ),
        Stop(
            "exporter/graph/onnx_files.py",
            "save",
            "bytes of model.onnx, or of model.data beside it where they are large",
        ),
        Stop(
            "exporter/graph/rewriting.py",
            "mixed_from_onnx",
            "read again for another precision (`int8_from_onnx` for int8)",
        ),
        Stop(
            "exporter/graph/passes/unpacking.py",
            "run",
            "engines take padded batches: packing is undone for them",
        ),
        Stop(
            "exporter/graph/passes/mixed.py",
            "_Lowering.visit",
            "fp16 in products, float32 in what sums or compares",
        ),
        Stop("exporter/graph/onnx_files.py", "save", "bytes of model.fp16.onnx"),
        Stop(
            "runtime/engines/ort.py",
            "open",
            "loaded by the engine library, in the proof as it will be in the server",
        ),
        Stop("runtime/engines/ort.py", "OrtSession.run", "multiplied"),
    ),
)

JOURNEYS = (RERANK, EXPORT, WEIGHT)

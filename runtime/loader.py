"""From an artifact folder to a model: chooses the engine and the limits of a batch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from .artifact import overrides, reading
from .artifact.images import Images
from .artifact.manifest import Manifest, Precision
from .batching.line import Policy
from .batching.plan import BatchLimits, bounded
from .batching.stages import VisionPart
from .engines import measured, table
from .engines.feed import Feed
from .errors import InputError
from .inputs.items import Style
from .inputs.multimodal import media_reading
from .inputs.multimodal.preparation import MultimodalPreparation
from .inputs.preparation import Preparation
from .model import Model
from .store import resolving

log = logging.getLogger("poolrt")

# Token slots of a batch, and what a launch costs, in tokens of work (docs/decisions/batching.md).
CPU_TOKENS, CPU_LAUNCH = 512, 16
LARGE_BYTES = 50 << 20
"""Weights, as they are read in a launch, from which on reading them counts: less stays in the processor's
caches."""
LARGE_LAUNCH: dict[tuple[table.Backend, Precision], int] = {
    ("openvino", "bf16"): 96,
    ("openvino", "fp16"): 96,
    ("openvino", "int8"): 72,
    ("onnxruntime", "int8"): 40,
}
"""What a launch of such a graph costs. A token is several times cheaper there than in float32, and reading
all weights is not."""
PACKED_WIDTH = 200
"""Measured: docs/decisions/packing.md."""
GPU_TOKENS, GPU_LAUNCH = 16384, 1024
CACHE_GB = 0.25
"""Features of pictures that are kept. A page takes 41 MB in a 2B model with deepstack, a CLIP picture 2 kB:
so the last six pages, or 100 000 pictures. vLLM's default of 4 is for servers with a GPU."""
PREFIX_MB = 512.0
"""Keys and values of prefixes: 2 300 tokens of Qwen3-0.6B, which is 25 queries with their instruction."""
# What the logits of a SPLADE batch may take, several times over while they are pooled, where the graph does
# not pool them in slices (docs/decisions/memory.md).
CPU_LOGITS, GPU_LOGITS = 64 << 20, 1 << 30


def load(
    path: str | Path,
    engine: str = "auto",
    *,
    preparation: Style = "model",
    threads: int | None = None,
    max_batch_tokens: int | None = None,
    max_queued_tokens: int | None = None,
    max_tokens: int | None = None,
    scheduling_policy: Policy = "fcfs",
    io_processor_plugin: str | None = None,
    hf_overrides: Mapping[str, Any] | None = None,
    name: str | None = None,
    check: reading.Check = "once",
    limit_mm_per_prompt: Mapping[str, Any] | None = None,
    mm_processor_kwargs: Mapping[str, Any] | None = None,
    mm_processor_cache_gb: float = CACHE_GB,
    media_io_kwargs: Mapping[str, Any] | None = None,
    response_cache_mb: float = 0,
    enable_prefix_caching: bool | None = None,
    prefix_cache_mb: float = PREFIX_MB,
) -> Model:
    """Opens an artifact. Raises ArtifactError for one that is incomplete or changed, EngineError when no
    engine can be opened, InputError for an argument that cannot be followed.

    Args:
        path: folder of an artifact, its name in the store (`poolrt list`), or an address (`hf://owner/name`,
            `s3://bucket/folder`, ...), which is pulled into the store where it is not there yet.
        engine: `auto` takes a compiled engine that fits this machine, else ONNX Runtime;
            `engines.table.choose` lists the names.
        preparation: `model` prepares the texts of `score` and of roles, and compares sparse vectors, as the
            model's own library does, `vllm` as vLLM does (docs/decisions/score-preparation.md).
        threads: of ONNX Runtime; None: as many processors as affinity and cgroup grant.
        max_batch_tokens: token slots of a batch, padding included; None: a measured value for the device.
        max_queued_tokens: more raise Overload; None: no limit.
        max_tokens: a lower limit for one text than the model's own (vLLM's max_model_len).
        scheduling_policy: `fcfs` serves callers in fair turns, `priority` the call of the
            lowest `priority` first.
        io_processor_plugin: name of the plugin that `encode(pooling_task="plugin")` runs; None: the one
            that the checkpoint names.
        hf_overrides: `is_matryoshka` and `matryoshka_dimensions`, the widths that a request may name. Any
            other key was decided at export.
        name: of the model in errors and results; None: the artifact's own.
        check: `once` compares the sha256 of every file that has changed since it was compared last on this
            machine, `full` of every file, `quick` only the sizes.
        limit_mm_per_prompt: most pictures and videos of one prompt, as {"image": 2, "video": 0}; None: the
            model's own limits.
        mm_processor_kwargs: how pictures are prepared where a prompt says nothing else: `max_pixels`, ...
        mm_processor_cache_gb: gigabytes of features of pictures that are kept for later prompts; 0: none.
        media_io_kwargs: how many frames of a video are read, as {"video": {"num_frames": 16}}.
        response_cache_mb: megabytes of computed rows that are kept, and returned for equal texts; 0: none.
        enable_prefix_caching: whether what texts begin with alike is computed once; None: where the model
            can. True for another model changes nothing, and is noted in the log.
        prefix_cache_mb: megabytes of keys and values of such beginnings that are kept.

    >>> with load("artifacts/all-MiniLM-L6-v2", max_tokens=128) as model:
    ...     print(model.max_tokens, model.embed("a first text"))
    128 Outputs([EmbeddingOutput([..., ...], dim=384)], prompt_tokens=5)
    """
    _check_types(path, engine)
    _check_choices(
        preparation=(preparation, ("model", "vllm")),
        scheduling_policy=(scheduling_policy, ("fcfs", "priority")),
        check=(check, ("full", "once", "quick")),
    )
    _check_counts(threads=threads, max_batch_tokens=max_batch_tokens, max_queued_tokens=max_queued_tokens)
    opened = reading.read(resolving.artifact(path), check=check)
    manifest = _changed(opened.manifest, max_tokens, name, hf_overrides)
    engine = measured.stated(engine)
    choice = measured.choose(opened.folder, manifest, engine, threads=threads)
    cache_bytes = _bytes("mm_processor_cache_gb", mm_processor_cache_gb, 1e9)
    kept_bytes = _bytes("response_cache_mb", response_cache_mb, 1e6)
    options = media_reading.options_from(mm_processor_kwargs, media_io_kwargs)
    # Before the engine is opened: a graph that cannot be filled is refused while nothing is held.
    graph = choice.graph if choice.engine is None else choice.engine.reads(choice.graph)
    feed = Feed(graph.inputs, pad_id=manifest.text.pad_id)
    prefix_bytes = _bytes("prefix_cache_mb", prefix_cache_mb, 1e6)
    if enable_prefix_caching is False or not _has_prefixes(manifest, choice, enable_prefix_caching):
        prefix_bytes = 0
    seen = (
        None
        if manifest.images is None
        else measured.choose(opened.folder, manifest, engine, "vision", threads=threads)
    )
    vision_feed = None if seen is None else Feed(seen.graph.inputs)
    session, prepared = _both(
        lambda: table.open(opened.folder, manifest, choice, threads=threads),
        lambda: prepared_for(opened.folder, manifest, preparation, limit_mm_per_prompt, options),
    )
    limits = batch_limits(manifest, choice, session, max_batch_tokens)
    vision = None
    if seen is not None and vision_feed is not None and manifest.images is not None:
        try:
            seeing = table.open(opened.folder, manifest, seen, threads=threads)
        except BaseException:
            session.close()
            raise
        output = seen.graph.outputs[0].name
        vision_limits = _vision_limits(manifest.images, seen, seeing)
        vision = VisionPart(seen, seeing, vision_feed, vision_limits, output, cache_bytes)
    model = Model(
        opened.folder,
        manifest,
        choice,
        session,
        feed,
        prepared,
        limits,
        max_queued_tokens,
        scheduling_policy,
        io_processor_plugin,
        vision,
        kept_bytes,
        prefix_bytes,
    )
    if io_processor_plugin is not None:
        try:
            _ = model.plugin
        except BaseException:
            model.close()
            raise
    return model


def _both(
    session: Callable[[], table.Session], preparation: Callable[[], Preparation]
) -> tuple[table.Session, Preparation]:
    """Opens the two side by side. A tokenizer of 150 000 pieces takes half a second, and the libraries open a
    graph without Python's lock."""
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(session)
        try:
            prepared = preparation()
        except BaseException:
            if opening.exception() is None:
                opening.result().close()
            raise
        return opening.result(), prepared


def _changed(
    manifest: Manifest, max_tokens: int | None, name: str | None, hf_overrides: Mapping[str, Any] | None
) -> Manifest:
    """Returns the manifest as the arguments of `load` change it. Raises InputError."""
    if max_tokens is not None:
        if not isinstance(max_tokens, int) or not 1 <= max_tokens <= manifest.text.max_tokens:
            raise InputError(
                f"max_tokens is {max_tokens!r}, expected 1 to "
                f"{manifest.text.max_tokens}, the model's own limit",
                field="max_tokens",
            )
        manifest = replace(manifest, text=replace(manifest.text, max_tokens=max_tokens))
    if name is not None:
        manifest = replace(manifest, name=name)
    if hf_overrides:
        if flags := list(overrides.undone(manifest, hf_overrides, None, {})):
            raise InputError(
                f"hf_overrides: export the artifact with {', '.join(flags)}", field="hf_overrides"
            )
        manifest = overrides.widened(manifest, hf_overrides)
    return manifest


def _has_prefixes(manifest: Manifest, choice: table.Choice, wanted: bool | None) -> bool:
    """Whether texts can be computed behind a prefix: not without that in the graph or the engine's profiles,
    and not by ONNX Runtime on a GPU, where each batch would copy the prefix."""
    takes = choice.device == "cpu" if choice.engine is None else choice.engine.past > 0
    able = takes and choice.graph.past is not None
    if wanted and not able:
        why = "its graph takes none" if choice.graph.past is None else f"{choice.name} takes none"
        log.warning("%s: no prefix is cached: %s", manifest.name, why)
    return able


def batch_limits(
    manifest: Manifest, choice: table.Choice, session: table.Session, max_batch_tokens: int | None
) -> BatchLimits:
    """What a batch of texts may hold, by the device of the choice; `max_batch_tokens` None: a measured
    value."""
    on_cpu = choice.engine is None and choice.device == "cpu"
    tokens, logits = (CPU_TOKENS, CPU_LOGITS) if on_cpu else (GPU_TOKENS, GPU_LOGITS)
    return BatchLimits(
        max_tokens=max_batch_tokens
        or (tokens if choice.graph.sliced else bounded(tokens, manifest.heads.values(), logits)),
        launch_tokens=_launch_tokens(manifest, choice) if on_cpu else GPU_LAUNCH,
        packed_width=PACKED_WIDTH
        if choice.backend == "onnxruntime" and on_cpu and choice.graph.packed
        else None,
        profiles=tuple(session.profiles),
    )


def _launch_tokens(manifest: Manifest, choice: table.Choice) -> int:
    """What a launch on a processor costs, in tokens of work."""
    graph, precision = choice.graph, choice.precision or choice.graph.precision
    size = sum(manifest.files[name].size for name in (graph.file, *graph.external))
    if graph.precision == "fp32" and precision in ("bf16", "fp16"):
        size //= 2  # of what is read; the file holds float32
    return LARGE_LAUNCH.get((choice.backend, precision), CPU_LAUNCH) if size > LARGE_BYTES else CPU_LAUNCH


def prepared_for(
    folder: Path,
    manifest: Manifest,
    style: Style = "model",
    limit_mm_per_prompt: Mapping[str, Any] | None = None,
    options: Mapping[str, object] | None = None,
) -> Preparation:
    """The preparation of an artifact's prompts, with pictures where it reads them. Raises InputError."""
    most = media_reading.limits_from(limit_mm_per_prompt)
    if manifest.images is None:
        if options:
            raise InputError("mm_processor_kwargs: this model reads text only", field="mm_processor_kwargs")
        return Preparation(folder, manifest, style=style)
    widths = [int(tensor.axes[1]) for tensor in manifest.graph("text").inputs if tensor.name == "features"]
    reader = media_reading.MediaReading(manifest.images, most=most, options=options, width=sum(widths))
    return MultimodalPreparation(folder, manifest, reader, style=style)


def _vision_limits(images: Images, choice: table.Choice, session: table.Session) -> BatchLimits:
    """The limits of a batch of pictures, in patches."""
    on_cpu = choice.engine is None and choice.device == "cpu"
    profiles = tuple(session.profiles)
    if images.scheme != "patches":
        # All rows have one size, whose work is `cost`; the shapes of an engine differ in their rows only.
        profiles = tuple(
            replace(
                profile,
                smallest=(profile.smallest[0], images.cost),
                best=(profile.best[0], images.cost),
                largest=(profile.largest[0], images.cost),
            )
            for profile in profiles
        )
    return BatchLimits(
        max_tokens=CPU_TOKENS if on_cpu else GPU_TOKENS,
        launch_tokens=CPU_LAUNCH if on_cpu else GPU_LAUNCH,
        profiles=profiles,
    )


def _bytes(name: str, size: float, unit: float) -> int:
    """The bytes of an argument in gigabytes (unit 1e9) or megabytes (1e6). Raises InputError."""
    if isinstance(size, bool) or not isinstance(size, int | float) or not 0 <= size * unit < 1e15:
        what = "gigabytes" if unit == 1e9 else "megabytes"
        raise InputError(f"{name} is {size!r}, expected {what} from 0", field=name)
    return int(size * unit)


def _check_types(path: object, engine: object) -> None:
    if not isinstance(path, str | Path):
        raise InputError(f"path: expected an artifact folder, found {type(path).__name__}", field="path")
    if not isinstance(engine, str):
        raise InputError(
            f"engine: expected a name such as 'auto', found {type(engine).__name__}", field="engine"
        )


def _check_choices(**choices: tuple[object, tuple[str, ...]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            *others, last = map(repr, known)
            raise InputError(f"{name} {value!r} is not {', '.join(others)} or {last}", field=name)


def _check_counts(**counts: int | None) -> None:
    for name, count in counts.items():
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise InputError(f"{name} is {count!r}, expected a whole number from 1", field=name)

"""A model inside Triton's Python backend: the base of TritonPythonModel in repositories of `poolrt triton`.

Texts are prepared, batched and answered as `load` does it; a batch goes to the Triton model that has the
graph. Source of the interface: https://github.com/triton-inference-server/python_backend.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from .. import InputError, Model, Outputs, PoolingParams
from ..artifact import reading
from ..artifact.digests import sha256
from ..artifact.manifest import FILE, Graph, Manifest, Profile
from ..batching.pending import Pending
from ..engines.feed import Feed
from ..engines.table import Arrays, Choice
from ..errors import ArtifactError, EngineError, Overload
from ..loader import batch_limits, prepared_for
from ..options import suggestion

LANES = 2
"""Batches that are at Triton at once: while one is computed, the next is there."""
PARAMETERS = {
    "role": str, "prompt_name": str, "instruction": str, "dimensions": int, "use_activation": bool,
    "truncate": bool, "truncate_prompt_tokens": int,
}  # fmt: skip
"""Of a request (Triton's extension of that name) -> type of the value."""
OF_SCORES = ("instruction", "use_activation", "truncate", "truncate_prompt_tokens")


def _backend() -> Any:
    """The module that Triton's stub process has in its path."""
    return importlib.import_module("triton_python_backend_utils")


class GraphSession:
    """A Triton model that computes the graph. See `engines.table.Session`."""

    backend = "onnxruntime"
    lanes = LANES

    def __init__(self, name: str, profiles: Sequence[Profile]) -> None:
        self.name = name
        self.profiles = profiles

    def run(
        self, inputs: Arrays, outputs: Sequence[str], *, alone: bool = False
    ) -> list[NDArray[np.float32]]:
        triton = _backend()
        request = triton.InferenceRequest(
            model_name=self.name,
            requested_output_names=list(outputs),
            inputs=[triton.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()],
            # numpy cannot read what lies on a GPU.
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise EngineError(f"Triton's model {self.name!r} failed on a batch: {response.error().message()}")
        tensors = [triton.get_output_tensor_by_name(response, name) for name in outputs]
        # Copied, because the shared memory is Triton's.
        return [np.array(tensor.as_numpy(), dtype=np.float32) for tensor in tensors]

    def close(self) -> None: ...


def opened(folder: Path, parameters: Mapping[str, str], *, device_is_gpu: bool) -> Model:
    """The model of a repository. Raises ArtifactError for files that are missing or changed.

    Args:
        folder: manifest.json and the files of the artifact that are neither graphs nor engines.
        parameters: of config.pbtxt, as exporter/triton/python_model.py writes them.
    """
    path = folder / FILE
    manifest = reading.described(path, path.read_bytes())
    _check_files(folder, manifest)
    engine = next((it for it in manifest.engines if it.file == parameters.get("engine_file")), None)
    graph = _graph(manifest, parameters["graph_file"]).whole()
    choice = Choice(
        "onnxruntime" if engine is None else engine.backend,
        graph,
        engine,
        device="cuda" if device_is_gpu else "cpu",
    )
    session = GraphSession(parameters["graph"], () if engine is None else engine.profiles)
    limits = replace(
        batch_limits(manifest, choice, session, None), max_rows=int(parameters["graph_max_batch_size"])
    )
    feed = Feed(graph.inputs, pad_id=manifest.text.pad_id)
    return Model(folder, manifest, choice, session, feed, prepared_for(folder, manifest), limits)


def _graph(manifest: Manifest, file: str) -> Graph:
    for graph in manifest.graphs:
        if graph.file == file:
            return graph
    raise ArtifactError(f"{FILE}: no graph {file!r}, which config.pbtxt names; write the repository again")


def _check_files(folder: Path, manifest: Manifest) -> None:
    computed = {file for graph in manifest.graphs for file in (graph.file, *graph.external)}
    computed |= {engine.file for engine in manifest.engines}
    expected = {file: facts.sha256 for file, facts in manifest.files.items() if file not in computed}
    changed = [
        file
        for file, digest in expected.items()
        if not (folder / file).is_file() or sha256(folder / file) != digest
    ]
    if changed:
        raise ArtifactError(
            f"{folder}: {', '.join(changed)} missing or changed; write the repository again (`poolrt triton`)"
        )


class PythonModel:
    """The base of TritonPythonModel. Requests of one call share batches."""

    folder: ClassVar[Path]
    """The artifact's files in the repository."""

    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        self._task = parameters["task"]
        self._outputs = [output["name"] for output in config["output"]]
        self._model = opened(self.folder, parameters, device_is_gpu=args.get("model_instance_kind") == "GPU")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each request: Triton's InferenceResponse."""
        started = [self._started(request) for request in requests]
        return [self._response(pending) for pending in started]

    def finalize(self) -> None:
        self._model.close(timeout_s=5)

    def _started(self, request: Any) -> Pending[Outputs[Any]] | Exception:
        """What computes a request, or what is wrong with it."""
        triton = _backend()
        if request.is_cancelled():
            return CancelledRequest("the request was cancelled by its client")
        try:
            parameters = json.loads(request.parameters() or "{}")
            if self._task == "score":
                options = _options(parameters, OF_SCORES)
                queries, documents = (
                    _texts(triton.get_input_tensor_by_name(request, name)) for name in ("query", "document")
                )
                listed = self._model.manifest.scoring == "listwise"
                return self._model.start_score(queries[0] if listed else queries, documents, **options)
            texts = _texts(triton.get_input_tensor_by_name(request, "text"))
            return self._model.start(
                texts, pooling_task=self._task, **_options(parameters, tuple(PARAMETERS))
            )
        except Exception as error:
            return error

    def _response(self, started: Pending[Outputs[Any]] | Exception) -> Any:
        triton = _backend()
        if isinstance(started, Exception):
            return triton.InferenceResponse(error=_error(triton, started))
        try:
            arrays = self._arrays(started.result())
        except Exception as error:
            return triton.InferenceResponse(error=_error(triton, error))
        tensors = [triton.Tensor(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
        return triton.InferenceResponse(output_tensors=tensors)

    def _arrays(self, outputs: Outputs[Any]) -> list[NDArray[Any]]:
        """The arrays of the response, in the order of the outputs in config.pbtxt."""
        if self._task == "score":
            scores = np.array([request.outputs.score for request in outputs.requests], np.float32)
            return [scores if self._model.manifest.scoring == "listwise" else scores[:, None]]
        rows = [np.asarray(row, np.float32) for row in outputs.arrays]
        if self._task in ("embed", "classify"):
            return [np.stack(rows)]
        lengths = np.array([[len(row)] for row in rows], np.int64)
        padded = np.zeros((len(rows), int(lengths.max()), *rows[0].shape[1:]), np.float32)
        for place, row in enumerate(rows):
            padded[place, : len(row)] = row
        return [padded, lengths]


class CancelledRequest(Exception):
    """A request whose client waits no longer."""


def _texts(tensor: Any) -> list[str]:
    """The texts of an input [batch, 1]. Raises InputError for bytes that are not UTF-8."""
    values = tensor.as_numpy().reshape(-1).tolist()
    try:
        return [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    except UnicodeDecodeError as error:
        raise InputError(f"{tensor.name()}: byte {error.start} is not valid UTF-8") from None


def _options(parameters: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """The keywords of `Model.start` or `Model.start_score`. Raises InputError for a value of another type,
    and for a name that is nearly a known one; others (headers that Triton forwards) are not read."""
    names = {name: repr(name) for name in known}
    for name, value in parameters.items():
        if name not in known:
            hint = suggestion(name, names)
            if hint or name in PARAMETERS:
                raise InputError(
                    f"no parameter {name!r} here{hint}; known are {', '.join(known)}", field=name
                )
        elif type(value) is not PARAMETERS[name]:
            raise InputError(f"{name} is {value!r}, expected {PARAMETERS[name].__name__}", field=name)
    options: dict[str, Any] = {
        name: parameters[name] for name in ("role", "prompt_name", "instruction") if name in parameters
    }
    options["pooling_params"] = PoolingParams(
        dimensions=parameters.get("dimensions"), use_activation=parameters.get("use_activation")
    )
    cut = parameters.get("truncate_prompt_tokens", -1)
    return {**options, "truncate_prompt_tokens": cut if parameters.get("truncate", True) else None}


def _error(triton: Any, error: Exception) -> Any:
    """Triton's error with the code that fits: of the client, of a full queue, or our own."""
    codes = triton.TritonError
    if isinstance(error, CancelledRequest):
        return codes(str(error), codes.CANCELLED)
    if isinstance(error, InputError):
        return codes(str(error), codes.INVALID_ARG)
    if isinstance(error, Overload):
        return codes(str(error), codes.UNAVAILABLE)
    return codes(f"{type(error).__name__}: {error}", codes.INTERNAL)

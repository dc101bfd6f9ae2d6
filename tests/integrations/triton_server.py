"""A stand-in for Triton: its Python backend's interface, and its rules for what a configuration admits. ONNX
Runtime computes the graphs."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import json_format
from numpy.typing import NDArray

from tests.integrations.triton_schema import parsed

NUMPY = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32, "TYPE_STRING": np.object_}


class Tensor:
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        assert isinstance(array, np.ndarray)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> NDArray[Any]:
        return self._array


class TritonError:
    INTERNAL, INVALID_ARG, UNAVAILABLE, CANCELLED = "internal", "invalid", "unavailable", "cancelled"

    def __init__(self, message: str, code: str = INTERNAL) -> None:
        self._message, self._code = message, code

    def message(self) -> str:
        return self._message

    def code(self) -> str:
        return self._code


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor] | None = None, error: TritonError | None = None) -> None:
        self.tensors, self._error = output_tensors or [], error

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError:
        assert self._error is not None
        return self._error


class Request:
    """What `execute` is called with."""

    def __init__(
        self, inputs: list[Tensor], parameters: dict[str, Any] | None = None, *, cancelled: bool = False
    ) -> None:
        self.tensors, self._parameters, self._cancelled = inputs, parameters, cancelled

    def parameters(self) -> str:
        return "" if self._parameters is None else json.dumps(self._parameters)

    def is_cancelled(self) -> bool:
        return self._cancelled


class Server:
    """The models of a repository."""

    def __init__(self, repository: Path) -> None:
        self.repository = repository
        self.configs = {path.parent.name: parsed(path) for path in repository.glob("*/config.pbtxt")}
        # Every folder in a repository is a model.
        assert {path.name for path in repository.iterdir() if path.is_dir()} == set(self.configs)
        assert all(config.name == name for name, config in self.configs.items())
        self.batches: list[tuple[int, ...]] = []
        self.failing = False
        self._sessions: dict[str, Any] = {}

    def session(self, name: str) -> Any:
        """The graph, as Triton's onnxruntime backend checks it when it loads it."""
        import onnxruntime

        if name not in self._sessions:
            path = self.repository / name / "1" / "model.onnx" / "model.onnx"
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            config = self.configs[name]
            assert config.backend == "onnxruntime"
            inputs = {value.name: value for value in session.get_inputs()}
            outputs = {value.name: value for value in session.get_outputs()}
            assert {value.name for value in config.input} == set(inputs)
            for values, ours in ((inputs, config.input), (outputs, config.output)):
                for value in ours:
                    shape = [axis if isinstance(axis, int) else -1 for axis in values[value.name].shape]
                    assert shape == [-1, *value.dims], value.name
            self._sessions[name] = session
        return self._sessions[name]

    def compute(
        self, name: str, outputs: list[str], inputs: list[Tensor]
    ) -> tuple[list[NDArray[Any]], str | None]:
        """The outputs of a model, or why Triton refuses the request."""
        if self.failing:
            return [], "the GPU is gone"
        config = self.configs[name]
        arrays = {tensor.name(): tensor.as_numpy() for tensor in inputs}
        assert set(arrays) == {value.name for value in config.input}
        for value in config.input:
            self.check(name, value, arrays[value.name])
        self.batches.append(next(iter(arrays.values())).shape)
        return self.session(name).run(outputs, arrays), None

    def check(self, name: str, value: Any, array: NDArray[Any]) -> None:
        config = self.configs[name]
        dims = list(array.shape)
        if config.max_batch_size:
            assert 1 <= dims.pop(0) <= config.max_batch_size, f"{value.name}: {array.shape}"
        assert len(dims) == len(value.dims), f"{value.name}: {array.shape}"
        assert all(want in (-1, size) for want, size in zip(value.dims, dims, strict=True)), array.shape
        kind = type(value).DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
        assert array.dtype == NUMPY[kind[value.data_type].name], value.name

    def utilities(self) -> types.ModuleType:
        """The module triton_python_backend_utils."""
        server = self

        class InferenceRequest:
            def __init__(
                self, *, model_name: str, requested_output_names: list[str], inputs: list[Tensor],
                preferred_memory: Any,
            ) -> None:  # fmt: skip
                assert preferred_memory == ("CPU", 0)
                self.name, self.outputs, self.inputs = model_name, requested_output_names, inputs

            def exec(self) -> InferenceResponse:
                arrays, refusal = server.compute(self.name, self.outputs, self.inputs)
                if refusal is not None:
                    return InferenceResponse(error=TritonError(refusal))
                return InferenceResponse(list(map(Tensor, self.outputs, arrays)))

        def by_name(holder: Request | InferenceResponse, name: str) -> Tensor | None:
            return next((tensor for tensor in holder.tensors if tensor.name() == name), None)

        module = types.ModuleType("triton_python_backend_utils")
        vars(module).update(
            Tensor=Tensor, TritonError=TritonError, InferenceResponse=InferenceResponse,
            InferenceRequest=InferenceRequest, PreferredMemory=lambda kind, device: (kind, device),
            TRITONSERVER_MEMORY_CPU="CPU", get_input_tensor_by_name=by_name,
            get_output_tensor_by_name=by_name,
        )  # fmt: skip
        return module

    def python_model(self, name: str) -> Any:
        """The TritonPythonModel of a model.py, initialised."""
        path = self.repository / name / "1" / "model.py"
        spec = importlib.util.spec_from_file_location(f"triton_model_{id(self)}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        model = module.TritonPythonModel()
        config = json_format.MessageToDict(self.configs[name], preserving_proto_field_name=True)
        model.initialize(
            {
                "model_config": json.dumps(config), "model_name": name, "model_version": "1",
                "model_instance_kind": "CPU", "model_repository": str(path.parents[1]),
            }
        )  # fmt: skip
        return model

    def execute(self, name: str, model: Any, *requests: Request) -> list[dict[str, Any] | TritonError]:
        """The outputs of each request, by name, or its error."""
        config = self.configs[name]
        for request in requests:
            for value, tensor in zip(config.input, request.tensors, strict=True):
                self.check(name, value, tensor.as_numpy())
        responses = model.execute(list(requests))
        assert len(responses) == len(requests)
        answers: list[dict[str, Any] | TritonError] = []
        for response in responses:
            if response.has_error():
                answers.append(response.error())
                continue
            arrays = {tensor.name(): tensor.as_numpy() for tensor in response.tensors}
            assert set(arrays) == {value.name for value in config.output}
            for value in config.output:
                self.check(name, value, arrays[value.name])
            answers.append(arrays)
        return answers


class InferInput:
    """Of tritonclient.http: what a client sends, typed as the configuration says."""

    def __init__(self, name: str, shape: list[int], datatype: str) -> None:
        self._name, self._shape, self._datatype = name, shape, datatype

    def set_data_from_numpy(self, array: NDArray[Any]) -> None:
        assert list(array.shape) == self._shape
        assert {"INT64": np.int64, "BYTES": np.object_}[self._datatype] == array.dtype
        if self._datatype == "BYTES":
            array = np.array([text.encode() for text in array.ravel()], object).reshape(array.shape)
        self.tensor = Tensor(self._name, array)


class Answer:
    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def as_numpy(self, name: str) -> NDArray[Any]:
        return self._arrays[name]


def http_client(server: Server, monkeypatch: Any) -> None:
    """Puts a stand-in for tritonclient.http, which asks the server, where programs import it."""

    class InferenceServerClient:
        def __init__(self, url: str) -> None:
            assert url == "localhost:8000"

        def infer(self, name: str, inputs: list[InferInput], outputs: list[str] | None = None) -> Answer:
            tensors = [value.tensor for value in inputs]
            if server.configs[name].backend == "python":
                model = server.python_model(name)
                (arrays,) = server.execute(name, model, Request(tensors))
                model.finalize()
                assert isinstance(arrays, dict)
                return Answer(arrays)
            assert outputs is not None
            arrays, refusal = server.compute(name, outputs, tensors)
            assert refusal is None
            return Answer(dict(zip(outputs, arrays, strict=True)))

    library, module = types.ModuleType("tritonclient"), types.ModuleType("tritonclient.http")
    vars(module).update(
        InferInput=InferInput, InferRequestedOutput=str, InferenceServerClient=InferenceServerClient
    )
    vars(library).update(http=module)
    monkeypatch.setitem(sys.modules, "tritonclient", library)
    monkeypatch.setitem(sys.modules, "tritonclient.http", module)


def texts(name: str, values: list[str]) -> Tensor:
    """An input of texts, [batch, 1]."""
    return Tensor(name, np.array([[value.encode()] for value in values], object))


def installed(server: Server, monkeypatch: Any) -> Server:
    """Puts the stand-in where Triton's stub has its module."""
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", server.utilities())
    return server

"""Runs an IO processor. It is duck-typed: a class written for vLLM runs here as it is."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from ..answers.params import PoolingParams, per_prompt
from ..errors import InputError, PluginError, PoolrtError
from ..inputs.prompts import prompts_from
from ..outputs import PoolingOutput, RequestOutput

MAX_MESSAGE = 1000
Params = PoolingParams | Sequence[PoolingParams | None] | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """One request after a processor's first half."""

    parsed: Any
    """What `parse_data` returned."""
    prompts: list[Any]
    params: list[PoolingParams]
    """One per prompt."""
    task: str | None
    """None: the model's default."""
    request_id: str | None


@dataclass
class Output:
    """vLLM's PoolingRequestOutput, with numpy arrays. Not frozen, because processors change it."""

    request_id: str
    outputs: PoolingOutput
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    finished: bool = True


class Plugin:
    """A processor's two halves: `prepare` comes before the model runs, `finish` after it.

    A lock lets one call into the processor at a time, unless its class says `thread_safe = True`.

    `prepare` and `finish` run the plain methods of the processor. For `prepare_async` and `finish_async`
    there is a choice between `pre_process` and `pre_process_async` (`post_process` likewise):
    `prepares_async` and `finishes_async` say which one the more derived class overrides. Where one class
    defines both, the asynchronous one wins.

    A method with a parameter `prompt` also receives what `parse_data` returned. A processor so needs no
    memory of its requests.
    """

    def __init__(self, name: str, processor: Any, width: int) -> None:
        self.name = name
        self.width = width
        self.processor = processor
        self._lock = (
            contextlib.nullcontext() if getattr(processor, "thread_safe", False) else threading.Lock()
        )
        self.prepares_async = _prefers_async(type(processor), "pre_process")
        self.finishes_async = _prefers_async(type(processor), "post_process")

    def prepare(self, data: Any, request_id: str | None = None, params: Params = None) -> Prepared:
        """Makes prompts of a request's `data`. Raises InputError for data that the processor refuses,
        PluginError for a fault of its own.

        Args:
            request_id: set for a request over HTTP; the processor is then asked once for the parameters of
                all its prompts.
            params: the caller's, which the processor may change. A request over HTTP has none.
        """
        with self._lock, self._faults(), self._refusals():
            parsed = self._parsed(data)
            prompts = self._method("pre_process")(prompt=parsed, request_id=request_id)
            return self._prepared(parsed, prompts, request_id, params)

    async def prepare_async(self, data: Any, request_id: str | None = None) -> Prepared:
        """`prepare` by the processor's `pre_process_async`; raises the same."""
        with self._faults(), self._refusals():
            parsed = self._parsed(data)
            prompts = await self._method("pre_process_async")(prompt=parsed, request_id=request_id)
            return self._prepared(parsed, prompts, request_id, None)

    def finish(self, prepared: Prepared, outputs: Sequence[RequestOutput[Any]]) -> Any:
        """Makes the response of one output per prompt. Raises PluginError."""
        method = self._method("post_process")
        with self._lock, self._faults():
            return method(
                _outputs(prepared, outputs), request_id=prepared.request_id, **_also(method, prepared.parsed)
            )

    async def finish_async(self, prepared: Prepared, outputs: Sequence[RequestOutput[Any]]) -> Any:
        """`finish` by the processor's `post_process_async`; raises the same."""

        async def numbered() -> AsyncIterator[tuple[int, Output]]:
            for index, output in enumerate(_outputs(prepared, outputs)):
                yield index, output

        method = self._method("post_process_async")
        with self._faults():
            return await method(numbered(), request_id=prepared.request_id, **_also(method, prepared.parsed))

    def _method(self, name: str) -> Callable[..., Any]:
        method = getattr(self.processor, name, None)
        if not callable(method):
            raise InputError(
                f"the plugin {self.name!r} has no method {name}, so it cannot be used this way; "
                "its package is to be mended"
            )
        return method

    def _parsed(self, data: Any) -> Any:
        # parse_data was parse_request in older versions of vLLM. Its base class has a parse_data that raises,
        # so a processor may have both.
        newer, older = (getattr(self.processor, name, None) for name in ("parse_data", "parse_request"))
        if newer is None and older is None:
            return data
        try:
            if newer is not None:
                return newer(data)
        except NotImplementedError:
            if older is None:
                raise
        assert older is not None
        return older(data)

    def _prepared(self, parsed: Any, processed: Any, request_id: str | None, params: Params) -> Prepared:
        prompts = prompts_from(tuple(processed) if isinstance(processed, Iterator) else processed)
        merge = getattr(self.processor, "merge_pooling_params", None) or getattr(
            self.processor, "validate_or_generate_params", None
        )
        if merge is None:
            merged = per_prompt(params, len(prompts))
        elif request_id is not None:
            # A request over HTTP: vLLM calls it once for all prompts.
            merged = [_params(merge(None, **_also(merge, parsed)))] * len(prompts)
        else:
            merged = [
                _params(merge(_open(own), **_also(merge, parsed))) for own in per_prompt(params, len(prompts))
            ]
        tasks = {None if own.task == "plugin" else own.task for own in merged}
        if len(tasks) > 1:
            raise InputError(
                f"the plugin {self.name!r} asks for several tasks at once "
                f"({', '.join(map(repr, tasks))}); one is possible"
            )
        # A processor may spell out the model's own width, which needs no parameter. Prompts that shared one
        # record share one again: `postprocess` computes them as one array.
        bare = {
            id(own): PoolingParams(
                use_activation=own.use_activation,
                dimensions=None if own.dimensions == self.width else own.dimensions,
            )
            for own in merged
        }
        return Prepared(
            parsed, prompts, [bare[id(own)] for own in merged], tasks.pop() if tasks else None, request_id
        )

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except KeyError as error:
            raise self._refused(
                f"{error.args[0]!r} is missing" if error.args else "a key is missing"
            ) from error
        except (ValueError, TypeError) as error:
            raise self._refused(
                "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
            ) from error

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except PoolrtError:
            raise
        except Exception as error:  # other people's code
            raise PluginError(
                f"the plugin {self.name!r} failed ({type(error).__name__}); its package is to be mended"
            ) from error

    def _refused(self, why: str) -> InputError:
        return InputError(
            f"data: not what the plugin {self.name!r} takes: {why[:MAX_MESSAGE] or 'it did not say why'}",
            field="data",
        )


def _prefers_async(processor: type, name: str) -> bool:
    """Whether the class closest to `processor` that has one of both methods has the asynchronous one."""
    classes = processor.__mro__

    def depth(attribute: str) -> int:
        return next((place for place, base in enumerate(classes) if attribute in vars(base)), len(classes))

    plain, asynchronous = depth(name), depth(f"{name}_async")
    return asynchronous <= plain and asynchronous < len(classes)


def _also(method: Callable[..., Any], parsed: Any) -> dict[str, Any]:
    return {"prompt": parsed} if "prompt" in inspect.signature(method).parameters else {}


def _open(params: PoolingParams) -> Any:
    """A copy that takes any attribute, because processors set attributes of vLLM's own class."""
    return SimpleNamespace(**asdict(params))


def _params(merged: Any) -> PoolingParams:
    if merged is None:
        return PoolingParams()
    return PoolingParams(
        **{name: getattr(merged, name, None) for name in ("use_activation", "dimensions", "task")}
    )


def _outputs(prepared: Prepared, outputs: Sequence[RequestOutput[Any]]) -> list[Output]:
    stem = f"{prepared.request_id}-" if prepared.request_id else ""
    return [
        Output(f"{stem}{index}", PoolingOutput(output.outputs.data), list(output.prompt_token_ids))
        for index, output in enumerate(outputs)
    ]

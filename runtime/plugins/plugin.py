"""One IO processor at work. It is duck-typed: a class written for vLLM runs here as it is."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any

from ..answers.params import PoolingParams, each
from ..errors import InputError, PluginError, PoolrtError
from ..inputs.prompts import prompts_from
from ..outputs import PoolingOutput, RequestOutput

MAX_MESSAGE = 1000
Params = PoolingParams | Sequence[PoolingParams | None] | None


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a processor made of one request."""

    parsed: Any
    prompts: list[Any]
    params: list[PoolingParams]
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
    """`prepare`, run the model, `finish`. Calls of a processor follow one another, unless its class
    says `thread_safe = True`.

    Of a pair such as `pre_process` and `pre_process_async` the `_async` methods here run the one that the
    more derived class defines, the asynchronous one of two in the same class; `prepare` and `finish` run the
    plain one. Methods that name a parameter `prompt` are also given what `parse_data` answered, so that a
    processor needs no memory of requests.
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
        """Raises InputError for data that the processor refuses, PluginError for a fault of its own."""
        with self._lock, self._faults(), self._refusals():
            parsed = self._parsed(data)
            made = self._method("pre_process")(prompt=parsed, request_id=request_id)
            return self._prepared(parsed, made, request_id, params)

    async def prepare_async(self, data: Any, request_id: str | None = None) -> Prepared:
        with self._faults(), self._refusals():
            parsed = self._parsed(data)
            made = await self._method("pre_process_async")(prompt=parsed, request_id=request_id)
            return self._prepared(parsed, made, request_id, None)

    def finish(self, prepared: Prepared, made: Sequence[RequestOutput[Any]]) -> Any:
        """Raises PluginError."""
        method = self._method("post_process")
        with self._lock, self._faults():
            return method(
                _outputs(prepared, made), request_id=prepared.request_id, **_also(method, prepared.parsed)
            )

    async def finish_async(self, prepared: Prepared, made: Sequence[RequestOutput[Any]]) -> Any:
        async def numbered() -> AsyncIterator[tuple[int, Output]]:
            for index, output in enumerate(_outputs(prepared, made)):
                yield index, output

        method = self._method("post_process_async")
        with self._faults():
            return await method(numbered(), request_id=prepared.request_id, **_also(method, prepared.parsed))

    def _method(self, name: str) -> Callable[..., Any]:
        found = getattr(self.processor, name, None)
        if not callable(found):
            raise InputError(
                f"the plugin {self.name!r} has no method {name}, so it cannot be used this way; "
                "its package is to be mended"
            )
        return found

    def _parsed(self, data: Any) -> Any:
        # vLLM's base class has a parse_data that raises; a processor of before its renaming
        # has parse_request only.
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

    def _prepared(self, parsed: Any, made: Any, request_id: str | None, params: Params) -> Prepared:
        prompts = prompts_from(tuple(made) if isinstance(made, Iterator) else made)
        merge = getattr(self.processor, "merge_pooling_params", None) or getattr(
            self.processor, "validate_or_generate_params", None
        )
        if merge is None:
            merged = each(params, len(prompts))
        elif request_id is not None:
            # Once for a request that came over HTTP, as in vLLM
            merged = [_params(merge(None, **_also(merge, parsed)))] * len(prompts)
        else:
            merged = [
                _params(merge(_open(one), **_also(merge, parsed))) for one in each(params, len(prompts))
            ]
        tasks = {None if one.task == "plugin" else one.task for one in merged}
        if len(tasks) > 1:
            raise InputError(
                f"the plugin {self.name!r} asks for several tasks at once "
                f"({', '.join(map(repr, tasks))}); one is possible"
            )
        # Processors may spell out the full width, which no model needs to be asked for.
        bare = {
            id(one): PoolingParams(
                use_activation=one.use_activation,
                dimensions=None if one.dimensions == self.width else one.dimensions,
            )
            for one in merged
        }
        return Prepared(
            parsed, prompts, [bare[id(one)] for one in merged], tasks.pop() if tasks else None, request_id
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


def _prefers_async(made: type, name: str) -> bool:
    def depth(attribute: str) -> int:
        return next(
            (place for place, one in enumerate(made.__mro__) if attribute in vars(one)), len(made.__mro__)
        )

    plain, other = depth(name), depth(f"{name}_async")
    return other <= plain and other < len(made.__mro__)


def _also(method: Callable[..., Any], parsed: Any) -> dict[str, Any]:
    return {"prompt": parsed} if "prompt" in inspect.signature(method).parameters else {}


def _open(params: PoolingParams) -> Any:
    """Something that takes any attribute: processors set those of vLLM's own class."""
    return SimpleNamespace(**asdict(params))


def _params(merged: Any) -> PoolingParams:
    if merged is None:
        return PoolingParams()
    return PoolingParams(
        **{name: getattr(merged, name, None) for name in ("use_activation", "dimensions", "task")}
    )


def _outputs(prepared: Prepared, made: Sequence[RequestOutput[Any]]) -> list[Output]:
    stem = f"{prepared.request_id}-" if prepared.request_id else ""
    return [
        Output(f"{stem}{index}", PoolingOutput(one.outputs.data), list(one.prompt_token_ids))
        for index, one in enumerate(made)
    ]

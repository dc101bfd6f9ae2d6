"""Turns what other libraries raise about a checkpoint into one sentence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

from ...runtime.errors import CheckpointError, PoolrtError, is_failure, reason

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextmanager
def in_one_sentence(what: str) -> Iterator[None]:
    """Raises CheckpointError(`what`: why) for whatever fails inside. Our own errors, interrupts and errors of
    the disk pass.

    The original error is the cause, which POOLRT_DEBUG=1 shows.
    """
    try:
        yield
    except (PoolrtError, ModuleNotFoundError):  # the command names the extra that is missing
        raise
    except BaseException as error:
        if not is_failure(error) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise CheckpointError(f"{what}: {reason(_innermost(error))}") from error


def _innermost(error: BaseException) -> BaseException:
    """The error below those of torch.onnx, which consist of pages of advice."""
    while type(error).__module__.startswith("torch.onnx") and error.__cause__ is not None:
        error = error.__cause__
    return error


def refuses(what: str) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorates a function whose first argument is a checkpoint or its location. Whatever fails inside is
    raised as CheckpointError(`checkpoint: what: why`)."""

    def decorate(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
        @functools.wraps(function)
        def guarded(*arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
            with in_one_sentence(f"{getattr(arguments[0], 'source', arguments[0])}: {what}"):
                return function(*arguments, **options)

        return guarded

    return decorate


def shortened(value: object, most: int = 100) -> str:
    """The repr of a value from a file, at most `most` characters of it."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes
        text = f"a {type(value).__name__} without end"
    return text if len(text) <= most else text[: most - 3] + "..."

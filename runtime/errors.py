"""Everything poolrt raises on purpose.

    PoolrtError ├── InputError             a text, token ids or parameter of a caller is not usable
    HTTP 400, exit 2 │   ├── UnsupportedTask    the artifact cannot do what was asked
    HTTP 400, exit 2 │   └── UnknownOption      a method takes no keyword of that name; a TypeError
    too         exit 2 ├── CheckpointError        what was given to `poolrt export` is not a usable
    checkpoint    exit 2 │   └── UnknownArchitecture  the checkpoint is fine, no architecture of ours
    reads it      exit 2 ├── ArtifactError          an artifact folder is refused: incomplete,
    changed, newer       exit 2 ├── EngineError            an engine library is missing, does not fit,
    or failed          HTTP 500, exit 4 ├── PluginError            an IO processor of somebody else
    failed                         HTTP 500, exit 1 ├── VerificationError      numbers further from
    PyTorch, or the checkpoint's library, than allowed  exit 3 └── Overload               more work is
    queued than was admitted                          HTTP 429, Retry-After
        └── DeadlineExceeded   the work was not finished in the time its caller gave it         HTTP 504

A caller's mistake raises one of these; our own broken assumption is an `assert` with a message.
"""

from __future__ import annotations

# Process exit codes of every `poolrt` command.
EXIT_OK = 0
EXIT_INTERNAL = 1
EXIT_INPUT = 2
EXIT_VERIFICATION = 3
EXIT_ENGINE = 4
EXIT_INTERRUPTED = 130


class PoolrtError(Exception):
    exit_code = EXIT_INTERNAL


class InputError(PoolrtError, ValueError):
    """`field` names the parameter to change, None when no single one is to blame."""

    exit_code = EXIT_INPUT

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedTask(InputError):
    def __init__(self, message: str, *, field: str | None = "task") -> None:
        super().__init__(message, field=field)


class UnknownOption(InputError, TypeError):
    pass


class CheckpointError(PoolrtError):
    exit_code = EXIT_INPUT


class UnknownArchitecture(CheckpointError):
    pass


class ArtifactError(PoolrtError):
    exit_code = EXIT_INPUT


class EngineError(PoolrtError):
    exit_code = EXIT_ENGINE


class PluginError(PoolrtError):
    pass


class VerificationError(PoolrtError):
    exit_code = EXIT_VERIFICATION


class Overload(PoolrtError):
    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(Overload):
    pass


def is_failure(error: BaseException) -> bool:
    """Whether a library failed, as opposed to the process being stopped: libraries in Rust panic with
    what is no Exception (pyo3)."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason(error: BaseException, *, most: int = 300) -> str:
    """An error of a library as part of a sentence: its first lines joined, shortened, with its type where
    that is half of what it says."""
    text = " ".join(str(error).split()).rstrip(".")
    if not text or isinstance(
        error, LookupError | AttributeError | TypeError | ArithmeticError | AssertionError | RecursionError
    ):
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= most else text[: most - 3] + "..."

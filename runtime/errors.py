"""Everything poolrt raises on purpose.

    PoolrtError
    ├── InputError               a text, token ids or a parameter of a caller is unusable   HTTP 400, exit 2
    │   ├── UnsupportedTask      the artifact has no such task                              HTTP 400, exit 2
    │   └── UnknownOption        a method takes no keyword of that name; a TypeError too    exit 2
    ├── CheckpointError          `poolrt export` cannot use the checkpoint                  exit 2
    │   └── UnknownArchitecture  no family reads a checkpoint that is otherwise usable      exit 2
    ├── ArtifactError            an artifact is incomplete, changed or of a newer format    exit 2
    ├── EngineError              an engine library is missing, does not fit or failed       HTTP 500, exit 4
    ├── PluginError              an IO processor of somebody else failed                    HTTP 500, exit 1
    ├── VerificationError        numbers are further from the reference than allowed        exit 3
    └── Overload                 more work is queued than the limit admits                  HTTP 429
        └── DeadlineExceeded     the work was not finished within the caller's deadline     HTTP 504

An Overload says after how many seconds a caller may try again (`retry_after_s`, the header Retry-After).
A caller's mistake raises one of these. A broken assumption of our own is an `assert` with a message.
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
    """`field` names the parameter to change, None where no single one is wrong."""

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
    """Whether a library failed, rather than the process being stopped. A panic of a library in Rust (pyo3) is
    a failure, though no Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def reason(error: BaseException, *, most: int = 300) -> str:
    """Returns a library's error as part of a sentence, in one line of at most `most` characters. Its type is
    named where the text means little without it, as `KeyError: 'x'`."""
    text = " ".join(str(error).split()).rstrip(".")
    if not text or isinstance(
        error, LookupError | AttributeError | TypeError | ArithmeticError | AssertionError | RecursionError
    ):
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return text if len(text) <= most else text[: most - 3] + "..."

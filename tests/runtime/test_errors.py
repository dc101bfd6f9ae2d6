"""Errors: exit codes that scripts rely on, what they are kinds of, and other libraries'
errors as part of a sentence."""

from __future__ import annotations

import pytest
from poolrt.runtime import errors


@pytest.mark.parametrize(
    ("kind", "base", "code"),
    [
        (errors.PoolrtError, Exception, 1), (errors.InputError, ValueError, 2),
        (errors.UnsupportedTask, errors.InputError, 2),
        (errors.CheckpointError, errors.PoolrtError, 2),
        (errors.UnknownArchitecture, errors.CheckpointError, 2),
        (errors.ArtifactError, errors.PoolrtError, 2), (errors.EngineError, errors.PoolrtError, 4),
        (errors.PluginError, errors.PoolrtError, 1), (errors.VerificationError, errors.PoolrtError, 3),
        (errors.Overload, errors.PoolrtError, 1), (errors.DeadlineExceeded, errors.Overload, 1),
    ],
)  # fmt: skip
def test_each_kind_has_its_exit_code(kind: type[errors.PoolrtError], base: type[Exception], code: int):
    error = kind("why")
    assert isinstance(error, base)
    assert (error.exit_code, str(error)) == (code, "why")
    assert (errors.EXIT_OK, errors.EXIT_INTERRUPTED) == (0, 130)


def test_what_an_error_is_about():
    assert errors.InputError("why").field is None
    assert errors.InputError("why", field="texts").field == "texts"
    assert errors.UnsupportedTask("why").field == "task"
    assert errors.UnsupportedTask("why", field=None).field is None
    assert errors.Overload("why").retry_after_s == 1
    assert errors.DeadlineExceeded("why", retry_after_s=2.5).retry_after_s == 2.5


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b."), "a b"), (ValueError(""), "ValueError"),
        (KeyError("name"), "KeyError: 'name'"),
        (IndexError("far"), "IndexError: far"), (TypeError("no"), "TypeError: no"),
        (AttributeError("x"), "AttributeError: x"),
        (ZeroDivisionError("by 0"), "ZeroDivisionError: by 0"), (AssertionError(), "AssertionError"),
        (RecursionError("deep"), "RecursionError: deep"),
        (OSError("disk"), "disk"), (ValueError("a" * 300), "a" * 300),
        (ValueError("a" * 301), "a" * 297 + "..."),
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_a_reason_is_one_short_line(error: Exception, text: str):
    assert errors.reason(error) == text


def test_a_panic_is_a_failure_and_an_interrupt_is_none():
    panic = type("PanicException", (BaseException,), {})
    assert [
        errors.is_failure(error) for error in (ValueError(), panic(), KeyboardInterrupt(), SystemExit())
    ] == [True, True, False, False]

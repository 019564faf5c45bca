"""The exception of the contract: `pycni.errors`."""

from __future__ import annotations

import errno

import pytest

from pycni import errors
from pycni.errors import CNIError, from_exception

CODES = {
    "UNKNOWN": 0,
    "INCOMPATIBLE_VERSION": 1,
    "UNSUPPORTED_FIELD": 2,
    "UNKNOWN_CONTAINER": 3,
    "INVALID_ENVIRONMENT": 4,
    "IO_FAILURE": 5,
    "DECODING_FAILURE": 6,
    "INVALID_NETWORK_CONFIG": 7,
    "INVALID_NETNS": 8,
    "TRY_AGAIN_LATER": 11,
    "NOT_AVAILABLE": 50,
    "LIMITED_CONNECTIVITY": 51,
    "INTERNAL": 999,
}


def test_codes_are_those_of_the_spec() -> None:
    """Each name stands for the number of the spec's tables, and there is no other."""
    assert {name: value for name, value in vars(errors).items() if name.isupper() and name in CODES} == CODES
    assert {name for name, value in vars(errors).items() if isinstance(value, int)} == {
        *CODES,
        "TYPE_CHECKING",
    }


def test_text_is_message_and_details() -> None:
    """Nested in another message an error reads `msg; details`."""
    assert str(CNIError("m")) == "m"
    assert str(CNIError("m", "d")) == "m; d"
    assert CNIError("m").code == 999
    assert repr(CNIError("m", "d", code=7)) == "CNIError('m', 'd', code=7)"


def raised_from(cause: BaseException, error: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


INNER = CNIError("inner", "d", code=11)


@pytest.mark.parametrize(
    "exception",
    [
        INNER,
        raised_from(INNER, RuntimeError("outer")),
        raised_from(raised_from(INNER, OSError(errno.EIO, "middle")), ValueError("outer")),
        ExceptionGroup("tasks", [ValueError("first"), INNER]),
        ExceptionGroup("tasks", [ExceptionGroup("inner tasks", [raised_from(INNER, KeyError("k"))])]),
        raised_from(ExceptionGroup("tasks", [INNER]), RuntimeError("outer")),
    ],
    ids=["itself", "cause", "cause of a cause", "group", "group in a group", "group as a cause"],
)
def test_a_cni_error_inside_is_found(exception: BaseException) -> None:
    """A CNIError that an exception was raised from, or that a task group holds, keeps code and text."""
    assert from_exception(exception) is INNER


@pytest.mark.parametrize(
    ("exception", "msg", "details"),
    [
        (
            OSError(errno.ENOENT, "No such file or directory", "/x"),
            "no such file or directory '/x'",
            "errno 2",
        ),
        (OSError(errno.ENOBUFS, "No buffer space available"), "no buffer space available", "errno 105"),
        (OSError("odd"), "odd", "unexpected OSError"),
        (ValueError("bad"), "bad", "unexpected ValueError"),
        (RecursionError(), "RecursionError", ""),
        (
            ExceptionGroup("tasks", [ValueError("first"), KeyError("second")]),
            "first",
            "unexpected ValueError",
        ),
    ],
)
def test_a_foreign_exception_becomes_code_999_with_its_own_text(
    exception: BaseException, msg: str, details: str
) -> None:
    """Any exception has a message that is not empty, its type in the details, and code 999."""
    error = from_exception(exception)
    assert (error.code, error.msg) == (999, msg)
    assert details in error.details


def test_an_exception_that_was_only_being_handled_does_not_count() -> None:
    """Only an explicit `raise … from` carries a code; an error raised while handling another is its own."""
    error = ValueError("later")
    error.__context__ = INNER
    assert from_exception(error).msg == "later"

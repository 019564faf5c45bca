"""The one exception of the contract, and the table of its codes.

Sources: CNI spec 1.1.0, section "Error"; codes 50 and 51 from section "STATUS".
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

UNKNOWN: Final = 0
"""A child failed without telling a code (the reference's `invoke` package)."""
INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
UNKNOWN_CONTAINER: Final = 3
INVALID_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
INVALID_NETWORK_CONFIG: Final = 7
INVALID_NETNS: Final = 8
"""The sandbox is the caller's own namespace (not in the spec's table; the reference's skeleton)."""
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50
LIMITED_CONNECTIVITY: Final = 51
INTERNAL: Final = 999
"""Whatever a plugin fails with that has no code of its own."""


class CNIError(Exception):
    """A failure as the contract carries it: a number, a sentence and what to do.

    `code` is one of this module's constants, or 100 and above for a plugin's own; `msg` is the reference's
    text where it has one (people search for it); `details` adds the key, the value and the way out.
    """

    def __init__(self, msg: str, details: str = "", *, code: int = INTERNAL) -> None:
        super().__init__(msg)
        self.code = code
        self.msg = msg
        self.details = details

    def __str__(self) -> str:
        return f"{self.msg}; {self.details}" if self.details else self.msg

    def __repr__(self) -> str:
        return f"CNIError({self.msg!r}, {self.details!r}, code={self.code})"


def from_exception(exception: BaseException) -> CNIError:
    """Any exception as a CNIError: itself, the CNIError that it was raised from, else one of code 999.

    Of a group (a task group's failures) the first CNIError counts, else the first failure. An OSError
    becomes its errno's text and its file, everything else its text, with the type in `details`, so that no
    traceback is needed to see what happened.
    """
    own = _find(exception)
    if own is not None:
        return own
    while isinstance(exception, BaseExceptionGroup):
        exception = exception.exceptions[0]
    name = type(exception).__name__
    if isinstance(exception, OSError) and exception.strerror:
        where = f" {exception.filename!r}" if exception.filename is not None else ""
        return CNIError(f"{exception.strerror.lower()}{where}", f"{name}, errno {exception.errno}")
    text = str(exception)
    return CNIError(text or name, f"unexpected {name}" if text else "")


def _find(exception: BaseException | None) -> CNIError | None:
    while exception is not None:
        if isinstance(exception, CNIError):
            return exception
        if isinstance(exception, BaseExceptionGroup):
            found = (_find(part) for part in exception.exceptions)
            return next((error for error in found if error is not None), None)
        exception = exception.__cause__
    return None

"""Network namespaces: open, tell apart, and run a function inside one.

Sources: namespaces(7), ioctl_ns(2), setns(2). Texts of errors are the reference's (`pkg/ns`).
"""

from __future__ import annotations

import os
import stat
import sys
from fcntl import ioctl

from pycni.context import SandboxMissing
from pycni.errors import CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Final, TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

CLONE_NEWNET: Final = 0x40000000
STRANDED: Final = 70
"""Exit status of a process that could not leave a foreign namespace (EX_SOFTWARE of <sysexits.h>)."""

_NS_GET_NSTYPE: Final = 0xB703
_HOME: Final = "/proc/thread-self/ns/net"


def identity(namespace: int | str) -> tuple[int, int]:
    """(st_dev, st_ino) of a namespace by descriptor or path: equal if and only if it is the same one.

    Raises OSError. `identity("/proc/thread-self/ns/net")` is the calling thread's.
    """
    status = os.stat(namespace)
    return status.st_dev, status.st_ino


def is_network_namespace(fd: int) -> bool:
    """Whether this is an open descriptor of a network namespace."""
    try:
        return ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except (OSError, ValueError):  # ValueError: a negative number
        return False


def check_namespace(fd: int, path: str) -> None:
    """Raises CNIError `unknown FS magic on …` unless `fd` is a network namespace."""
    if not is_network_namespace(fd):
        raise _no_namespace(path)


def open_namespace(path: str) -> int:
    """A descriptor of the namespace at `path` (close-on-exec); the caller closes it.

    Raises SandboxMissing if nothing is there (DEL forgives that), CNIError for everything else. Only
    regular files, which namespaces are, get opened: to open a device can have effects.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _no_namespace(path)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SandboxMissing(path) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise open_failure(path, error) from None
    try:
        check_namespace(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def open_failure(path: str, error: OSError | ValueError) -> CNIError:
    """Why a namespace could not be opened, for those who opened it themselves (a launcher)."""
    if isinstance(error, FileNotFoundError):
        return SandboxMissing(path)
    return CNIError(
        f'failed to Statfs "{path}": {_reason(error)}',
        "CNI_NETNS must be the path of the sandbox's network namespace",
    )


def inside(fd: int, func: Callable[[*Ts], T], *args: *Ts) -> T:
    """Run a blocking function with the calling thread in the namespace `fd`, and come back.

    Other threads stay where they are. Raises what `func` raises, or CNIError if the namespace cannot be
    entered. If the way back fails, the process ends at once with status 70: a thread in a wrong namespace
    must never serve another request.
    """
    try:
        home = os.open(_HOME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CNIError(f"failed to open current namespace: {_reason(error)}", _HOME) from error
    try:
        _enter(fd)
        return func(*args)
    finally:
        _return(home)
        os.close(home)


def _enter(fd: int) -> None:
    try:
        _setns(fd)
    except OSError as error:
        raise CNIError(
            f"error switching to ns {_name(fd)}: {_reason(error)}", "entering it takes CAP_SYS_ADMIN"
        ) from error


def _return(home: int) -> None:
    try:
        _setns(home)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the process must not go on elsewhere
        if not _is_home(home):
            os.write(2, f"pycni: cannot return from a sandbox's network namespace: {error}\n".encode())
            os._exit(STRANDED)


def _is_home(home: int) -> bool:
    """Whether the thread never left: who may not enter a namespace may not enter his own either."""
    try:
        return identity(_HOME) == identity(home)
    except OSError:
        return False


if sys.version_info >= (3, 12):

    def _setns(fd: int) -> None:
        os.setns(fd, CLONE_NEWNET)

else:
    _libc_setns: Callable[[int, int], int] | None = None

    def _setns(fd: int) -> None:
        import _ctypes  # without `ctypes` around it, which takes half as long to import as Python to start

        global _libc_setns
        if _libc_setns is None:

            class Int(_ctypes._SimpleCData):  # type: ignore[type-arg]
                _type_ = "i"

            class Function(_ctypes.CFuncPtr):
                _flags_ = _ctypes.FUNCFLAG_CDECL | _ctypes.FUNCFLAG_USE_ERRNO
                _restype_ = Int

            program = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]
            _libc_setns = Function(_ctypes.dlsym(program, "setns"))
        if _libc_setns(fd, CLONE_NEWNET) != 0:
            number = _ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def _no_namespace(path: str) -> CNIError:
    return CNIError(
        f'unknown FS magic on "{path}": not a network namespace',
        "CNI_NETNS must be the path of the sandbox's network namespace",
    )


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


def _name(fd: int) -> str:
    """What an error calls a descriptor: the path it was opened by, as far as /proc knows."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"of descriptor {fd}"

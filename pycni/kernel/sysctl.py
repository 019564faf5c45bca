"""Kernel settings under /proc/sys, in the network namespace of the calling thread.

Names are separated by slashes, so that dots in interface names mean themselves:
`net/ipv6/conf/eth0.5/accept_ra`. All functions block for microseconds and raise OSError.
Source: proc(5).
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

ROOT: Final = "/proc/sys/"
_LONGEST: Final = 4096
_SETTLE_SECONDS: Final = 2.0
_PAUSE: Final = 0.002


def read(name: str) -> str:
    """The value without the closing line feed."""
    fd = os.open(_path(name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _value(fd)
    finally:
        os.close(fd)


def write(name: str, value: str, *, always: bool = False) -> bool:
    """Set a value and read it back; whether it was another one before.

    What has the value already is left alone, so that it works where /proc/sys is read-only and right; with
    `always` it is written nevertheless. OSError (EINVAL) also if the kernel took the value and goes on
    showing another.
    """
    path = _path(name)
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        if not always and read(name).split() == value.split():
            return False
        raise
    try:
        same = _value(fd).split() == value.split()
        if same and not always:
            return False
        _settle(fd, value, path)
    finally:
        os.close(fd)
    return not same


def _settle(fd: int, value: str, path: str) -> None:
    """Write until it reads so.

    A writer of forwarding that does not get the RTNL lock at once takes its value back before it tries again
    (devinet_sysctl_forward in net/ipv4/devinet.c): who writes the same in between has changed nothing, and
    then sees the old value come back.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        os.pwrite(fd, value.encode(), 0)
        found = _value(fd)
        if found.split() == value.split():
            return
        if time.monotonic() > deadline:
            raise OSError(errno.EINVAL, f"wrote {value!r} but it reads {found!r}", path)
        time.sleep(_PAUSE)


def _value(fd: int) -> str:
    return os.pread(fd, _LONGEST, 0).decode("ascii", "replace").strip()


def _path(name: str) -> str:
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), ROOT + name)
    return ROOT + name

"""Kernel settings under /proc/sys, in the network namespace of the calling thread.

Names are separated by slashes, so that dots in interface names mean themselves:
`net/ipv6/conf/eth0.5/accept_ra`. All functions block for microseconds and raise OSError.
Source: proc(5).
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

ROOT: Final = "/proc/sys/"
_LONGEST: Final = 4096


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
    `always` it is written nevertheless. OSError (EINVAL) also if the kernel took the value and shows
    another.
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
        os.pwrite(fd, value.encode(), 0)
        if _value(fd).split() != value.split():
            raise OSError(errno.EINVAL, f"wrote {value!r} but it reads {_value(fd)!r}", path)
    finally:
        os.close(fd)
    return not same


def _value(fd: int) -> str:
    return os.pread(fd, _LONGEST, 0).decode("ascii", "replace").strip()


def _path(name: str) -> str:
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), ROOT + name)
    return ROOT + name

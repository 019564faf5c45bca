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
        return os.read(fd, _LONGEST).decode("ascii", "replace").strip()
    finally:
        os.close(fd)


def write(name: str, value: str, *, always: bool = False) -> bool:
    """Set a value and read it back; whether it was another one before.

    What has the value already is left alone, so that it works where /proc/sys is read-only and right; with
    `always` it is written nevertheless. OSError (EINVAL) also if the kernel took the value and shows
    another.
    """
    same = read(name).split() == value.split()
    if same and not always:
        return False
    path = _path(name)
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
    if read(name).split() != value.split():
        raise OSError(errno.EINVAL, f"wrote {value!r} but it reads {read(name)!r}", path)
    return not same


def _path(name: str) -> str:
    if not name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), ROOT + name)
    return ROOT + name

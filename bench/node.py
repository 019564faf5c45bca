"""Network namespaces to measure in: one plays a node, others play pods, and none outlives the run.

The whole benchmark lives in a network and a mount namespace of its own, with empty folders in memory where
plugins keep state, so that nothing of it reaches the machine.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
MS_BIND = 0x1000  # <linux/mount.h>
MNT_DETACH = 2

STATE_DIRS = (Path("/run/netns"), Path("/run/pycni"), Path("/var/lib/cni"))

_INSIDE = "PYCNI_BENCH_INSIDE"
_libc = ctypes.CDLL(None, use_errno=True)


def _libc_call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def enter_private_namespaces() -> None:
    """Start this program again under unshare(1), unless that was done; keeps the process id."""
    if os.environ.pop(_INSIDE, None) is not None:
        return
    command = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, *sys.argv]
    os.execvpe(command[0], command, {**os.environ, _INSIDE: "1"})


@contextmanager
def state_in_memory() -> Iterator[None]:
    """A tmpfs over each of `STATE_DIRS`; folders that had to be made for it are removed at the end."""
    made = []
    mounted = []
    try:
        for directory in STATE_DIRS:
            if not directory.is_dir():
                made.append(directory)
                directory.mkdir(parents=True)
            mounted.append(directory)
            _libc_call("mount", b"tmpfs", bytes(directory), b"tmpfs", 0, b"mode=0755")
        yield
    finally:
        for directory in reversed(mounted):
            with suppress(OSError):
                _libc_call("umount2", bytes(directory), MNT_DETACH)
        for directory in reversed(made):
            with suppress(OSError):
                directory.rmdir()


def enter(namespace: Path) -> None:
    """Put this thread, and what it starts from now on, into the namespace pinned at this path."""
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc_call("setns", fd, CLONE_NEWNET)
    finally:
        os.close(fd)


def new_namespace(name: str) -> Path:
    """A new network namespace, pinned at /run/netns/NAME as `ip netns add` does; its path."""
    path = STATE_DIRS[0] / name
    path.touch(mode=0o444, exist_ok=False)
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc_call("unshare", CLONE_NEWNET)
        _libc_call("mount", b"/proc/thread-self/ns/net", bytes(path), None, MS_BIND, None)
    finally:
        _libc_call("setns", here, CLONE_NEWNET)
        os.close(here)
    return path


def release_namespace(path: Path) -> None:
    """Unpin a namespace; it ends with its last process."""
    _libc_call("umount2", bytes(path), MNT_DETACH)
    path.unlink()

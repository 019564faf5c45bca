"""Network namespaces to measure in: one plays a node, others play pods, and none outlives the run.

The whole benchmark lives in a network and a mount namespace of its own, with empty folders in memory where
plugins keep state, so that nothing of it reaches the machine.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

CLONE_NEWNET = 0x40000000  # <linux/sched.h>
MS_BIND = 0x1000  # <linux/mount.h>
MNT_DETACH = 2

NAMESPACES = Path("/run/netns")
STATE = Path("/var/lib/cni")

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


def cover_state() -> None:
    """Put empty folders in memory where state is kept; the machine does not get a folder that it lacks.

    /run is covered as a whole. A missing /var/lib/cni is made in an overlay over /var/lib whose changes are
    in memory too. All of it is seen in this mount namespace alone, and is gone with it.
    """
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run")
    NAMESPACES.mkdir()
    if not STATE.is_dir():
        layers = {name: f"/run/overlay/{name}" for name in ("upper", "work")}
        for layer in layers.values():
            Path(layer).mkdir(parents=True)
        options = f"lowerdir={STATE.parent},upperdir={layers['upper']},workdir={layers['work']}"
        _mount("-t", "overlay", "-o", options, "overlay", str(STATE.parent))
        STATE.mkdir()
    _mount("-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(STATE))


def _mount(*arguments: str) -> None:
    subprocess.run(("mount", *arguments), check=True)


def enter(namespace: Path) -> None:
    """Put this thread, and what it starts from now on, into the namespace pinned at this path."""
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc_call("setns", fd, CLONE_NEWNET)
    finally:
        os.close(fd)


def new_namespace(name: str) -> Path:
    """A new network namespace, pinned at /run/netns/NAME as `ip netns add` does; its path."""
    path = NAMESPACES / name
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

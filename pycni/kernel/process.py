"""Run one of the system's tools (nft, iptables) and wait for it, never longer than told.

`posix_spawn` because it is safe beside other threads and costs no import; anonymous files in place of pipes
because then nobody has to read while the other side writes. Sources: posix_spawn(3), memfd_create(2),
pidfd_open(2) (Linux 5.3).
"""

from __future__ import annotations

import os
import select

from pycni.context import Completed
from pycni.errors import IO_FAILURE, TRY_AGAIN_LATER, CNIError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

SYSTEM_FOLDERS: Final = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")
"""Looked at after PATH, which a runtime may leave unset or without the sbin folders."""

_SIGKILL: Final = 9


def find(name: str) -> str | None:
    """The absolute path of an executable called `name`, or None; relative entries of PATH do not count."""
    folders = [entry for entry in os.environ.get("PATH", "").split(":") if entry.startswith("/")]
    for folder in (*folders, *SYSTEM_FOLDERS):
        path = f"{folder}/{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def run(path: str, arguments: tuple[str, ...], stdin: bytes = b"", seconds: float = 30.0) -> Completed:
    """Execute `path` with `arguments` in this thread's namespaces; messages come in English.

    Raises CNIError: code 5 if it cannot be started, code 11 if it has not ended after `seconds` (it is
    killed then). Any exit status is returned, not raised.
    """
    files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(files[0], stdin)
        os.lseek(files[0], 0, os.SEEK_SET)
        status = _spawn_and_wait(path, arguments, files, seconds)
        return Completed(status, _content(files[1]), _content(files[2]))
    finally:
        for descriptor in files:
            os.close(descriptor)


def _spawn_and_wait(path: str, arguments: tuple[str, ...], files: list[int], seconds: float) -> int:
    name = path.rpartition("/")[2]
    environment = {"PATH": ":".join(SYSTEM_FOLDERS), **os.environ, "LC_ALL": "C"}
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(files)]
    try:
        pid = os.posix_spawn(path, (name, *arguments), environment, file_actions=actions)
    except OSError as error:
        raise CNIError(
            f"failed to run {name}: {(error.strerror or 'unknown error').lower()}", path, code=IO_FAILURE
        ) from error
    if not _ended(pid, seconds):
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
        raise CNIError(
            f"{name} did not end within {seconds:g} seconds",
            f"command: {name} {' '.join(arguments)}; it was killed; try again later",
            code=TRY_AGAIN_LATER,
        )
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _ended(pid: int, seconds: float) -> bool:
    process = os.pidfd_open(pid)
    try:
        poll = select.poll()
        poll.register(process, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(process)


def _content(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size, 0) if size else b""

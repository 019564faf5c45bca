"""Run a foreign plugin as its caller would have: same directory, namespaces, umask, inherited descriptors.

`posix_spawn` and `poll`, because `subprocess` costs a plugin process more than most plugins do. Pipes, not
files: a shell script that writes to /dev/stdout twice must not overwrite itself. Sources: posix_spawn(3),
pidfd_open(2) (Linux 5.3); the reference's `pkg/invoke` for the retry.
"""

from __future__ import annotations

import os
import select
import time

from pycni.context import Completed
from pycni.handover import decode_environment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Final

OUTPUT_LIMIT: Final = 16 << 20
"""Bytes of one output stream that are kept; the rest is read and dropped."""
BUSY_ATTEMPTS: Final = 6
BUSY_SECONDS: Final = 1.0
"""A file that is being written cannot be executed; as often and as long as the reference tries."""
PIPE_SECONDS: Final = 1.0
"""How long a program's descendants may hold its output open after it has ended."""
KILL_SECONDS: Final = 5.0
"""What a program gets between SIGTERM and SIGKILL."""

_SIGKILL: Final = 9
_SIGTERM: Final = 15
# The interpreter ignores these two; an ignored signal would be inherited.
_DEFAULT_SIGNALS: Final = (13, 25)
_TEXT_FILE_BUSY: Final = 26
_TURN_MS: Final = 50


def execute(
    path: str, env: Mapping[str, str], stdin: bytes, stopped: Callable[[], bool] = lambda: False
) -> Completed:
    """Execute `path` without arguments and wait for its end. Blocking; raises nothing for what may happen.

    `stopped` is asked about every 50 ms; once it says so, the program gets SIGTERM, and SIGKILL
    `KILL_SECONDS` later. A program that cannot be started answers with `failure`, the system's words.
    """
    pipes = [os.pipe() for _ in range(3)]
    (child_in, parent_in), (parent_out, child_out), (parent_err, child_err) = pipes
    mine = [parent_in, parent_out, parent_err]
    try:
        try:
            pid = _spawn(path, env, (child_in, child_out, child_err))
        except OSError as error:
            return Completed(-1, failure=os.strerror(error.errno or 0).lower())
        finally:
            for descriptor in (child_in, child_out, child_err):
                os.close(descriptor)
        return _Running(pid, parent_in, parent_out, parent_err, stdin).complete(mine, stopped)
    finally:
        for descriptor in mine:
            os.close(descriptor)


def execute_for_agent(fields: Sequence[bytes], ended_by: list[int]) -> tuple[bytes, ...]:
    """Serve the agent's EXECUTE frame (path, environment, standard input) with the fields of its answer.

    A signal that arrives while the program runs ends it; one that came before does not, for then the
    program is part of the clean-up.
    """
    path, block, stdin = fields
    before = bool(ended_by)
    done = execute(os.fsdecode(path), decode_environment(block), stdin, lambda: bool(ended_by) and not before)
    status = done.status.to_bytes(8, "little", signed=True)
    return status, done.failure.encode(), done.stdout, done.stderr


def _spawn(path: str, env: Mapping[str, str], standard: tuple[int, int, int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, descriptor, number) for number, descriptor in enumerate(standard)]
    for attempt in range(BUSY_ATTEMPTS):
        try:
            return os.posix_spawn(path, (path,), env, file_actions=actions, setsigdef=_DEFAULT_SIGNALS)
        except OSError as error:
            if error.errno != _TEXT_FILE_BUSY or attempt == BUSY_ATTEMPTS - 1:
                raise
        time.sleep(BUSY_SECONDS)
    raise AssertionError("the last attempt returns or raises")


class _Running:
    """A child process whose three streams are served until it has ended."""

    def __init__(self, pid: int, stdin: int, stdout: int, stderr: int, data: bytes) -> None:
        self._pid = pid
        self._stdin = stdin
        self._data = memoryview(data)
        self._output: dict[int, list[bytes]] = {stdout: [], stderr: []}
        self._size = dict.fromkeys(self._output, 0)
        self._pidfd = os.pidfd_open(pid)
        self._poll = select.poll()
        for descriptor in (stdin, stdout, stderr):
            os.set_blocking(descriptor, False)
        self._poll.register(stdin, select.POLLOUT)
        for descriptor in (stdout, stderr, self._pidfd):
            self._poll.register(descriptor, select.POLLIN)

    def complete(self, open_ends: list[int], stopped: Callable[[], bool]) -> Completed:
        reading = set(self._output)
        ended_at = stopped_at = 0.0
        killed = False
        while reading or not ended_at:
            for descriptor, _ in self._poll.poll(_TURN_MS):
                if descriptor == self._pidfd:
                    self._poll.unregister(descriptor)
                    ended_at = time.monotonic()
                elif descriptor == self._stdin:
                    self._write(open_ends)
                elif not self._read(descriptor):
                    self._poll.unregister(descriptor)
                    reading.discard(descriptor)
            now = time.monotonic()
            if ended_at and now - ended_at > PIPE_SECONDS:
                break
            if not ended_at and not stopped_at and stopped():
                stopped_at = now
                os.kill(self._pid, _SIGTERM)
            if stopped_at and not ended_at and not killed and now - stopped_at > KILL_SECONDS:
                killed = True
                os.kill(self._pid, _SIGKILL)
        os.close(self._pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        stdout, stderr = (b"".join(pieces) for pieces in self._output.values())
        return Completed(status, stdout, stderr)

    def _write(self, open_ends: list[int]) -> None:
        try:
            self._data = (
                self._data[os.write(self._stdin, self._data[: 1 << 16]) :] if self._data else self._data
            )
        except BlockingIOError:
            return
        except OSError:  # a program need not read its standard input
            self._data = self._data[:0]
        if not self._data:
            self._poll.unregister(self._stdin)
            open_ends.remove(self._stdin)
            os.close(self._stdin)

    def _read(self, descriptor: int) -> bool:
        """Whether more may come."""
        try:
            piece = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return True
        if self._size[descriptor] < OUTPUT_LIMIT:
            self._output[descriptor].append(piece)
            self._size[descriptor] += len(piece)
        return bool(piece)

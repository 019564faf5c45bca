"""Start processes as a container runtime does, and measure them without weighing on them.

A call is one `posix_spawn` (vfork and exec, no copy of this process) with pipes for the three standard
streams; its standard input is written before it starts, so nothing has to be served while it runs. The time
of a call is from before the pipes are made until the process was waited for.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PIPE_BYTES = 65536
"""What a pipe holds (pipe(7)); a request or an answer longer than this would block its writer."""


@dataclass(frozen=True)
class Call:
    """One process to start: `argv[0]` is an absolute path, `env` is the whole environment."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    stdin: bytes = b""


@dataclass(frozen=True)
class Finished:
    """How a call ended; `began` is a time of perf_counter(), `seconds` how long it took by the wall's clock.

    `status` is negative for a signal.
    """

    call: Call
    began: float
    seconds: float
    status: int
    stdout: bytes
    stderr: bytes

    def expect_success(self) -> Finished:
        """Itself; raises RuntimeError with what the process printed if its status is not 0."""
        if self.status == 0:
            return self
        verb = self.call.env.get("CNI_COMMAND", "")
        said = (self.stdout + self.stderr).decode("utf-8", "replace").strip()
        raise RuntimeError(f"{self.call.argv[0]} {verb} ended with status {self.status}: {said}")


class _Running:
    def __init__(self, call: Call) -> None:
        if len(call.stdin) > PIPE_BYTES:
            raise ValueError(f"standard input of {len(call.stdin)} bytes does not fit into a pipe")
        self.call = call
        self.began = time.perf_counter()
        stdin, feed = os.pipe()
        self._stdout, stdout = os.pipe()
        self._stderr, stderr = os.pipe()
        os.write(feed, call.stdin)
        os.close(feed)
        duplicates = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, stdout, stderr))]
        self.pid = os.posix_spawn(call.argv[0], call.argv, call.env, file_actions=duplicates)
        for fd in (stdin, stdout, stderr):
            os.close(fd)

    def finish(self, wait_status: int, ended: float) -> Finished:
        stdout, stderr = _drain(self._stdout), _drain(self._stderr)
        status = os.waitstatus_to_exitcode(wait_status)
        return Finished(self.call, self.began, ended - self.began, status, stdout, stderr)


def _drain(fd: int) -> bytes:
    """What is in the pipe now; its writer has ended (one of its children might still hold it open)."""
    os.set_blocking(fd, False)
    try:
        return os.read(fd, PIPE_BYTES)
    except BlockingIOError:
        return b""
    finally:
        os.close(fd)


def run(call: Call) -> Finished:
    """Start one process and wait for it."""
    running = _Running(call)
    _, status = os.waitpid(running.pid, 0)
    return running.finish(status, time.perf_counter())


def run_many(calls: Iterable[Call], at_once: int) -> tuple[float, list[Finished]]:
    """Run all calls, `at_once` of them side by side; the seconds of the whole, and each one.

    Raises RuntimeError if a child ends that is not one of the calls (an agent that died).
    """
    waiting = deque(calls)
    running: dict[int, _Running] = {}
    finished = []
    began = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            started = _Running(waiting.popleft())
            running[started.pid] = started
        pid, status = os.wait()
        if pid not in running:
            raise RuntimeError(f"process {pid} ended during a burst with wait status {status}")
        finished.append(running.pop(pid).finish(status, time.perf_counter()))
    return time.perf_counter() - began, finished

"""The parts of a call as a launcher hands them over, to the agent or to its own process.

A call is (environment block, standard input, working directory, numbers) and a descriptor; `pycni.launcher`
collects it, this module gives the parts their meaning.
"""

from __future__ import annotations

import os

from pycni.context import Caller, Context
from pycni.errors import IO_FAILURE, CNIError
from pycni.record import Record
from pycni.request import STDIN_LIMIT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Final

    from pycni.attachments import Hold, Intent
    from pycni.kernel.namespace import Namespace
    from pycni.request import Request

TOO_LARGE: Final = 0xFFFF
"""Stands for "standard input is over the limit" where an errno is expected."""
_NUMBERS: Final = 9


class Call(Record):
    """One start of an executable; `mount` and `root` are (device, inode) of its view of the file system."""

    env: Mapping[str, str]
    stdin: bytes | CNIError
    caller: Caller
    mount: tuple[int, int]
    root: tuple[int, int]


class CallContext(Context):
    """What every context that serves a launcher's call has in common.

    Whoever makes one calls `close` when the answer was written.
    """

    def __init__(self, call: Call, run_dir: str, *, looped: bool) -> None:
        from pycni.delegate import Delegates

        self.caller = call.caller
        self.delegate = Delegates(self, looped=looped)
        self.held: Hold | None = None
        self._netns = call.env.get("CNI_NETNS", "")
        self._run_dir = run_dir
        self._host: Namespace | None = None
        self._sandbox: Namespace | None = None

    def host(self) -> Namespace:
        if self._host is None:
            from pycni.kernel.namespace import Namespace

            self._host = Namespace(self.run, here=True)
        return self._host

    async def sandbox(self) -> Namespace:
        if self._sandbox is None:
            from pycni.kernel.namespace import Namespace
            from pycni.kernel.netns import check_namespace, open_failure

            caller = self.caller
            if caller.sandbox_fd < 0:
                number = caller.sandbox_errno
                raise open_failure(self._netns, OSError(number, os.strerror(number)))
            check_namespace(caller.sandbox_fd, self._netns)
            self._sandbox = Namespace(self.run, caller.sandbox_fd, self._netns)
        return self._sandbox

    async def hold(self, request: Request) -> None:
        from pycni.attachments import acquire

        self.held = await acquire(self, request, self._run_dir)
        if self.held is not None and self.held.stale:
            self.leftovers = True

    def forget(self) -> None:
        if self.held is not None:
            self.held.forget()

    async def in_flight(self) -> frozenset[tuple[str, str, str]]:
        from pycni.intents import in_flight

        return await self.run(in_flight, self._run_dir)

    async def dead(self, network: str, living: Collection[tuple[str, str]]) -> list[tuple[str, Intent]]:
        from pycni.intents import dead

        return await self.run(dead, network, living, self._run_dir)

    async def forget_dead(self, found: list[tuple[str, Intent]]) -> None:
        from pycni.intents import forget_dead

        await self.run(forget_dead, found)

    def close(self, *, failed: bool = False) -> None:
        """The answer is written: close what was opened and let the next request of the attachment begin."""
        for namespace in (self._host, self._sandbox):
            if namespace is not None:
                namespace.close()
        if self.held is not None:
            self.held.release(failed=failed)


def decode_call(parts: tuple[bytes, ...], pid: int, sandbox_fd: int) -> Call:
    """Raises ValueError if there are not the parts that a call has."""
    if len(parts) != 4 or len(parts[3]) != 8 * _NUMBERS:
        raise ValueError(
            f"a call has 4 parts, the last of {8 * _NUMBERS} bytes; got {[len(part) for part in parts]}"
        )
    block, stdin, cwd, packed = parts
    numbers = [int.from_bytes(packed[at : at + 8], "little") for at in range(0, len(packed), 8)]
    umask, problem, sandbox_errno, *ids = numbers
    caller = Caller(
        pid=pid,
        cwd=os.fsdecode(cwd),
        umask=umask,
        netns=(ids[0], ids[1]),
        sandbox_fd=sandbox_fd,
        sandbox_id=_identity(sandbox_fd),
        sandbox_errno=sandbox_errno,
    )
    read = unreadable(problem) if problem else stdin
    return Call(decode_environment(block), read, caller, (ids[2], ids[3]), (ids[4], ids[5]))


def decode_environment(block: bytes) -> dict[str, str]:
    """`NAME=value` with a NUL after each; of equal names the first counts, as it does for getenv(3)."""
    variables: dict[str, str] = {}
    for item in os.fsdecode(block).split("\0"):
        name, equals, value = item.partition("=")
        if equals:
            variables.setdefault(name, value)
    return variables


def encode_environment(env: Mapping[str, str]) -> bytes:
    """The inverse of `decode_environment`."""
    return b"".join([os.fsencode(f"{name}={value}") + b"\0" for name, value in env.items()])


def unreadable(problem: int) -> CNIError:
    """Why there is no standard input: an errno or TOO_LARGE (code 5)."""
    if problem == TOO_LARGE:
        return CNIError(
            f"error reading from stdin: config of {STDIN_LIMIT} bytes or more",
            f"the limit is {STDIN_LIMIT - 1} bytes",
            code=IO_FAILURE,
        )
    return CNIError(f"error reading from stdin: {os.strerror(problem).lower()}", code=IO_FAILURE)


def _identity(descriptor: int) -> tuple[int, int] | None:
    if descriptor < 0:
        return None
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino

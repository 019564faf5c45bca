"""Executing a plugin: its process, from the start to its end.

How a failure becomes an error is in `pycni.delegate`, which plugins share. Source: `pkg/invoke`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from contextlib import suppress
from subprocess import PIPE
from typing import Final

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, Process

from pycni.context import Completed

BUSY_ATTEMPTS: Final = 6
"""How often a plugin is started that is "text file busy", which happens while it is being replaced."""
BUSY_PAUSE: Final = 1.0
"""Seconds between two of them."""
PIPE_GRACE: Final = 1.0
"""Seconds that output is still waited for after the plugin's exit: a child of its own may hold the pipes."""
TERM_GRACE: Final = 10.0
"""Seconds that a plugin has for its own clean-up after SIGTERM, when its caller is cancelled."""


async def execute(path: str, env: Mapping[str, str], stdin: bytes) -> Completed:
    """Run the executable and collect what it leaves behind.

    Working directory and umask are inherited. Never raises for anything that the executable does, or for
    one that cannot be started (`Completed.failure` says why). If the caller is cancelled, the plugin gets
    SIGTERM, time to undo what it did, and then SIGKILL.
    """
    try:
        process = await _start(path, env)
    except OSError as error:
        return Completed(-1, failure=(error.strerror or str(error)).lower())
    stdout, stderr = bytearray(), bytearray()
    try:
        async with anyio.create_task_group() as tasks:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            tasks.start_soon(_feed, process.stdin, stdin)
            tasks.start_soon(_collect, process.stdout, stdout)
            tasks.start_soon(_collect, process.stderr, stderr)
            status = await process.wait()
            tasks.cancel_scope.deadline = anyio.current_time() + PIPE_GRACE
    finally:
        with anyio.CancelScope(shield=True):
            await _end(process)
    return Completed(status, bytes(stdout), bytes(stderr))


async def _start(path: str, env: Mapping[str, str]) -> Process:
    for _ in range(BUSY_ATTEMPTS - 1):
        try:
            return await _open(path, env)
        except OSError as error:
            if error.errno != errno.ETXTBSY:
                raise
        await anyio.sleep(BUSY_PAUSE)
    return await _open(path, env)


async def _open(path: str, env: Mapping[str, str]) -> Process:
    # Cancelled in here, asyncio would kill the plugin, which may already be at work.
    with anyio.CancelScope(shield=True):
        process = await anyio.open_process([path], stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env)
    return process  # noqa: RET504 - inside the block a type checker must assume that the scope swallows


async def _feed(stream: ByteSendStream, content: bytes) -> None:
    # A plugin need not read its input: what it leaves unread is no error.
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await stream.send(content)
    await stream.aclose()


async def _collect(stream: ByteReceiveStream, into: bytearray) -> None:
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        while True:
            into += await stream.receive()


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
        with anyio.move_on_after(TERM_GRACE):
            await process.wait()
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.aclose()

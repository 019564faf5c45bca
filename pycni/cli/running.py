"""Running the library's coroutines from a command, so that a signal ends them in order."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import anyio

from pycni.cli.render import print_note

if TYPE_CHECKING:
    from typing import TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


def run_until_signal(work: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """`work(*args)` in an event loop; SIGINT and SIGTERM cancel it.

    A plugin that is at work is told to stop and waited for. Raises SystemExit (128 + signal) then.
    """
    received: list[int] = []
    results: list[T] = []

    async def listen(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for number in signals:
                received.append(number)
                scope.cancel()

    async def supervise() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, tasks.cancel_scope)
            results.append(await work(*args))
            tasks.cancel_scope.cancel()

    error: Exception | None = None
    try:
        anyio.run(supervise)
    except ExceptionGroup as group:
        error = _only(group)
    if received:
        print_note(f"stopped by {signal.Signals(received[0]).name}")
        raise SystemExit(128 + received[0])
    if error is not None:
        raise error
    return results[0]


def _only(group: ExceptionGroup[Exception]) -> Exception:
    """The failure inside a task group's wrapping."""
    inner = group.exceptions[0]
    return _only(inner) if isinstance(inner, ExceptionGroup) else inner

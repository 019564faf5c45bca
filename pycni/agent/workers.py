"""Threads for blocking work, a few microseconds away from the event loop.

What the agent does for a request is a handful of system calls of some hundred microseconds each, so the way
to a thread and back is a cost worth keeping small: `anyio.to_thread.run_sync` takes several turns of the
loop, this takes one. The semantics are the same as its default's: a cancelled caller waits for the end of
its work, because what is under way in the kernel cannot be recalled, only undone.
"""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")
    Job = tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]

THREADS: Final = 32
"""Blocking calls that may be under way at once in one process."""


class Workers:
    """Up to `limit` threads that are started when they are needed; `close` ends them."""

    def __init__(self, limit: int = THREADS) -> None:
        self._loop = asyncio.get_running_loop()
        self._limit = limit
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._pending = 0

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """`work(*args)` in a thread. Raises what it raises."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        future: asyncio.Future[T] = self._loop.create_future()
        self._pending += 1
        if self._pending > len(self._threads) < self._limit:
            self._start_thread()
        self._jobs.put((future, work, args))
        try:
            with anyio.CancelScope(shield=True):
                result = await future
        finally:
            self._pending -= 1
        await anyio.lowlevel.checkpoint_if_cancelled()
        return result

    def close(self) -> None:
        """End the threads when they have finished what they have."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._serve, name=f"worker {len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, work, args = job
            try:
                result = work(*args)
            except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
                self._tell(future.set_exception, error)
            else:
                self._tell(future.set_result, result)
            # An idle thread must not keep its last request's data alive.
            del job, future, work, args

    def _tell(self, settle: Callable[[Any], None], value: object) -> None:
        self._loop.call_soon_threadsafe(settle, value)

"""Group commit: whoever waits for a resource is served by the next commit, all in one.

A committer owns one resource. Callers queue; a task takes all that is waiting, commits it as one unit and
answers each caller. Nobody waits for a timer: with one caller a batch has one item, and while a commit is
under way the next batch gathers.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio
import anyio.lowlevel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    Spawn = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

LIMIT = 64
"""Items in one commit: more would make the first of them wait for too long."""


@dataclass(frozen=True)
class Statistics:
    """A committer's figures: callers waiting now, commits and items so far, the largest commit."""

    waiting: int
    commits: int
    items: int
    largest: int


class _Waiter(Generic[Item, Outcome]):
    def __init__(self, item: Item) -> None:
        self.item = item
        self.done = anyio.Event()
        self.outcome: Outcome | BaseException | None = None


class Committer(Generic[Item, Outcome]):
    """Gathers items for `commit`, which answers a list of items with as many outcomes.

    An outcome that is an exception is raised in its own caller; an exception out of `commit` itself goes to
    all of its batch. `spawn` starts a task that lives until nothing is waiting any more. At most `limit`
    items go into one commit.
    """

    def __init__(
        self,
        commit: Callable[[list[Item]], Awaitable[list[Outcome | Exception]]],
        spawn: Spawn,
        limit: int = LIMIT,
    ) -> None:
        self._commit = commit
        self._spawn = spawn
        self._limit = limit
        self._queue: deque[_Waiter[Item, Outcome]] = deque()
        self._serving = False
        self._commits = self._items = self._largest = 0

    @property
    def idle(self) -> bool:
        """Whether nobody waits and nothing is under way."""
        return not self._serving

    def statistics(self) -> Statistics:
        return Statistics(len(self._queue), self._commits, self._items, self._largest)

    async def submit(self, item: Item) -> Outcome:
        """The item's outcome. Raises its exception.

        Cancelled while it waits, the item is taken back; once its commit is under way the outcome is waited
        for, as for any blocking work: what was done must be known to be undone.
        """
        if not self._serving:
            return await self._commit_alone(item)
        waiter: _Waiter[Item, Outcome] = _Waiter(item)
        self._queue.append(waiter)
        try:
            await waiter.done.wait()
        except BaseException:
            if waiter in self._queue:
                self._queue.remove(waiter)
            else:
                with anyio.CancelScope(shield=True):
                    await waiter.done.wait()
            raise
        return _unwrap(waiter.outcome)

    async def _commit_alone(self, item: Item) -> Outcome:
        """The first caller needs no task to be served; those who come meanwhile get one."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._serving = True
        try:
            with anyio.CancelScope(shield=True):
                self._count(1)
                (outcome,) = await self._commit([item])
        finally:
            if self._queue:
                self._spawn(self._serve)
            else:
                self._serving = False
        await anyio.lowlevel.checkpoint_if_cancelled()
        return _unwrap(outcome)

    async def _serve(self) -> None:
        # Shielded: what is in the queue belongs to others than whoever may be cancelled here.
        with anyio.CancelScope(shield=True):
            while self._queue:
                batch = [self._queue.popleft() for _ in range(min(len(self._queue), self._limit))]
                self._count(len(batch))
                await self._answer(batch)
            self._serving = False

    def _count(self, items: int) -> None:
        self._commits += 1
        self._items += items
        self._largest = max(self._largest, items)

    async def _answer(self, batch: list[_Waiter[Item, Outcome]]) -> None:
        outcomes: list[Outcome | Exception]
        try:
            outcomes = await self._commit([waiter.item for waiter in batch])
        except Exception as error:  # noqa: BLE001 - it belongs to those who wait
            outcomes = [error] * len(batch)
        for waiter, outcome in zip(batch, outcomes, strict=True):
            waiter.outcome = outcome
            waiter.done.set()


def _unwrap(outcome: Outcome | BaseException | None) -> Outcome:
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome  # type: ignore[return-value]

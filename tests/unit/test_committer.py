"""Group commit: gathering, answering each alone, cancellation, and figures."""

from __future__ import annotations

import anyio
import pytest

from pycni.agent.committer import Committer, Statistics

pytestmark = pytest.mark.asyncio


class Resource:
    """Records its commits; each waits for `allow()`; items that are exceptions fail alone."""

    def __init__(self) -> None:
        self.commits: list[list[object]] = []
        self.gate = anyio.Event()

    def allow(self) -> None:
        self.gate.set()

    async def commit(self, items: list[object]) -> list[object]:
        self.commits.append(items)
        await self.gate.wait()
        if "everything" in items:
            raise RuntimeError("the whole commit failed")
        return [item if isinstance(item, Exception) else f"did {item}" for item in items]


async def gathered(
    resource: Resource, committer: Committer[object, object], items: list[object]
) -> list[object]:
    """Submit all, the first one first; the outcomes or exceptions in order."""
    outcomes: list[object] = [None] * len(items)

    async def submit(position: int, item: object) -> None:
        try:
            outcomes[position] = await committer.submit(item)
        except Exception as error:  # noqa: BLE001 - the outcome under test
            outcomes[position] = error

    async with anyio.create_task_group() as callers:
        for position, item in enumerate(items):
            callers.start_soon(submit, position, item)
        await anyio.wait_all_tasks_blocked()
        resource.allow()
    return outcomes


async def test_a_single_item_is_committed_at_once() -> None:
    """One caller waits for nobody: its commit has begun before anything else happens."""
    resource = Resource()
    resource.allow()
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon)
        assert await committer.submit("a") == "did a"
        assert committer.idle
    assert resource.commits == [["a"]]


async def test_those_who_come_during_a_commit_share_the_next() -> None:
    """While one commit is under way the next batch gathers; each caller gets its own outcome."""
    resource = Resource()
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon)
        outcomes = await gathered(resource, committer, ["a", "b", "c", "d"])
        assert committer.statistics() == Statistics(0, 2, 4, 3)
    assert resource.commits == [["a"], ["b", "c", "d"]]
    assert outcomes == ["did a", "did b", "did c", "did d"]


async def test_a_failing_item_fails_alone() -> None:
    """An exception among the outcomes is raised in its own caller only."""
    resource, bad = Resource(), ValueError("bad")
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon)
        outcomes = await gathered(resource, committer, ["a", bad, "c"])
    assert outcomes == ["did a", bad, "did c"]


async def test_a_failing_commit_fails_its_batch_and_no_other() -> None:
    """An exception out of the commit reaches all of its batch; the next batch is served."""
    resource = Resource()
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon, limit=2)
        outcomes = await gathered(resource, committer, ["a", "everything", "c", "d"])
    assert resource.commits == [["a"], ["everything", "c"], ["d"]]
    assert outcomes[0] == "did a"
    assert [str(outcome) for outcome in outcomes[1:3]] == ["the whole commit failed"] * 2
    assert outcomes[3] == "did d"


async def test_cancelled_while_waiting_the_item_is_taken_back() -> None:
    """A caller that is cancelled before its commit began leaves no trace in it."""
    resource = Resource()
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon)
        tasks.start_soon(committer.submit, "a")
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(committer.submit, "b")
                tasks.start_soon(committer.submit, "c")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        resource.allow()
    assert resource.commits == [["a"], ["c"]]


@pytest.mark.parametrize("item", ["first", "second"])
async def test_cancelled_during_its_commit_the_end_is_waited_for(item: str) -> None:
    """A caller cancelled while its commit is under way goes on only when it is known what was done."""
    resource = Resource()
    order: list[str] = []
    async with anyio.create_task_group() as tasks:
        committer: Committer[object, object] = Committer(resource.commit, tasks.start_soon)
        if item == "second":
            tasks.start_soon(committer.submit, "a")
            await anyio.wait_all_tasks_blocked()
        scope = anyio.CancelScope()

        async def caller() -> None:
            with scope:
                try:
                    await committer.submit(item)
                finally:
                    order.append("caller went on")

        tasks.start_soon(caller)
        await anyio.wait_all_tasks_blocked()
        if item == "second":
            resource.allow()
            resource.gate = anyio.Event()
            await anyio.wait_all_tasks_blocked()
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        order.append("commit ended")
        resource.allow()
    assert scope.cancelled_caught
    assert order == ["commit ended", "caller went on"]

"""Worker threads: results, exceptions, cancellation and how many there are."""

from __future__ import annotations

import threading

import anyio
import pytest

from pycni.agent.workers import Workers

pytestmark = pytest.mark.asyncio


async def test_work_is_done_in_another_thread() -> None:
    """The result comes back to the loop, the work was not done in its thread."""
    workers = Workers()
    assert await workers.run(threading.get_ident) != threading.get_ident()
    assert await workers.run(divmod, 7, 2) == (3, 1)
    workers.close()


async def test_an_exception_is_the_callers() -> None:
    """What the work raises is raised by `run`, and the thread serves on."""
    workers = Workers(limit=1)
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 1, 0)
    assert await workers.run(abs, -1) == 1
    workers.close()


async def test_a_cancelled_caller_waits_for_the_end_of_its_work() -> None:
    """Cancellation is seen only when the work is done: it might have to be undone."""
    workers = Workers()
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(_cancel_when, begun, scope, may_end)
            await workers.run(work)
        assert scope.cancelled_caught
        assert ended.is_set()
    workers.close()


async def _cancel_when(begun: threading.Event, scope: anyio.CancelScope, may_end: threading.Event) -> None:
    while not begun.is_set():
        await anyio.sleep(0)
    scope.cancel()
    await anyio.wait_all_tasks_blocked()
    may_end.set()


async def test_a_cancelled_caller_begins_nothing() -> None:
    """In a cancelled scope no work is started."""
    workers = Workers()
    done: list[int] = []
    with anyio.CancelScope() as scope:
        scope.cancel()
        await workers.run(done.append, 1)
    assert not done
    workers.close()


async def test_there_are_no_more_threads_than_work_and_no_more_than_the_limit() -> None:
    """Threads come with the work that is under way at once, up to the limit; the rest waits."""
    workers = Workers(limit=3)
    may_end = threading.Event()
    running: list[int] = []

    def work() -> None:
        running.append(1)
        may_end.wait(10)

    for _ in range(5):
        await workers.run(abs, 1)
    assert len(workers._threads) == 1
    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(workers.run, work)
        await anyio.wait_all_tasks_blocked()
        assert len(workers._threads) == 3
        may_end.set()
    assert len(running) == 10
    workers.close()
    assert not any(thread.is_alive() for thread in workers._threads)

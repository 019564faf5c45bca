"""Contexts on an event loop: blocking work goes to worker threads, clean-up is shielded by cancel scopes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from pycni.agent.workers import Workers
from pycni.execute import execute
from pycni.handover import CallContext
from pycni.main import cancelled_reply, serve
from pycni.skel import Reply

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    from anyio.abc import TaskStatus

    from pycni.context import Completed
    from pycni.handover import Call
    from pycni.kernel.namespace import Run
    from pycni.skel import SupportsPlugin

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


class LoopedContext(CallContext):
    """A context whose blocking work is done in worker threads.

    A cancelled task waits for the end of its thread's work: what is under way in the kernel cannot be
    recalled, only undone.
    """

    def __init__(self, call: Call, run_dir: str, run: Run) -> None:
        super().__init__(call, run_dir, looped=True)
        self._run = run
        self.log_lines: list[str] = []

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        return await self._run(work, *args)

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(seconds)

    def shield(self) -> anyio.CancelScope:
        return anyio.CancelScope(shield=True)

    def log(self, text: str) -> None:
        self.log_lines.append(text)

    def with_log(self, reply: Reply) -> Reply:
        """The reply, with what was logged before its own words on standard error."""
        if not self.log_lines:
            return reply
        lines = "".join(f"{line}\n" for line in self.log_lines).encode("utf-8", "replace")
        return reply.replace(stderr=lines + reply.stderr)


class LoopedOneShot(LoopedContext):
    """For one call in a process of its own, of a plugin that needs an event loop."""

    ended_by: list[int]

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        before = bool(self.ended_by)
        completed = await self.run(execute, path, env, stdin, lambda: bool(self.ended_by) and not before)
        await anyio.lowlevel.checkpoint_if_cancelled()
        return completed


def one_shot_with_loop(
    plugin: SupportsPlugin, call: Call, run_dir: str, *, repeated: bool, ended_by: list[int]
) -> tuple[int, bytes, bytes, Callable[[], object] | None]:
    """Like `pycni.main.one_shot`, for a plugin that may use anyio."""
    return anyio.run(_one_shot, plugin, call, run_dir, repeated, ended_by)


async def _one_shot(
    plugin: SupportsPlugin, call: Call, run_dir: str, repeated: bool, ended_by: list[int]
) -> tuple[int, bytes, bytes, Callable[[], object] | None]:
    workers = Workers()
    ctx = LoopedOneShot(call, run_dir, workers.run)
    ctx.leftovers = repeated
    ctx.ended_by = ended_by
    async with anyio.create_task_group() as watchers:
        with anyio.CancelScope() as scope:
            await watchers.start(_cancel_on_signal, scope, ended_by)
            reply = await serve(plugin, call, ctx)
        if scope.cancelled_caught:
            reply = cancelled_reply(ended_by)
        watchers.cancel_scope.cancel()
    workers.close()
    reply = ctx.with_log(reply)
    return reply.status, reply.stdout, reply.stderr, lambda: ctx.close(failed=reply.status != 0)


async def _cancel_on_signal(
    scope: anyio.CancelScope, ended_by: list[int], *, task_status: TaskStatus[None]
) -> None:
    """Started once signals are heard: the call must not begin before, for it may do much before it waits."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        if ended_by:  # the signal came while the event loop was being made
            scope.cancel()
        task_status.started()
        async for number in signals:
            if not ended_by:
                ended_by.append(number)
            scope.cancel()

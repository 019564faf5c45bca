"""The context of a call that the agent serves for a launcher."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from pycni.agent import protocol
from pycni.agent.looped import LoopedContext
from pycni.agent.protocol import number
from pycni.context import Completed
from pycni.grouping import Grouped
from pycni.handover import encode_environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar, TypeVarTuple

    from pycni.agent.connection import Connection
    from pycni.agent.groups import Groups
    from pycni.agent.protocol import Frame
    from pycni.agent.workers import Workers
    from pycni.handover import Call
    from pycni.kernel.namespace import Namespace
    from pycni.request import Request

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")


class AgentContext(LoopedContext):
    """A call served by the agent; foreign executables are run by the launcher that brought the call."""

    def __init__(
        self,
        call: Call,
        run_dir: str,
        workers: Workers,
        connection: Connection,
        groups: Groups,
    ) -> None:
        super().__init__(call, run_dir, workers.run)
        self._groups = groups
        self.request: Request | None = None
        self.ended_by: list[int] = []
        self._connection = connection
        self._executing = anyio.Lock()
        self._executed: Completed | None = None
        self._news = anyio.Event()
        self._gone = False

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        if isinstance(work, Grouped):
            outcome: T = await self._groups.call(work, args)
            return outcome
        return await super().run(work, *args)

    def host(self) -> Namespace:
        if self._host is None:
            self._host = self._groups.host()
        return self._host

    async def hold(self, request: Request) -> None:
        self.request = request
        await super().hold(request)

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        with anyio.CancelScope(shield=True):  # what runs cannot be recalled; the launcher ends it on a signal
            async with self._executing:
                completed = await self._execute(path, env, stdin)
        await anyio.lowlevel.checkpoint_if_cancelled()
        return completed

    async def _execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        self._executed = None
        lock = self.held.descriptor if self.held is not None else -1
        fields = (os.fsencode(path), encode_environment(env), stdin)
        try:
            if not self._gone:
                await self._connection.send(protocol.EXECUTE, *fields, descriptor=lock)
        except OSError:
            self._gone = True
        while self._executed is None and not self._gone:
            await self._news.wait()
        if self._executed is None and self.held is not None:
            self.held.keep()  # the program may outlive the launcher, or the clean-up's could not be started
        return self._executed or Completed(-1, failure="the process that should execute it is gone")

    def executed(self, frame: Frame) -> None:
        """The launcher's answer to EXECUTE."""
        status, failure, stdout, stderr = frame.fields
        self._executed = Completed(
            number(status, signed=True), stdout, stderr, failure.decode("utf-8", "replace")
        )
        self._tell()

    def launcher_gone(self) -> None:
        """Nobody is there any more who could execute."""
        self._gone = True
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

"""What a plugin gets beside its request: everything that touches the world comes in here.

The same plugin code runs in the agent (many requests on one event loop), in a one-shot process (no loop at
all) and in tests. The differences are one method: `run`, which executes a blocking function — in place, or
in a worker thread. Every effect of a plugin passes through it, so a test that wraps `run` sees, fails or
cancels each step.
"""

from __future__ import annotations

import time

from pycni.errors import INVALID_NETNS, CNIError
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import TypeVar, TypeVarTuple

    from pycni.attachments import Intent
    from pycni.delegate import Delegates
    from pycni.kernel.namespace import Namespace
    from pycni.request import Request

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")
    Undo = Callable[[], Awaitable[object]]


class Caller(Record):
    """Facts of the calling process (the launcher's), which an agent must not replace by its own.

    `netns` and `sandbox_id` are (st_dev, st_ino) of namespaces; `sandbox_fd` is an open descriptor of
    CNI_NETNS, -1 where it is empty or could not be opened (`sandbox_errno` says why; 0 where empty).
    `cwd` is absolute, or empty where it was removed; `umask` as octal number.
    """

    pid: int
    cwd: str
    umask: int
    netns: tuple[int, int]
    sandbox_fd: int = -1
    sandbox_id: tuple[int, int] | None = None
    sandbox_errno: int = 0


class Context:
    """One request's access to the kernel, to files, to delegates and to the log.

    Subclasses say how a blocking function is run and how a clean-up is kept from being cancelled:
    `pycni.main.OneShot`, `pycni.agent.context.AgentContext`, `pycni.testing.FakeContext`.
    """

    caller: Caller
    delegate: Delegates
    leftovers: bool = False
    """Whether an earlier request of this attachment died half-way."""

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        """Execute `work(*args)`, which may block, without making other requests wait."""
        raise NotImplementedError

    async def sleep(self, seconds: float) -> None:
        """Wait; other requests go on meanwhile."""
        await self.run(time.sleep, seconds)

    def shield(self) -> AbstractContextManager[object]:
        """A scope in which cancellation is put off; for undoing what was done."""
        raise NotImplementedError

    def host(self) -> Namespace:
        """The network namespace that the caller was started in."""
        raise NotImplementedError

    async def sandbox(self) -> Namespace:
        """The namespace of CNI_NETNS, opened by the caller.

        Raises `SandboxMissing` if the path does not exist, CNIError if it is no network namespace.
        """
        raise NotImplementedError

    async def hold(self, request: Request) -> None:
        """Wait until no other request of this attachment is at work, and make later ones wait.

        The skeleton calls it before the first effect; whoever delivers the answer ends it. Sets `leftovers`.
        Raises CNIError (11) if the wait takes too long. Does nothing where nobody else can be at work.
        """

    def forget(self) -> None:
        """The request has left nothing behind: if its server dies before the answer, nobody need know."""

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        """Run a foreign executable on the caller's side: its directory, namespaces, cgroup, umask."""
        raise NotImplementedError

    async def in_flight(self) -> frozenset[tuple[str, str, str]]:
        """Attachments (network, container id, interface) that a request is at work on; GC spares them."""
        return frozenset()

    async def dead(self, network: str, living: Collection[tuple[str, str]]) -> list[tuple[str, Intent]]:
        """The intents that dead requests of the network left, but for those of `living` attachments."""
        return []

    async def forget_dead(self, found: list[tuple[str, Intent]]) -> None:
        """Remove these intents: what the requests left is gone."""

    def log(self, text: str) -> None:
        """One line for the operator, on the caller's standard error."""
        raise NotImplementedError


class Completed(Record):
    """How an executed program ended; `status` is negative for a signal, `failure` says why it never ran."""

    status: int
    stdout: bytes = b""
    stderr: bytes = b""
    failure: str = ""


class SandboxMissing(CNIError):
    """CNI_NETNS names a path that does not exist; DEL forgives this one."""

    def __init__(self, path: str) -> None:
        super().__init__(
            f'failed to Statfs "{path}": no such file or directory',
            "CNI_NETNS must be the path of the sandbox's network namespace",
        )


class Transaction:
    """What was done, as a list of ways to undo it: ADD is all or nothing.

    Used as `async with Transaction(ctx) as done:`; before each effect the plugin registers its inverse with
    `done.undo(...)`, and if the block ends by any exception, cancellation included, the inverses run
    backwards, shielded, each tolerating that its effect never came about. Their failures go to the log: the
    first error is the one to report, and DEL removes what is left.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._undo: list[Undo] = []

    def undo(self, inverse: Undo) -> Undo:
        """Register `inverse` (a function that returns an awaitable) *before* doing what it undoes."""
        self._undo.append(inverse)
        return inverse

    def forget(self, inverse: Undo) -> None:
        """The effect turned out to be somebody else's: there is nothing to undo."""
        self._undo.remove(inverse)

    async def __aenter__(self) -> Transaction:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            return
        with self._ctx.shield():
            for inverse in reversed(self._undo):
                try:
                    await inverse()
                except Exception as failure:  # noqa: BLE001 - going on is the point
                    self._ctx.log(f"undo: {failure}")


def check_not_own_namespace(caller: Caller, netns: str, override: bool) -> None:
    """Raises CNIError (code 8) if the sandbox is the caller's own namespace; *before* anything is touched."""
    if override or caller.sandbox_id is None or caller.sandbox_id != caller.netns:
        return
    raise CNIError(
        "plugin's netns and netns from CNI_NETNS should not be the same",
        f"CNI_NETNS={netns} is the namespace that the plugin runs in; CNI_NETNS_OVERRIDE=1 allows it",
        code=INVALID_NETNS,
    )

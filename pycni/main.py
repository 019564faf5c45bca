"""The one-shot process: one call, served in place, with nothing imported that it does not need."""

from __future__ import annotations

import os
from _signal import (  # type: ignore[import-not-found] # `signal` around it would import `enum`
    SIG_IGN,
    SIGHUP,
    SIGINT,
    SIGTERM,
    getsignal,
    signal,
)

from pycni.errors import TRY_AGAIN_LATER, CNIError
from pycni.handover import CallContext, decode_call
from pycni.skel import Reply, error_reply, handle

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any, Final, TypeVar, TypeVarTuple

    from pycni.context import Completed, Context
    from pycni.handover import Call
    from pycni.skel import SupportsPlugin

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

_SIGNAL_NAMES: Final = {SIGTERM: "SIGTERM", SIGINT: "SIGINT", SIGHUP: "SIGHUP"}


class Cancelled(BaseException):
    """A signal asks for the end; like every cancellation no `Exception`, so that nobody swallows it."""


class OneShot(CallContext):
    """A context whose every effect happens in place, for plugins that need no event loop.

    `ended_by` gets the number of the first signal that asks for the end; the next step then raises
    `Cancelled`, except inside `shield()`.
    """

    def __init__(self, call: Call, run_dir: str, ended_by: list[int]) -> None:
        super().__init__(call, run_dir, looped=False)
        self._ended_by = ended_by
        self._shield = _Shield()

    @property
    def cancelled(self) -> bool:
        return bool(self._ended_by) and not self._shield.depth

    async def run(self, work: Callable[[*Ts], T], *args: *Ts) -> T:
        if self.cancelled:
            raise Cancelled
        return work(*args)

    def shield(self) -> _Shield:
        return self._shield

    async def execute(self, path: str, env: dict[str, str], stdin: bytes) -> Completed:
        from pycni.execute import execute

        completed = await self.run(execute, path, env, stdin, lambda: self.cancelled)
        if self.cancelled:
            raise Cancelled
        return completed

    def log(self, text: str) -> None:
        try:  # noqa: SIM105 - contextlib is not for a process of some milliseconds
            os.write(2, f"{text}\n".encode("utf-8", "replace"))
        except OSError:
            pass


class _Shield:
    """Counts how deep the running code is in clean-up."""

    def __init__(self) -> None:
        self.depth = 0

    def __enter__(self) -> None:
        self.depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.depth -= 1


def one_shot(
    ref: str, run_dir: str, parts: tuple[bytes, ...], sandbox_fd: int, *, repeated: bool, ended_by: list[int]
) -> tuple[int, bytes, bytes, Callable[[], object] | None]:
    """Serve one call in this process: (status, stdout, stderr, what to do once these are written).

    `ref` is the plugin's entry point; `repeated` says that an agent died while it served this very call.
    """
    from pycni.delegate import load_plugin

    watch_signals(ended_by)
    call = decode_call(parts, os.getpid(), sandbox_fd)
    plugin = load_plugin(ref)
    if not (getattr(plugin, "loopless", False) or call.env.get("CNI_COMMAND", "") in ("", "VERSION")):
        from pycni.agent.looped import one_shot_with_loop

        return one_shot_with_loop(plugin, call, run_dir, repeated=repeated, ended_by=ended_by)
    ctx = OneShot(call, run_dir, ended_by)
    ctx.leftovers = repeated
    try:
        reply = drive(serve(plugin, call, ctx))
    except Cancelled:
        reply = cancelled_reply(ended_by)
    return reply.status, reply.stdout, reply.stderr, lambda: ctx.close(failed=reply.status != 0)


async def serve(plugin: SupportsPlugin, call: Call, ctx: Context) -> Reply:
    """The call through the contract (see `pycni.skel.handle`)."""
    return await handle(plugin, call.env, call.stdin, ctx)


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine whose every await completes at once. Raises RuntimeError if one does not."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise RuntimeError("a plugin that declares itself loopless waited for something beside its context")


def watch_signals(ended_by: list[int]) -> None:
    """Note the first of SIGTERM, SIGINT, SIGHUP in `ended_by` instead of dying at once."""

    def stop(number: int, _frame: object) -> None:
        if not ended_by:
            ended_by.append(number)

    for number in _SIGNAL_NAMES:
        if getsignal(number) is not SIG_IGN:
            signal(number, stop)


def cancelled_reply(ended_by: list[int]) -> Reply:
    """The error object of a call that was broken off and undone (code 11)."""
    name = _SIGNAL_NAMES.get(ended_by[0], "a signal") if ended_by else "its caller"
    return error_reply(
        CNIError(f"cancelled by {name}", "what had been done was undone", code=TRY_AGAIN_LATER)
    )

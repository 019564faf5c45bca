"""Serving the calls of a node's launchers.

Each connection is one call and one task. What a client does wrong ends its own connection and nothing else.
A call whose launcher goes away before the answer is cancelled and undone.
"""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

import anyio

from pycni.agent import protocol
from pycni.agent.connection import Connection
from pycni.agent.context import AgentContext
from pycni.agent.groups import Groups
from pycni.agent.protocol import Frame, ProtocolError, number
from pycni.agent.workers import Workers
from pycni.handover import decode_call
from pycni.install import release
from pycni.kernel.netns import identity
from pycni.main import cancelled_reply, serve
from pycni.skel import error_reply
from pycni.wire.json import dumps

if TYPE_CHECKING:
    import socket

    from anyio.abc import TaskGroup

    from pycni.handover import Call
    from pycni.skel import Reply, SupportsPlugin

log = logging.getLogger("pycni.agent")

REQUEST_SECONDS: Final = 10.0
"""What a launcher gets for sending its request."""
GO_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 10.0
"""What it gets for reading the answer."""


class Agent:
    """The state of the process: what it serves, for whom, and what it counted."""

    def __init__(
        self, run_dir: str, plugins: dict[str, tuple[str, SupportsPlugin]], committing: TaskGroup
    ) -> None:
        """`committing` is the task group of the committers; it must outlive every call."""
        self.run_dir = run_dir
        self.counts: Counter[str] = Counter()
        self._plugins = plugins
        self._release = release()
        self._started = time.time()
        self._place = (identity("/proc/self/ns/net"), identity("/proc/self/ns/mnt"), identity("/"))
        self._workers = Workers()
        self._groups = Groups(committing, self._workers)
        committing.start_soon(self._groups.watch)
        self._untaken: set[anyio.CancelScope] = set()
        self.working = 0

    def state(self) -> dict[str, object]:
        """What `ASK` is answered with."""
        return {
            "release": self._release,
            "pid": os.getpid(),
            "seconds": int(time.time() - self._started),
            "plugins": sorted(self._plugins),
            "working": self.working,
            "counts": dict(sorted(self.counts.items())),
            "committers": {name: vars(figures) for name, figures in self._groups.statistics().items()},
        }

    async def accept(self, listener: socket.socket, calls: TaskGroup) -> None:
        """Serve every connection in a task of `calls`, until cancelled."""
        while True:
            await anyio.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError as error:
                log.error("cannot accept: %s", error)
                await anyio.sleep(0.1)  # out of descriptors: some will be closed
                continue
            calls.start_soon(self._serve, Connection(sock))

    def refuse_untaken(self) -> None:
        """Close the connections whose call was not taken yet; their launchers do the work themselves."""
        for scope in self._untaken:
            scope.cancel()

    async def _serve(self, connection: Connection) -> None:
        with connection:
            try:
                await self._converse(connection)
            except ProtocolError as error:
                self.counts["bad frames"] += 1
                log.warning("connection dropped: %s", error)
            except OSError as error:
                log.info("connection lost: %s", error)
            except Exception:  # one connection must never end the others
                self.counts["failures"] += 1
                log.exception("connection failed")

    async def _converse(self, connection: Connection) -> None:
        pid, uid = connection.peer()
        if uid not in (0, os.geteuid()):
            self.counts["strangers"] += 1
            log.warning("connection of user %d, process %d, refused", uid, pid)
            return
        with anyio.CancelScope() as scope:
            self._untaken.add(scope)
            try:
                taken = await self._agree(connection, pid)
            finally:
                self._untaken.discard(scope)
        if scope.cancelled_caught or taken is None:
            return
        plugin, call = taken
        self.working += 1
        try:
            await self._work(connection, plugin, call)
        finally:
            self.working -= 1

    async def _agree(self, connection: Connection, pid: int) -> tuple[SupportsPlugin, Call] | None:
        """The call, once launcher and agent agree that it is the agent's to serve."""
        with anyio.move_on_after(REQUEST_SECONDS):
            frame = await connection.receive()
            if frame is None:
                return None
            if frame.kind == protocol.ASK:
                await connection.send(protocol.ANSWER, bytes(4), dumps(self.state()), b"")
                return None
            if frame.kind != protocol.REQUEST:
                raise ProtocolError(f"frame {frame.kind} in place of a request")
            return await self._take(connection, pid, frame)
        self.counts["slow senders"] += 1
        return None

    async def _take(
        self, connection: Connection, pid: int, frame: Frame
    ) -> tuple[SupportsPlugin, Call] | None:
        launcher_release, name, ref, *parts = (*frame.fields,)
        try:
            call = decode_call(tuple(parts), pid, connection.descriptor)
        except ValueError as error:
            raise ProtocolError(str(error)) from None
        plugin, reason = self._refusal(launcher_release, name, ref, call)
        if plugin is None:
            self.counts[f"declined: {reason}"] += 1
            log.info("declined %s of process %d: another %s", name.decode(errors="replace"), pid, reason)
            await connection.send(protocol.DECLINED, reason.encode())
            return None
        await connection.send(protocol.TAKEN)
        with anyio.move_on_after(GO_SECONDS):
            answer = await connection.receive()
            if answer is not None and answer.kind == protocol.GO:
                return plugin, call
        self.counts["withdrawn"] += 1
        return None

    def _refusal(
        self, launcher_release: bytes, name: bytes, ref: bytes, call: Call
    ) -> tuple[SupportsPlugin | None, str]:
        """The plugin that serves the call, or None and what is another one than the agent's own."""
        known = self._plugins.get(os.fsdecode(name))
        if launcher_release.decode(errors="replace") != self._release:
            return None, "release"
        if known is None or known[0] != ref.decode(errors="replace"):
            return None, "plugin"
        for what, theirs, ours in zip(
            ("network namespace", "mount namespace", "root folder"),
            (call.caller.netns, call.mount, call.root),
            self._place,
            strict=True,
        ):
            if theirs != ours:
                return None, what
        return known[1], ""

    async def _work(self, connection: Connection, plugin: SupportsPlugin, call: Call) -> None:
        started = time.monotonic()
        ctx = AgentContext(call, self.run_dir, self._workers, connection, self._groups)
        failed = True
        try:
            reply = ctx.with_log(await self._reply(connection, plugin, call, ctx))
            failed = reply.status != 0
            await self._answer(connection, reply)
        finally:
            ctx.close(failed=failed)
        self._note(plugin, call, ctx, reply, time.monotonic() - started)

    async def _answer(self, connection: Connection, reply: Reply) -> None:
        status = reply.status.to_bytes(4, "little")
        with anyio.CancelScope(shield=True), anyio.move_on_after(ANSWER_SECONDS):
            try:
                await connection.send(protocol.ANSWER, status, reply.stdout, reply.stderr)
            except OSError as error:
                log.info("the answer could not be delivered: %s", error)

    async def _reply(
        self, connection: Connection, plugin: SupportsPlugin, call: Call, ctx: AgentContext
    ) -> Reply:
        async with anyio.create_task_group() as listening:
            with anyio.CancelScope() as scope:
                listening.start_soon(self._listen, connection, ctx, scope)
                try:
                    reply = await serve(plugin, call, ctx)
                except SystemExit as error:  # a plugin must not end the agent
                    reply = error_reply(RuntimeError(f"plugin {plugin.name} called exit({error.code})"))
            if scope.cancelled_caught:
                reply = cancelled_reply(ctx.ended_by)
                self.counts["cancelled"] += 1
            listening.cancel_scope.cancel()
        return reply

    async def _listen(self, connection: Connection, ctx: AgentContext, scope: anyio.CancelScope) -> None:
        """Hear what the launcher says while its call is at work: executed, cancel, or nothing any more."""
        try:
            while (frame := await connection.receive()) is not None:
                if frame.kind == protocol.EXECUTED:
                    ctx.executed(frame)
                elif frame.kind == protocol.CANCEL:
                    ctx.ended_by.append(number(frame.fields[0]))
                    scope.cancel()
                else:
                    raise ProtocolError(f"frame {frame.kind} while its call is at work")
        except (OSError, ProtocolError) as error:
            log.info("launcher lost: %s", error)
        ctx.launcher_gone()
        scope.cancel()

    def _note(
        self, plugin: SupportsPlugin, call: Call, ctx: AgentContext, reply: Reply, seconds: float
    ) -> None:
        verb = call.env.get("CNI_COMMAND", "")
        self.counts[f"served: {verb or 'about'}"] += 1
        request = ctx.request
        what = (
            f" network={request.network} container={request.container_id} ifname={request.ifname}"
            if request
            else ""
        )
        level = logging.DEBUG if verb in ("VERSION", "STATUS") and not reply.status else logging.INFO
        log.log(
            level,
            "plugin=%s verb=%s%s status=%d ms=%.1f caller=%d",
            *(plugin.name, verb, what, reply.status, 1000 * seconds, call.caller.pid),
        )

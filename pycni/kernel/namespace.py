"""A network namespace as plugins see it: requests, typed observation, sysctls.

    answers = await ns.request([messages.set_link(index, up=True)])
    check(answers, f'failed to set "{name}" up')
    link = await ns.link(name="eth0")

Every method is one call of the context's `run` (one hop to a worker thread in the agent) and enters the
namespace once at most. `perform` mixes sysctls, requests and dumps, so that everything that an ADD does in
a pod takes one hop and one setns. Nothing here decides: failures come back as data, `check` raises them.
"""

from __future__ import annotations

import errno
import os

from pycni.errors import CNIError
from pycni.kernel import netns, sysctl
from pycni.kernel.codec import is_dump
from pycni.kernel.messages import (
    Address,
    Link,
    NextHop,
    Port,
    RouteEntry,
    del_link,
    dump_addresses,
    dump_links,
    dump_routes,
    get_link,
)
from pycni.kernel.netlink import Answer, AnswersLost, NetlinkSocket
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
    from typing import Protocol, TypeVar, TypeVarTuple

    T = TypeVar("T")
    Ts = TypeVarTuple("Ts")

    class Run(Protocol):
        """`pycni.context.Context.run`: execute a blocking function without making others wait."""

        def __call__(self, work: Callable[[*Ts], T], *args: *Ts) -> Awaitable[T]: ...


__all__ = [
    "Address",
    "Answer",
    "AnswersLost",
    "Link",
    "Namespace",
    "NextHop",
    "Port",
    "RouteEntry",
    "Setting",
    "check",
    "perform_in",
]


class Setting(Record):
    """A sysctl to be written if it has another value: a step of `Namespace.perform`.

    `name` is slash-separated (`net/ipv4/conf/eth0/arp_notify`); with `always` it is written even if it has
    the value. The answer's `text` says what went wrong; its `errno` stays 0 unless the setting is
    `required`.
    """

    name: str
    value: str
    required: bool = False
    always: bool = False


class Namespace:
    """One network namespace, given by an open descriptor, or `here`: the one that this process is in.

    Plugins get theirs from the context (`ctx.host()`, `await ctx.sandbox()`). `path` is what the caller
    called it, empty for the host. `sockets` are idle ones for reuse, and may be shared by the namespaces of
    one process that mean the same place; safe to use from several tasks at once: each call takes a socket
    of its own and opens one if none is idle. The descriptor belongs to whoever made the object.
    """

    def __init__(
        self,
        run: Run,
        fd: int = -1,
        path: str = "",
        *,
        here: bool = False,
        sockets: list[NetlinkSocket] | None = None,
    ) -> None:
        self.fd = fd
        self.path = path
        self._run = run
        self._here = here
        self._shared = sockets is not None
        self._sockets = sockets if sockets is not None else []

    async def perform(self, steps: Sequence[bytes | Setting]) -> list[Answer]:
        """Do all steps in order, in one go; one answer for each, in order.

        A step is a request from `pycni.kernel.messages` (dumps too) or a `Setting`. A failed step stops
        nothing. Raises CNIError if the namespace cannot be entered or no socket be had, AnswersLost if the
        kernel's answers did not fit in the buffer, CNIError (11) if a dump never got through.
        """
        return await self._run(self._perform, tuple(steps))

    async def request(self, messages: Sequence[bytes]) -> list[Answer]:
        """`perform` for requests alone: as few sends as possible, one answer per request."""
        return await self._run(self._perform, tuple(messages))

    async def remove(self, *, name: str = "", index: int = 0) -> Answer:
        """Remove one link, a veth's peer with it; the answer's `errno` is ENODEV if there is none.

        The link is gone and its name is free when this returns, though the kernel may still be tidying up.
        """
        (answer,) = await self.request((del_link(index, name),))
        return answer

    async def link(self, name: str = "", index: int = 0) -> Link | None:
        """One link by name (or alternative name) or index, None if there is none."""
        (answer,) = await self.request([get_link(index, name)])
        if answer.errno == errno.ENODEV:
            return None
        check([answer], f'failed to lookup "{name or index}"')
        return answer.links[0]

    async def links(self, kind: str = "", master: int = 0) -> list[Link]:
        """All links, or those of a kind ("veth"), or the ports of a master."""
        answer = await self._dump(dump_links(kind, master), "failed to list links")
        # The kernel ignores a kind whose module is not loaded.
        return [link for link in answer.links if not kind or link.kind == kind]

    async def ports(self, master: int) -> list[Link]:
        """The links whose master is the given index, with `port` filled in for a bridge's."""
        return await self.links(master=master)

    async def addresses(self, index: int = 0, family: int = 0) -> list[Address]:
        """Addresses of one link or all, of family 4, 6 or both (0); empty if there is no such link."""
        answer = await self._dump(dump_addresses(family, index), "failed to get IP addresses")
        return list(answer.addresses)

    async def routes(self, family: int = 0, table: int = 0) -> list[RouteEntry]:
        """Routes of one table or all, of family 4, 6 or both (0); the local table is one of all."""
        answer = await self._dump(dump_routes(family, table), "failed to list routes")
        return list(answer.routes)

    async def read_sysctls(self, names: Sequence[str]) -> list[str | None]:
        """The values, None where one cannot be read (no such interface, no IPv6 in the kernel)."""
        return await self.call(_read_all, tuple(names))

    async def write_sysctls(self, settings: Iterable[tuple[str, str, bool]]) -> None:
        """Write (name, value, required) triples where different; goes on past failures.

        Raises CNIError `failed to set sysctl …` for the first required one that failed.
        """
        wanted = [Setting(name, value, required) for name, value, required in settings]
        for setting, answer in zip(wanted, await self.perform(wanted), strict=True):
            check([answer], f"failed to set sysctl {setting.name}={setting.value}")

    async def exchange(self, work: Callable[[NetlinkSocket, *Ts], list[Answer]], *args: *Ts) -> list[Answer]:
        """Lend one of the namespace's sockets to a blocking function, for what a list of steps cannot say."""
        return await self._run(self._lend_socket, False, work, *args)

    async def call(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run any blocking function with its thread in this namespace."""
        return await self._run(self._enter, func, *args)

    def close(self) -> None:
        """Close the sockets, unless they are shared, but not the descriptor."""
        while self._sockets and not self._shared:
            self._sockets.pop().close()

    def __enter__(self) -> Namespace:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()

    async def _dump(self, message: bytes, what: str) -> Answer:
        (answer,) = await self.request([message])
        # A filter that names a link or table that does not exist: nothing is in it.
        if answer.errno not in (errno.ENODEV, errno.ENOENT):
            check([answer], what)
        return answer

    def _enter(self, func: Callable[[*Ts], T], *args: *Ts) -> T:
        return func(*args) if self._here else netns.inside(self.fd, func, *args)

    def _idle_socket(self) -> NetlinkSocket | None:
        try:
            return self._sockets.pop()
        except IndexError:
            return None

    def _perform(self, steps: tuple[bytes | Setting, ...]) -> list[Answer]:
        # /proc/sys/net shows the namespace of who opens it, a socket stays in the one it was made in.
        enter = any(isinstance(step, Setting) for step in steps)
        return self._lend_socket(enter, _execute, steps)

    def _lend_socket(
        self, enter: bool, work: Callable[[NetlinkSocket, *Ts], list[Answer]], *args: *Ts
    ) -> list[Answer]:
        socket = self._idle_socket()
        if socket is None:
            return self._enter(self._with_new_socket, work, *args)
        if enter:
            return self._enter(self._with_socket, socket, work, *args)
        return self._with_socket(socket, work, *args)

    def _with_new_socket(
        self, work: Callable[[NetlinkSocket, *Ts], list[Answer]], *args: *Ts
    ) -> list[Answer]:
        try:
            socket = NetlinkSocket()
        except OSError as error:
            reason = os.strerror(error.errno).lower() if error.errno else str(error)
            raise CNIError(f"failed to open netlink socket: {reason}", self.path) from error
        return self._with_socket(socket, work, *args)

    def _with_socket(
        self, socket: NetlinkSocket, work: Callable[[NetlinkSocket, *Ts], list[Answer]], *args: *Ts
    ) -> list[Answer]:
        try:
            answers = work(socket, *args)
        except BaseException:
            socket.close()
            raise
        self._sockets.append(socket)
        return answers


async def perform_in(*parts: tuple[Namespace, Sequence[bytes | Setting]]) -> list[list[Answer]]:
    """`Namespace.perform` in one namespace after the other, with one hop to a worker thread for all."""
    return await parts[0][0]._run(_perform_in, tuple((place, tuple(steps)) for place, steps in parts))


def _perform_in(parts: tuple[tuple[Namespace, tuple[bytes | Setting, ...]], ...]) -> list[list[Answer]]:
    return [place._perform(steps) if steps else [] for place, steps in parts]


def check(answers: Iterable[Answer], what: str, *, allow: Container[int] = ()) -> None:
    """Raise the first failure as CNIError `what: no such device`, the kernel's explanation in the details.

    Errnos in `allow` are fine (EEXIST where something may be there already).
    """
    for answer in answers:
        if answer.errno and answer.errno not in allow:
            raise answer.error(what)


def _execute(socket: NetlinkSocket, steps: tuple[bytes | Setting, ...]) -> list[Answer]:
    answers: list[Answer] = []
    waiting: list[bytes] = []
    for step in steps:
        if isinstance(step, bytes) and not is_dump(step):
            waiting.append(step)
            continue
        answers += socket.request(waiting)
        waiting.clear()
        answers.append(_write(step) if isinstance(step, Setting) else socket.dump(step))
    return answers + socket.request(waiting)


def _write(setting: Setting) -> Answer:
    try:
        sysctl.write(setting.name, setting.value, always=setting.always)
    except OSError as error:
        text = f"{setting.name}={setting.value}: {error.strerror}"
        return Answer(error.errno or errno.EIO if setting.required else 0, text)
    return Answer()


def _read_all(names: tuple[str, ...]) -> list[str | None]:
    values: list[str | None] = []
    for name in names:
        try:
            values.append(sysctl.read(name))
        except OSError:
            values.append(None)
    return values

"""Removing links in groups, answered when they are gone and not when the kernel has tidied up.

Removing one link takes the kernel a grace period of 15 ms or more, removing a hundred together takes hardly
longer, and in both cases the link is gone, its names free, after the first millisecond. So waiting removals
are gathered into a link group of their own, which is deleted by one request, and each is answered as soon as
the kernel announces that its link is gone; the next group is sent meanwhile.
Sources: rtnetlink(7), <linux/if_link.h> (IFLA_GROUP), <linux/filter.h>.
"""

from __future__ import annotations

import ctypes
import errno
import random
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import anyio

from pycni.agent.committer import Committer
from pycni.kernel.codec import split
from pycni.kernel.messages import del_group, del_link, dump_links, get_link, read_group, read_index, set_group
from pycni.kernel.netlink import Answer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anyio.abc import TaskGroup

    from pycni.kernel.namespace import Namespace
    from pycni.kernel.netlink import NetlinkSocket

    Target = tuple[str, int]

RTM_DELLINK: Final = 17
OWN_GROUPS: Final = 1 << 31
"""Groups from here on are taken for removals; people and other programs number theirs from 0."""
GROUPED_FROM: Final = 2
"""Links from which a group is worth its preparations."""

_RTMGRP_LINK: Final = 1
_SO_ATTACH_FILTER: Final = 26
_RECEIVE_BUFFER: Final = 1 << 20
# BPF_LD|BPF_H|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
_LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x28, 0x15, 0x06
_TYPE_OFFSET: Final = 4  # nlmsg_type in struct nlmsghdr


class LinkRemover:
    """The committer of link removals; `watch` must run as a task beside it."""

    def __init__(self, tasks: TaskGroup, host: Namespace) -> None:
        self.committer: Committer[Target, Answer] = Committer(self._commit, tasks.start_soon)
        self._tasks = tasks
        self._host = host
        self._gone: dict[int, anyio.Event] = {}
        self._monitor = open_monitor()

    async def remove(self, name: str, index: int) -> Answer:
        """Like `pycni.kernel.namespace.Namespace.remove`."""
        return await self.committer.submit((name, index))

    async def watch(self) -> None:
        """Hear which links are gone, until cancelled."""
        try:
            while True:
                await anyio.wait_readable(self._monitor)
                # Notices that did not fit in the buffer are no loss: the acknowledgement comes later.
                with suppress(OSError):
                    for kind, _, _, payload in split(self._monitor.recv(1 << 16)):
                        event = self._gone.get(read_index(payload)) if kind == RTM_DELLINK else None
                        if event is not None:
                            event.set()
        finally:
            self._monitor.close()

    async def _commit(self, targets: list[Target]) -> list[Answer | Exception]:
        answers: list[Answer | Exception] = list(await self._host.exchange(find_links, targets))
        found = {
            answer.links[0].index: position
            for position, answer in enumerate(answers)
            if isinstance(answer, Answer) and answer.links
        }
        if found:
            for index, answer in (await self._remove(list(found))).items():
                answers[found[index]] = answer
        return answers

    async def _remove(self, indexes: list[int]) -> dict[int, Answer]:
        """The answers of links that exist: as soon as all are known to be gone, or to stay."""
        answers: dict[int, Answer] = {}
        events = {index: anyio.Event() for index in indexes}
        self._gone.update(events)

        async def work() -> None:
            try:
                answers.update(zip(indexes, await self._host.exchange(delete_together, indexes), strict=True))
            except Exception as error:  # noqa: BLE001 - a task must not end the others; its callers are told
                answers.update(dict.fromkeys(indexes, Answer(errno.EIO, str(error))))
            finally:
                for index, event in events.items():
                    event.set()
                    if self._gone.get(index) is event:
                        del self._gone[index]

        self._tasks.start_soon(work)
        for event in events.values():
            await event.wait()
        return {index: answers.get(index, Answer()) for index in indexes}


def find_links(sock: NetlinkSocket, targets: Sequence[Target]) -> list[Answer]:
    """Each target's link, by name or index. Blocking."""
    return sock.request([get_link(index, name) for name, index in targets])


def delete_together(sock: NetlinkSocket, indexes: Sequence[int]) -> list[Answer]:
    """Delete links by one group, or one by one where that fails or does not pay. Blocking.

    The group's number is random and was unused a moment ago, so that no stranger's link is in it; one link
    that cannot be deleted makes the kernel refuse the whole group, hence the second way.
    """
    if len(indexes) >= GROUPED_FROM:
        group = unused_group(sock)
        *moved, deleted = sock.request([*(set_group(index, group) for index in indexes), del_group(group)])
        if deleted.ok:
            return moved
    answers = sock.request([del_link(index) for index in indexes])
    left = [index for index, answer in zip(indexes, answers, strict=True) if not answer.ok]
    if left and len(indexes) >= GROUPED_FROM:
        sock.request([set_group(index, 0) for index in left])
    return answers


def unused_group(sock: NetlinkSocket) -> int:
    """A random group that no link of this namespace is in. Blocking."""
    used = {read_group(payload) for _, payload in sock.dump(dump_links()).payloads}
    while (group := OWN_GROUPS | random.getrandbits(31)) in used:
        pass
    return group


def open_monitor() -> socket.socket:
    """A socket on which the kernel announces removed links, and nothing else. Raises OSError."""
    monitor = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    monitor.setblocking(False)
    monitor.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
    # A node that makes pods announces new links all the time; the filter keeps them from waking us.
    wanted = socket.htons(RTM_DELLINK) if struct.pack("=H", 1) == b"\1\0" else RTM_DELLINK
    steps = (
        (_LOAD_HALF, 0, 0, _TYPE_OFFSET),
        (_JUMP_EQUAL, 0, 1, wanted),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    )
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    monitor.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(steps), ctypes.addressof(program))
    )
    monitor.bind((0, _RTMGRP_LINK))
    return monitor

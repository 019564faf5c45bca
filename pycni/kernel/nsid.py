"""The numbers by which one network namespace knows others.

A veth's `peer_netnsid` is such a number; asked for a sandbox's, the kernel tells whether the peer is in that
very sandbox, which equal link indexes do not. Sources: <linux/net_namespace.h>; rtnetlink(7).
"""

from __future__ import annotations

from _struct import Struct

from pycni.kernel.codec import DO, message, read_attributes, read_int, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from pycni.kernel.netlink import Answer

RTM_NEWNSID: Final = 88
RTM_GETNSID: Final = 90

_RTGENMSG: Final = Struct("=B3x")
_NSID, _FD = 1, 3


def get_nsid(fd: int) -> bytes:
    """Ask which number the asked namespace has for the one behind a descriptor."""
    return message(RTM_GETNSID, DO, _RTGENMSG.pack(0), u32(_FD, fd))


def read_nsid(answer: Answer) -> int | None:
    """The number; None if there is none yet, as for the asked namespace itself."""
    for kind, payload in answer.payloads:
        if kind == RTM_NEWNSID:
            found = read_int(read_attributes(payload, _RTGENMSG.size, (_NSID,)).get(_NSID))
            return found if found is not None and found >= 0 else None
    return None

"""Addresses and routes: requests and what the kernel tells about them.

Sources: <linux/if_addr.h>, <linux/rtnetlink.h>; rtnetlink(7). Families are those of `pycni.addresses`
(4 and 6, 0 for both). Builders return complete requests (see `pycni.kernel.codec.message`).
"""

from __future__ import annotations

from _struct import Struct

from pycni.addresses import CIDR, IP, IPV4, IPV6
from pycni.errors import CNIError
from pycni.kernel.codec import (
    AF_INET,
    AF_INET6,
    CREATE,
    CREATE_NEW,
    DO,
    DUMP,
    attribute,
    message,
    nest,
    read_attributes,
    read_text,
    read_u32,
    u32,
)
from pycni.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

RTM_NEWADDR: Final = 20
RTM_DELADDR: Final = 21
RTM_GETADDR: Final = 22
RTM_NEWROUTE: Final = 24
RTM_DELROUTE: Final = 25
RTM_GETROUTE: Final = 26

IFA_F_NODAD: Final = 0x02
IFA_F_DADFAILED: Final = 0x08
IFA_F_TENTATIVE: Final = 0x40

RT_TABLE_MAIN: Final = 254
RTPROT_BOOT: Final = 3
RTN_UNICAST: Final = 1
RT_SCOPE_NOWHERE: Final = 255

_IFADDR: Final = Struct("=BBBBi")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 3, 4, 8
_ADDRESS_WANTED: Final = frozenset((_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_BROADCAST, _IFA_FLAGS))

_RTMSG: Final = Struct("=BBBBBBBBI")
_NEXTHOP: Final = Struct("=HBBi")
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE = 1, 4, 5, 6, 7, 8, 9, 15
_ROUTE_WANTED: Final = frozenset((_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC, _METRICS, _MULTIPATH, _TABLE))
_RTAX_MTU, _RTAX_ADVMSS = 2, 8
_METRICS_WANTED: Final = frozenset((_RTAX_MTU, _RTAX_ADVMSS))

_KERNEL_FAMILY: Final = {0: 0, IPV4: AF_INET, IPV6: AF_INET6}
_FAMILY: Final = {AF_INET: IPV4, AF_INET6: IPV6}


class Address(Record):
    """An address of a link; `cidr` is the link's own address, with host bits.

    `scope` is the kernel's number (0 global, 253 link, 254 host), `flags` are IFA_F_… in 32 bits.
    """

    index: int
    cidr: CIDR
    scope: int
    flags: int
    broadcast: IP | None
    label: str

    @property
    def tentative(self) -> bool:
        """Duplicate address detection is not over: the address cannot be used yet."""
        return bool(self.flags & IFA_F_TENTATIVE)

    @property
    def dadfailed(self) -> bool:
        """Somebody else on the link has this address."""
        return bool(self.flags & IFA_F_DADFAILED)


class NextHop(Record):
    """One way of a multipath route."""

    gw: IP | None
    oif: int


class RouteEntry(Record):
    """A route as the kernel holds it; `dst` is 0.0.0.0/0 or ::/0 for a default route.

    `family` is 4 or 6; `oif` an index, 0 for a route with `nexthops` or without a device; `mtu` and
    `advmss` in bytes, 0 where not set; `scope`, `protocol`, `type` and `table` are the kernel's numbers.
    """

    family: int
    dst: CIDR
    gw: IP | None
    oif: int
    priority: int
    table: int
    scope: int
    protocol: int
    type: int
    mtu: int
    advmss: int
    prefsrc: IP | None
    nexthops: tuple[NextHop, ...]


def new_address(index: int, cidr: CIDR, *, nodad: bool = False) -> bytes:
    """Give a link an address; EEXIST if it has this one, ENODEV if there is no such link.

    IPv4 gets the broadcast address of its network if the prefix leaves room for one (30 bits or fewer).
    `nodad` spares an IPv6 address its duplicate address detection: it can be used at once.
    """
    flags = IFA_F_NODAD if nodad and cidr.family == IPV6 else 0
    return message(RTM_NEWADDR, CREATE_NEW, *_address(index, cidr, flags))


def del_address(index: int, cidr: CIDR) -> bytes:
    """Take an address away; EADDRNOTAVAIL if the link does not have it."""
    return message(RTM_DELADDR, DO, *_address(index, cidr, 0))


def dump_addresses(family: int = 0, index: int = 0) -> bytes:
    """Ask for all addresses, of one family or one link (needs NETLINK_GET_STRICT_CHK)."""
    return message(RTM_GETADDR, DUMP, _IFADDR.pack(_KERNEL_FAMILY[family], 0, 0, 0, index))


def read_address(payload: bytes) -> Address | None:
    """The payload of an RTM_NEWADDR; None for families other than IPv4 and IPv6."""
    family, prefix, flags, scope, index = _IFADDR.unpack_from(payload)
    if family not in _FAMILY:
        return None
    found = read_attributes(payload, _IFADDR.size, _ADDRESS_WANTED)
    # On a point-to-point link IFA_ADDRESS is the other side's address; IPv6 sends IFA_LOCAL only there.
    own = _ip(family, found.get(_IFA_LOCAL, found.get(_IFA_ADDRESS)))
    if own is None:
        return None
    return Address(
        index,
        CIDR(own, prefix),
        scope,
        read_u32(found.get(_IFA_FLAGS), flags),
        _ip(family, found.get(_IFA_BROADCAST)),
        read_text(found.get(_IFA_LABEL)),
    )


def new_route(
    index: int,
    dst: CIDR,
    gw: IP | None = None,
    *,
    priority: int = 0,
    table: int | None = None,
    scope: int | None = None,
    mtu: int = 0,
    advmss: int = 0,
) -> bytes:
    """Add a route through a link; EEXIST if an equal one is there.

    A route to the same destination by another way is added beside the first (no NLM_F_EXCL), as `ip route
    append` does. A `priority` of 0 or less is the kernel's default; `table` defaults to main, `scope` to
    0. Raises CNIError if gateway and destination are of different families.
    """
    header, parts = _route(index, dst, gw, priority, table)
    metrics = [u32(kind, value) for kind, value in ((_RTAX_MTU, mtu), (_RTAX_ADVMSS, advmss)) if value]
    if metrics:
        parts.append(nest(_METRICS, *metrics))
    fixed = _RTMSG.pack(*header, RTPROT_BOOT, scope or 0, RTN_UNICAST, 0)
    return message(RTM_NEWROUTE, CREATE, fixed, *parts)


def del_route(
    index: int, dst: CIDR, gw: IP | None = None, *, priority: int = 0, table: int | None = None
) -> bytes:
    """Remove the first route that fits what is given, whatever its scope; ESRCH if there is none."""
    header, parts = _route(index, dst, gw, priority, table)
    return message(RTM_DELROUTE, DO, _RTMSG.pack(*header, 0, RT_SCOPE_NOWHERE, 0, 0), *parts)


def dump_routes(family: int = 0, table: int = 0) -> bytes:
    """Ask for the routes of one family or table, 0 for all (needs NETLINK_GET_STRICT_CHK)."""
    fixed = _RTMSG.pack(_KERNEL_FAMILY[family], 0, 0, 0, 0, 0, 0, 0, 0)
    return message(RTM_GETROUTE, DUMP, fixed, *([u32(_TABLE, table)] if table else []))


def read_route(payload: bytes) -> RouteEntry | None:
    """The payload of an RTM_NEWROUTE; None for families other than IPv4 and IPv6."""
    family, length, _src, _tos, table, protocol, scope, kind, _flags = _RTMSG.unpack_from(payload)
    if family not in _FAMILY:
        return None
    found = read_attributes(payload, _RTMSG.size, _ROUTE_WANTED)
    metrics = read_attributes(found.get(_METRICS, b""), 0, _METRICS_WANTED)
    return RouteEntry(
        _FAMILY[family],
        CIDR(_ip(family, found.get(_DST)) or IP(_FAMILY[family], 0), length),
        _ip(family, found.get(_GATEWAY)),
        read_u32(found.get(_OIF)),
        read_u32(found.get(_PRIORITY)),
        read_u32(found.get(_TABLE), table),
        scope,
        protocol,
        kind,
        read_u32(metrics.get(_RTAX_MTU)),
        read_u32(metrics.get(_RTAX_ADVMSS)),
        _ip(family, found.get(_PREFSRC)),
        _read_nexthops(family, found.get(_MULTIPATH, b"")),
    )


def _read_nexthops(family: int, data: bytes) -> tuple[NextHop, ...]:
    hops = []
    while len(data) >= _NEXTHOP.size:
        length, _flags, _weight, oif = _NEXTHOP.unpack_from(data)
        if length < _NEXTHOP.size:
            break
        found = read_attributes(data[:length], _NEXTHOP.size, (_GATEWAY,))
        hops.append(NextHop(_ip(family, found.get(_GATEWAY)), oif))
        data = data[(length + 3) & ~3 :]
    return tuple(hops)


def _ip(family: int, packed: bytes | None) -> IP | None:
    # Not IP.from_bytes: an IPv4-mapped address in an IPv6 table is an IPv6 address to the kernel.
    return IP(_FAMILY[family], int.from_bytes(packed, "big")) if packed else None


def _address(index: int, cidr: CIDR, flags: int) -> tuple[bytes, ...]:
    own = cidr.ip.packed()
    parts = [
        _IFADDR.pack(_KERNEL_FAMILY[cidr.family], cidr.prefix, flags, 0, index),
        attribute(_IFA_LOCAL, own),
        attribute(_IFA_ADDRESS, own),
    ]
    if cidr.family == IPV4 and cidr.prefix <= 30:
        parts.append(attribute(_IFA_BROADCAST, cidr.last.packed()))
    return tuple(parts)


def _route(
    index: int, dst: CIDR, gw: IP | None, priority: int, table: int | None
) -> tuple[tuple[int, int, int, int, int], list[bytes]]:
    """The first five members of struct rtmsg and the attributes that adding and removing share."""
    if gw is not None and gw.family != dst.family:
        raise CNIError(
            "gateway, source, and destination ip are not the same IP family",
            f"route to {dst} via {gw}: give a gateway of IPv{dst.family}",
        )
    number = table or RT_TABLE_MAIN
    parts = [attribute(_DST, dst.ip.packed())]
    if gw is not None:
        parts.append(attribute(_GATEWAY, gw.packed()))
    if index:
        parts.append(u32(_OIF, index))
    if priority > 0:
        parts.append(u32(_PRIORITY, priority))
    if number > 255:
        parts.append(u32(_TABLE, number))
    return (_KERNEL_FAMILY[dst.family], dst.prefix, 0, 0, number if number <= 255 else 0), parts

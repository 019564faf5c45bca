"""The messages about addresses and routes of the simulated kernel; `pycni.testing.rtnetlink` calls them."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pycni.addresses import CIDR, IP
from pycni.kernel.codec import AF_INET, AF_INET6, read_attributes, read_u32
from pycni.testing import numbers as n
from pycni.testing.links import Refused
from pycni.testing.listing import show_address, show_route
from pycni.testing.routes import FakeRoute

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Final

    from pycni.testing.kernel import FakeNet
    from pycni.testing.links import FakeLink

    Objects = Iterator[tuple[int, bytes]]
    Handler = Callable[[FakeNet, bytes, bool], Objects]

_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26


def _ip(family: int, packed: bytes | None) -> IP | None:
    return IP(n.FAMILY[family], int.from_bytes(packed, "big")) if packed else None


def _address_of(net: FakeNet, payload: bytes) -> tuple[FakeLink, CIDR, bool, IP | None]:
    family, prefix, flags, _scope, index = n.IFADDR.unpack_from(payload)
    found = read_attributes(payload, n.IFADDR.size, n.EVERY)
    if index not in net.links:
        raise Refused(errno.ENODEV, "ipv4: Device not found" if family == AF_INET else "")
    ip = _ip(family, found.get(n.LOCAL, found.get(n.ADDRESS)))
    if ip is None:
        raise Refused(errno.EINVAL)
    return net.links[index], CIDR(ip, prefix), bool(flags & n.NODAD), _ip(family, found.get(n.BROADCAST))


def _new_address(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    link, cidr, nodad, broadcast = _address_of(net, payload)
    link.add_address(cidr, nodad=nodad, broadcast=broadcast)
    return iter(())


def _del_address(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    link, cidr, _nodad, _broadcast = _address_of(net, payload)
    link.remove_address(cidr)
    return iter(())


def _get_addresses(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    family, _prefix, _flags, _scope, index = n.IFADDR.unpack_from(payload)
    if index and index not in net.links:
        raise Refused(errno.ENODEV)
    for number in (AF_INET, AF_INET6):
        for link in net.links.values():
            if family in (0, number) and index in (0, link.index):
                mine = [one for one in link.addresses if n.NUMBER[one.cidr.family] == number]
                mine.sort(key=link.is_secondary)
                for address in mine if number == AF_INET else reversed(mine):
                    yield _NEWADDR, show_address(link, address)


# Routes


def _route_of(net: FakeNet, payload: bytes) -> tuple[CIDR, dict[int, bytes], IP | None, int, int, int]:
    family, length, _src, _tos, table, _protocol, scope, _type, _flags = n.RTMSG.unpack_from(payload)
    found = read_attributes(payload, n.RTMSG.size, n.EVERY)
    dst = CIDR(_ip(family, found.get(n.DST)) or IP(n.FAMILY[family], 0), length)
    gw = _ip(family, found.get(n.GATEWAY))
    return dst, found, gw, read_u32(found.get(n.PRIORITY)), read_u32(found.get(n.TABLE), table), scope


def _new_route(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    dst, found, gw, priority, table, scope = _route_of(net, payload)
    link = net.find(read_u32(found[n.OIF])) if n.OIF in found else None
    metrics = read_attributes(found.get(n.METRICS, b""), 0, n.EVERY)
    mtu, advmss = (read_u32(metrics.get(kind)) for kind in (n.RTAX_MTU, n.RTAX_ADVMSS))
    net.add_route(FakeRoute(dst, link, gw, priority, table, scope, mtu, advmss))
    return iter(())


def _del_route(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    dst, found, gw, priority, table, _scope = _route_of(net, payload)
    if n.OIF in found and read_u32(found[n.OIF]) not in net.links:
        raise Refused(errno.ESRCH)
    link = net.find(read_u32(found[n.OIF])) if n.OIF in found else None
    net.remove_route(dst, link, gw, priority, table)
    return iter(())


def _get_routes(net: FakeNet, payload: bytes, _dump: bool) -> Objects:
    family = n.RTMSG.unpack_from(payload)[0]
    table = read_u32(read_attributes(payload, n.RTMSG.size, n.EVERY).get(n.TABLE))
    for route in net.all_routes():
        if table in (0, route.table) and family in (0, n.NUMBER[route.dst.family]):
            yield _NEWROUTE, show_route(route)


HANDLERS: Final[dict[int, Handler]] = {
    _NEWADDR: _new_address,
    _DELADDR: _del_address,
    _GETADDR: _get_addresses,
    _NEWROUTE: _new_route,
    _DELROUTE: _del_route,
    _GETROUTE: _get_routes,
}

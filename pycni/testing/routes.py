"""Routes of the simulated kernel: which are accepted, and which follow from addresses.

IPv6 routes to one destination through several gateways stay single routes here, where the kernel would show
one route with several next hops.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pycni.addresses import CIDR, IP, IPV4, IPV6
from pycni.testing.links import SCOPE_GLOBAL, SCOPE_HOST, SCOPE_LINK, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Final

    from pycni.testing.links import FakeAddress, FakeLink

TABLE_MAIN, TABLE_LOCAL = 254, 255
_PROTO_KERNEL, _PROTO_BOOT = 2, 3
_UNICAST, _LOCAL = 1, 2
_SCOPE_NOWHERE: Final = 255
_METRIC_IPV6: Final = 1024
_METRIC_CONNECTED: Final = 256


@dataclass(frozen=True)
class FakeRoute:
    """A route through `link`; numbers are those of <linux/rtnetlink.h>."""

    dst: CIDR
    link: FakeLink | None
    gw: IP | None = None
    priority: int = 0
    table: int = TABLE_MAIN
    scope: int = SCOPE_GLOBAL
    mtu: int = 0
    advmss: int = 0
    protocol: int = _PROTO_BOOT
    type: int = _UNICAST
    prefsrc: IP | None = None

    def describe(self) -> tuple[str, ...]:
        """What two states are compared by."""
        name = self.link.name if self.link is not None else ""
        return tuple(map(str, (self.dst, self.gw, name, self.priority, self.table, self.scope, self.mtu)))

    def is_like(self, other: FakeRoute) -> bool:
        """Whether the kernel takes the two for the same (EEXIST)."""
        way = (self.dst, self.gw, self.link, self.priority, self.table, self.scope, self.protocol)
        return way == (
            *(other.dst, other.gw, other.link, other.priority, other.table, other.scope, other.protocol),
        )


def accept(route: FakeRoute, existing: Iterable[FakeRoute]) -> FakeRoute:
    """The route as it will be listed. Raises Refused.

    ENODEV without a way, ENETDOWN through a link that is down, EINVAL for a destination or scope that makes
    no sense, ENETUNREACH or EHOSTUNREACH (IPv6) for a gateway out of reach, EEXIST.
    """
    existing = list(existing)
    if route.dst.family == IPV6:
        priority = route.priority or _METRIC_IPV6
        route = replace(route, dst=route.dst.network, priority=priority, scope=SCOPE_GLOBAL)
    elif route.dst.network != route.dst:
        raise Refused(errno.EINVAL, "Invalid prefix for given prefix length")
    elif route.scope == _SCOPE_NOWHERE:
        raise Refused(errno.EINVAL, "Invalid scope")
    link = route.link or (_way_to(route, existing) if route.gw is not None else None)
    if link is None:
        raise Refused(errno.ENODEV)
    if not link.up:
        raise Refused(errno.ENETDOWN, "Device for nexthop is not up")
    route = replace(route, link=link)
    if route.gw is not None:
        _check_gateway(route, route.gw, existing)
    if any(route.is_like(other) for other in existing):
        raise Refused(errno.EEXIST)
    return route


def _check_gateway(route: FakeRoute, gw: IP, existing: list[FakeRoute]) -> None:
    if gw.family == IPV4:
        if route.scope >= SCOPE_LINK or _way_to(route, existing) is None:
            raise Refused(errno.ENETUNREACH, "Nexthop has invalid gateway")
        return
    if any(other.type == _LOCAL and other.dst.contains(gw) for other in existing):
        raise Refused(errno.EINVAL, "Gateway can not be a local address")
    if not gw.is_link_local() and _way_to(route, existing) is None:
        raise Refused(errno.EHOSTUNREACH)


def _way_to(route: FakeRoute, existing: list[FakeRoute]) -> FakeLink | None:
    """The link of the network that the gateway is in, if it may be the route's."""
    for other in existing:
        near = other.gw is None and other.dst.prefix and other.type == _UNICAST
        if (
            near
            and route.gw is not None
            and other.dst.contains(route.gw)
            and route.link in (None, other.link)
        ):
            return other.link
    return None


def derived(link: FakeLink) -> Iterator[FakeRoute]:
    """What the kernel adds for a link's addresses: the networks (while it is up) and the addresses."""
    for address in link.addresses:
        if address.cidr.family == IPV4:
            yield from _derived_v4(link, address)
        elif link.up:
            yield from _derived_v6(link, address)


def _derived_v4(link: FakeLink, address: FakeAddress) -> Iterator[FakeRoute]:
    cidr = address.cidr
    source = next(one.cidr.ip for one in link.addresses if one.cidr.network == cidr.network)
    near = FakeRoute(
        cidr.network, link, scope=SCOPE_LINK, protocol=_PROTO_KERNEL, type=_UNICAST, prefsrc=source
    )
    own = replace(near, table=TABLE_LOCAL, scope=SCOPE_HOST, type=_LOCAL)
    if link.up and cidr.prefix < 32 and not link.is_secondary(address):
        yield own if link.kind == "loopback" else near
    yield replace(own, dst=CIDR(cidr.ip, 32))


def _derived_v6(link: FakeLink, address: FakeAddress) -> Iterator[FakeRoute]:
    cidr = address.cidr
    if link.kind != "loopback":
        yield FakeRoute(cidr.network, link, priority=_METRIC_CONNECTED, protocol=_PROTO_KERNEL)
    yield FakeRoute(CIDR(cidr.ip, 128), link, table=TABLE_LOCAL, protocol=_PROTO_KERNEL, type=_LOCAL)

"""The payloads by which the simulated kernel tells of its links, addresses and routes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pycni.addresses import IPV4
from pycni.kernel.codec import AF_BRIDGE, attribute, nest, text, u8, u32
from pycni.kernel.links import IFF_PROMISC, IFF_UP, OPERSTATES
from pycni.testing import numbers as n

if TYPE_CHECKING:
    from pycni.testing.links import FakeAddress, FakeLink
    from pycni.testing.routes import FakeRoute


def show_link(link: FakeLink) -> bytes:
    flags = (IFF_UP if link.up else 0) | (IFF_PROMISC if link.promisc else 0)
    parts = [
        text(n.IFNAME, link.name),
        attribute(n.ADDRESS, link.mac),
        u32(n.MTU, link.mtu),
        u32(n.TXQLEN, link.txqlen),
        u8(n.OPERSTATE, OPERSTATES.index(link.operstate)),
        u32(n.PROMISCUITY, link.promisc + (link.master is not None)),
        u32(n.GROUP, link.group),
    ]
    if link.alias:
        parts.append(text(n.IFALIAS, link.alias))
    if link.master is not None:
        parts.append(u32(n.MASTER, link.master.index))
    if link.peer is not None:
        parts.append(u32(n.LINK, link.peer.index))
        if link.peer.net is not link.net:
            parts.append(u32(n.LINK_NETNSID, link.peer.net.number))
    return n.IFINFO.pack(0, 1, link.index, flags, 0) + b"".join(parts) + _link_info(link)


def _link_info(link: FakeLink) -> bytes:
    if link.kind == "loopback":
        return b""
    parts = [text(n.INFO_KIND, link.kind)]
    if link.kind == "bridge":
        parts.append(nest(n.INFO_DATA, u8(n.BRIDGE_VLAN_FILTERING, link.vlan_filtering)))
    if link.master is not None:
        port = (
            u8(n.PORT_STATE, 3 if link.carrier and link.master.up else 0),
            u8(n.PORT_HAIRPIN, link.hairpin),
            u8(n.PORT_LEARNING, 1),
            u8(n.PORT_FLOOD, 1),
            u8(n.PORT_ISOLATED, link.isolated),
        )
        parts += [text(n.INFO_SLAVE_KIND, "bridge"), nest(n.INFO_SLAVE_DATA, *port)]
    return nest(n.LINKINFO, *parts)


def show_vlans(link: FakeLink) -> bytes:
    master = link.master or link
    infos = (
        attribute(n.VLAN_INFO, n.VLAN.pack((n.PVID if pvid else 0) | (n.UNTAGGED if untagged else 0), vlan))
        for vlan, (pvid, untagged) in sorted(link.vlans.items())
    )
    header = n.IFINFO.pack(AF_BRIDGE, 1, link.index, 0, 0)
    return header + text(n.IFNAME, link.name) + u32(n.MASTER, master.index) + nest(n.AF_SPEC, *infos)


def show_address(link: FakeLink, address: FakeAddress) -> bytes:
    cidr = address.cidr
    flags = (
        n.PERMANENT | (n.NODAD if address.nodad else 0) | (n.SECONDARY if link.is_secondary(address) else 0)
    )
    header = n.IFADDR.pack(n.NUMBER[cidr.family], cidr.prefix, flags & 0xFF, address.scope, link.index)
    own = cidr.ip.packed()
    parts = [attribute(n.ADDRESS, own), u32(n.FLAGS, flags)]
    if cidr.family == IPV4:
        parts += [attribute(n.LOCAL, own), text(n.LABEL, link.name)]
    if address.broadcast is not None:
        parts.append(attribute(n.BROADCAST, address.broadcast.packed()))
    return header + b"".join(parts)


def show_route(route: FakeRoute) -> bytes:
    family = n.NUMBER[route.dst.family]
    near = route.table if route.table <= 255 else n.TABLE_COMPAT
    header = n.RTMSG.pack(
        *(family, route.dst.prefix, 0, 0, near, route.protocol, route.scope, route.type, 0),
    )
    parts = [u32(n.TABLE, route.table)]
    if route.dst.prefix:
        parts.append(attribute(n.DST, route.dst.ip.packed()))
    for kind, ip in ((n.GATEWAY, route.gw), (n.PREFSRC, route.prefsrc)):
        if ip is not None:
            parts.append(attribute(kind, ip.packed()))
    if route.link is not None:
        parts.append(u32(n.OIF, route.link.index))
    if route.priority:
        parts.append(u32(n.PRIORITY, route.priority))
    metrics = [
        u32(kind, value) for kind, value in ((n.RTAX_MTU, route.mtu), (n.RTAX_ADVMSS, route.advmss)) if value
    ]
    return header + b"".join(parts) + (nest(n.METRICS, *metrics) if metrics else b"")
